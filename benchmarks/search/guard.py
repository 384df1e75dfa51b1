"""The guard's false-accept rate under the adaptive schedule, replayed as `guard_replay` does.

    python -m benchmarks.search.guard run --data elpv --runs RUNS [--seeds 4 5 6 7 8]
    python -m benchmarks.search.guard run --data derma --root FOLDER --runs RUNS
    python -m benchmarks.search.guard report --runs RUNS [--out benchmarks/results]

The arm "adaptive, lr" of `benchmarks.search` with one change: what the guard says is not heeded, so that a run goes
through all candidates that validation data choose. What they miss of the positives of guard and test part together is
the truth; guard sets are redrawn from these. `report` writes search_guard.md.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback

from benchmarks.guard_replay import (
    clustered,
    exact_rule,
    harmful,
    point_rule,
    replay_each,
    truth,
    worlds,
)
from benchmarks.paper.files import Job, read_jobs, write_job
from benchmarks.paper.rounds import ScoresAfterVerdicts
from benchmarks.search.arms import EPOCHS, UNFORGIVING
from benchmarks.search.runs import TOLERANCE, command_line, prepared, pruning_with, quieten, trainer
from benchmarks.support import markdown, one_thread, write
from lightning_classprune import ClassAwarePruningCallback
from lightning_classprune.guard.judge import Judge
from lightning_classprune.guard.task import Outcomes
from lightning_classprune.guard.verdict import Verdict
from lightning_classprune.job import app

ARM = "adaptive, lr"
GUARD_SIZES = (76, 200, 600)
DRAWS = 10_000


class UnheededJudge(Judge):
    """Judges as ever; the run goes on as if every candidate had been accepted."""

    def verdict(self, outcomes: Outcomes | None) -> Verdict:
        budget = self.budget
        told = super().verdict(outcomes)
        self.budget, self.accepted = budget.spend(accepted=True), outcomes
        return replace(told, outcome="accepted")


class Unheeded(Callback):
    """Puts that judge into the run of a callback that stands before it."""

    def __init__(self, pruning: ClassAwarePruningCallback) -> None:
        self.pruning = pruning

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        run = self.pruning._run
        assert run is not None
        run.judge = UnheededJudge(**vars(run.judge))


def run_seed(data: str, root: str | None, seed: int, file: Path) -> None:
    """Go through the candidates of one seed and keep what their networks decide."""
    cfg, made = prepared(data, root, None, seed)
    pruning = pruning_with(UNFORGIVING, cfg)
    scores = ScoresAfterVerdicts(pruning, made, ("guard", "test"), cfg.facts.protected[0])
    trainer(EPOCHS, scores, pruning, Unheeded(pruning)).fit(app.build_module(cfg), datamodule=made)
    judged = np.array([row["verdict"] != "abandoned" for row in pruning.ledger])
    arrays = {
        name: part if name.endswith("_target") else part[judged] for name, part in scores.arrays().items()
    }
    write_job(file, {"arm": ARM, "seed": seed}, arrays)
    print(f"{data} seed {seed}: densities {np.round(arrays['density'], 4).tolist()}", flush=True)


def rows(data: str, jobs: list[Job]) -> list[dict[str, Any]]:
    """One row a truth, guard size and rule: means over seeds, intervals over seeds."""
    chains = [job.missed("guard", "test") for job in jobs]
    made = []
    for world, networks in worlds(chains, TOLERANCE).items():
        for n in GUARD_SIZES:
            for rule, accepts in (("exact", exact_rule), ("point", point_rule)):
                found = replay_each(networks, n, TOLERANCE, accepts, 0, DRAWS)
                rate = np.array([one.violates for one in found])
                low, high = clustered(rate)
                made.append(
                    {"data": data, "truth": world, "positives": n, "rule": rule, "seeds": len(found)}
                    | {"pool": chains[0].shape[1], "harmful candidates": harmful(networks, TOLERANCE)}
                    | {"false accepts": f"{rate.mean():.3f} [{low:.3f}, {high:.3f}]"}
                    | {"largest": float(rate.max())}
                    | {"candidates accepted": float(np.mean([one.delivered for one in found]))}
                )
    return made


def report(runs: Path, out: Path) -> None:
    """Write the table of all seeds that there are."""
    jobs = read_jobs(runs)
    text = [
        "# The guard under the adaptive schedule",
        "",
        f"Arm '{ARM}', tolerance {TOLERANCE}, level .05; {DRAWS:,} guard sets a seed, drawn with replacement;",
        "95% intervals from a bootstrap over seeds. `python -m benchmarks.search.guard --help` explains the rest.",
        "",
    ]
    for data in dict.fromkeys(job.data for job in jobs):
        mine = [job for job in jobs if job.data == data]
        text += [markdown(rows(data, mine)), ""]
        text += [
            f"- {data}, seed {job.seed}: density in %, true rise: "
            + ", ".join(
                f"{100 * density:.3g} {rise:+.3f}"
                for density, rise in zip(
                    job.arrays["density"], truth(job.missed("guard", "test")), strict=True
                )
            )
            for job in mine
        ] + [""]
    write(out / "search_guard.md", text[:-1])


def main() -> None:
    given = command_line(__doc__).parse_args()
    one_thread()
    quieten()
    if given.what == "report":
        report(given.runs, given.out)
        return
    for seed in given.seeds:
        file = given.runs / given.data / ARM / f"seed={seed}.npz"
        if not file.exists():
            run_seed(given.data, given.root, seed, file)


if __name__ == "__main__":
    main()
