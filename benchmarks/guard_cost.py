"""What looking for leaks, the guard's and validation data's passes, and folding cost in the ready-made job.

    python -m benchmarks.guard_cost [--out benchmarks/results]

The ready-made job on elpv, seed 31, on one thread: processor seconds and calls of each part, and of the whole job. A
pass within another part (a look at validation data is one) counts to both. And what the exact tests cost by size, and
one verdict on 200 protected of 1,000 classes. Writes guard_cost.md.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable
from typing import Any

from hydra.utils import instantiate

from benchmarks import support
from benchmarks.search.both_sides import configured
from benchmarks.search.runs import quieten, trainer
from lightning_classprune.guard import statistics
from lightning_classprune.guard.evaluator import Evaluator
from lightning_classprune.guard.evidence import Evidence
from lightning_classprune.guard.protected import Protected
from lightning_classprune.guard.tolerance import FNTolerance
from lightning_classprune.guard.verdict import verdict_on
from lightning_classprune.job import app
from lightning_classprune.rounds.handover import Handover
from lightning_classprune.rounds.run import PruningRun
from lightning_classprune.rounds.search import Search
from lightning_classprune.rounds.startup import Startup

SEED, EPOCHS = 31, 8
PARTS: dict[str, tuple[type, str]] = {
    "looking for leaks (guard whole, 2,000 samples of training and validation data at most)": (
        Startup,
        "_check_leaks",
    ),
    "limits, data and leaks before the first batch": (Startup, "_check_limits_and_data"),
    "a pass over guard or validation data": (Evaluator, "columns"),
    "validation data at the end of a round, offset chosen": (Search, "at_end"),
    "validation data without retraining, densities tried after a round": (Search, "reach"),
    "where the offset can be folded, tried by running the network": (Handover, "bias_for"),
    "the judgement at the end": (PruningRun, "close"),
}


class Timed:
    """Adds up the processor seconds of a method's calls.

    Args:
        method: As it is in its class.
    """

    def __init__(self, method: Callable[..., Any]) -> None:
        self.method = method
        self.calls, self.seconds = 0, 0.0

    def in_class(self) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            started = time.process_time()
            try:
                return self.method(*arguments, **named)
            finally:
                self.calls, self.seconds = self.calls + 1, self.seconds + time.process_time() - started

        return timed


def measure() -> tuple[dict[str, Timed], float]:
    """Every part of one job, and the job's seconds."""
    parts = {about: Timed(getattr(owner, name)) for about, (owner, name) in PARTS.items()}
    for (owner, name), part in zip(PARTS.values(), parts.values(), strict=True):
        setattr(owner, name, part.in_class())
    try:
        with tempfile.TemporaryDirectory() as folder:
            cfg, data = configured("elpv", None, SEED, folder, [f"trainer.max_epochs={EPOCHS}"])
            started = time.process_time()
            pruning = instantiate(cfg.callbacks.classprune)
            trainer(EPOCHS, pruning).fit(app.build_module(cfg), datamodule=data)
            return parts, time.process_time() - started
    finally:
        for (owner, name), part in zip(PARTS.values(), parts.values(), strict=True):
            setattr(owner, name, part.method)


SIZES = (200, 1_000, 5_000, 100_000, 1_000_000, 10_000_000)
CLASSES, PROTECTED, EACH = 1000, 200, 50


def sizes() -> list[dict[str, Any]]:
    """Seconds of a p-value that is in doubt, of one that is not, and of a bound, by the number of positives."""
    rows = []
    for n in SIZES:
        missed = found = max(3, n // 100)
        doubtful = (2 * missed) ** 0.5 / n
        rows.append(
            {"positives": f"{n:,}"}
            | {"p-value in doubt": _seconds(statistics.exact_p_value, missed, found, n, doubtful)}
            | {"p-value near 0": _seconds(statistics.exact_p_value, missed, found, n, 0.5)}
            | {"upper bound": _seconds(statistics.exact_upper, missed, found, n, 0.05)}
        )
    return rows


def _seconds(function: Any, *arguments: Any) -> str:
    function.cache_clear()
    started = time.process_time()
    result = function(*arguments)
    taken = time.process_time() - started
    return "none is given" if result is None else f"{taken:.3f}"


def many_classes(rise: float) -> float:
    """Seconds of one verdict on 200 of 1,000 classes of 50 guard samples each, all with other counts.

    Args:
        rise: Allowed, of the false-alarm rate; a small one leaves the tests in doubt.
    """
    rng = random.Random(SEED)
    others = EACH * (CLASSES - 1)
    protected, pairs = [], {}
    for index in range(PROTECTED):
        name = str(index)
        protected.append(Protected(index, name, FNTolerance(rate=0.1), rise))
        misses = Evidence(EACH, 12, rng.randint(0, 5), rng.randint(0, 5))
        alarms = Evidence(others, 500, rng.randint(100, 300), rng.randint(100, 300))
        pairs[name] = misses, alarms
    for cached in (statistics.exact_p_value, statistics.exact_upper, statistics.positives_needed):
        cached.cache_clear()
    started = time.process_time()
    verdict_on(pairs, tuple(protected), 0.05)
    return time.process_time() - started


def main() -> None:
    given = support.command_line(__doc__).parse_args()
    support.one_thread()
    quieten()
    parts, whole = measure()
    rows = [
        {"part": about, "calls": one.calls, "seconds": f"{one.seconds:.2f}"}
        | {"seconds a call": f"{one.seconds / max(one.calls, 1):.3f}"}
        for about, one in parts.items()
    ]
    many = {rise: many_classes(rise) for rise in (0.1, 0.001)}
    text = [
        "# What the guard costs beside training",
        "",
        "`python -m benchmarks.guard_cost --help` explains how this was made. elpv, 64 x 64, 159,954 parameters, one",
        f"thread {support.named(support.versions())}; the whole job, {EPOCHS} dense epochs first: {whole:.1f} s.",
        "",
        support.markdown(rows),
        "",
        "## The exact tests by size",
        "",
        "Seconds of one processor; a hundredth of the positives newly missed and as many newly found.",
        "",
        support.markdown(sizes()),
        "",
        f"One verdict on {PROTECTED} protected of {CLASSES:,} classes with {EACH} guard samples each, misses and false "
        "alarms, all",
        f"counts different: {many[0.1]:.1f} s where the false-alarm rate may rise by .1, {many[0.001]:.1f} s where it",
        "may by .001, which leaves the tests in doubt.",
    ]
    support.write(given.out / "guard_cost.md", text)
    print("\n".join(text))


if __name__ == "__main__":
    main()
