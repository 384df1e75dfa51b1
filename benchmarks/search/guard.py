"""The guard's false-accept rate under the adaptive schedule, replayed as benchmarks/guard_replay.py does.

    python benchmarks/search_guard.py run --data elpv --runs RUNS [--seeds 4 5 6 7 8]
    python benchmarks/search_guard.py run --data derma --root FOLDER --runs RUNS
    python benchmarks/search_guard.py report --runs RUNS

The arm "adaptive, lr" of benchmarks/search.py with one change: what the guard says is not heeded, so that a run goes
through all candidates that validation data choose. What they miss of the positives of guard and test part together is
the truth; guard sets are redrawn from these. `report` writes benchmarks/results/search_guard.md.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.guard_replay import exact_rule, point_rule, replay, shifted, truth
from lightning.pytorch import Callback
from benchmarks.paper.files import Job, markdown, read_jobs, write_job
from benchmarks.paper.rounds import ScoresAfterVerdicts
from benchmarks.paper.tables import clustered, missed_of_pool
from search import EPOCHS, RESULTS, TOLERANCE, command_line, prepared, pruning_for, quieten, trainer

from lightning_classprune import ClassAwarePruningCallback, files
from lightning_classprune.guard.judge import Judge
from lightning_classprune.guard.outcomes import Decisions
from lightning_classprune.guard.verdict import Verdict
from lightning_classprune.job import app

ARM = "adaptive, lr"
GUARD_SIZES = (76, 200, 600)
DRAWS = 10_000


class UnheededJudge(Judge):
    """Judges as ever; the run goes on as if every candidate had been accepted."""

    def verdict(self, outcomes: Decisions | None) -> Verdict:
        budget = self.budget
        told = super().verdict(outcomes)
        self.budget, self.accepted = budget, outcomes
        return replace(told, outcome="accepted")


class Unheeded(Callback):
    """Puts that judge into the run of a callback that stands before it."""

    def __init__(self, pruning: ClassAwarePruningCallback) -> None:
        self.pruning = pruning

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        run = self.pruning._run
        assert run is not None
        assert run.search is not None
        run.judge = run.search.judge = UnheededJudge(**vars(run.judge))


def run_seed(data: str, root: str | None, seed: int, file: Path) -> None:
    """Go through the candidates of one seed and keep what their networks decide."""
    cfg, made = prepared(data, root, None, seed)
    pruning = pruning_for(ARM, cfg)
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
    chains = [missed_of_pool(job) for job in jobs]
    edges = [shifted(chain, TOLERANCE, np.random.default_rng(2)) for chain in chains]
    made = []
    for world, networks in (("measured", chains), ("at the tolerance", edges)):
        for n in GUARD_SIZES:
            for rule, accepts in (("exact", exact_rule), ("point", point_rule)):
                found = [
                    replay([chain], n, TOLERANCE, accepts, 0, DRAWS, np.random.default_rng([3, k]))
                    for k, chain in enumerate(networks)
                ]
                rate = np.array([one.violates for one in found])
                low, high = clustered(rate)
                harmful = np.mean([(truth(chain)[1:] >= TOLERANCE - 1e-12).mean() for chain in networks])
                made.append(
                    {"data": data, "truth": world, "positives": n, "rule": rule, "seeds": len(found)}
                    | {"pool": chains[0].shape[1], "harmful candidates": float(harmful)}
                    | {
                        "false accepts": f"{rate.mean():.3f} [{low:.3f}, {high:.3f}]",
                        "largest": float(rate.max()),
                    }
                    | {"candidates accepted": float(np.mean([one.delivered for one in found]))}
                )
    return made


def report(runs: Path) -> None:
    """Write the table of all seeds that there are."""
    jobs = read_jobs(runs)
    text = ["# The guard under the adaptive schedule", ""]
    text += [
        f"Arm '{ARM}', tolerance {TOLERANCE}, level .05; {DRAWS:,} guard sets a seed, drawn with replacement;"
    ]
    text += [
        "95% intervals from a bootstrap over seeds. `python benchmarks/search_guard.py` explains the rest.",
        "",
    ]
    for data in dict.fromkeys(job.data for job in jobs):
        mine = [job for job in jobs if job.data == data]
        text += [markdown(rows(data, mine)), ""]
        text += [
            f"- {data}, seed {job.seed}: density in %, true rise: "
            + ", ".join(
                f"{100 * density:.3g} {rise:+.3f}"
                for density, rise in zip(job.arrays["density"], truth(missed_of_pool(job)), strict=True)
            )
            for job in mine
        ] + [""]
    files.write_text(RESULTS / "search_guard.md", "\n".join(text))


def main() -> None:
    given = command_line(__doc__).parse_args()
    torch.set_num_threads(1)
    quieten()
    if given.what == "report":
        report(given.runs)
        return
    for seed in given.seeds:
        file = given.runs / given.data / ARM / f"seed={seed}.npz"
        if not file.exists():
            run_seed(given.data, given.root, seed, file)


if __name__ == "__main__":
    main()
