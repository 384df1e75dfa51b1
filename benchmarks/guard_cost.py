"""What looking for leaks, the guard's and validation data's passes, and folding cost in the ready-made job.

    python -m benchmarks.guard_cost [--out benchmarks/results]

The ready-made job on elpv, seed 31, on one thread: processor seconds and calls of each part, and of the whole job. A
pass within another part (a look at validation data is one) counts to both. Writes guard_cost.md.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from typing import Any

from hydra.utils import instantiate

from benchmarks import support
from benchmarks.search.both_sides import configured
from benchmarks.search.runs import quieten, trainer
from lightning_classprune.guard.evaluator import Evaluator
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
    text = [
        "# What the guard costs beside training",
        "",
        "`python -m benchmarks.guard_cost --help` explains how this was made. elpv, 64 x 64, 159,954 parameters, one",
        f"thread {support.named(support.versions())}; the whole job, {EPOCHS} dense epochs first: {whole:.1f} s.",
        "",
        support.markdown(rows),
    ]
    support.write(given.out / "guard_cost.md", text)
    print("\n".join(text))


if __name__ == "__main__":
    main()
