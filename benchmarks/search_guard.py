"""The guard's false-accept rate under the adaptive schedule, replayed as benchmarks/guard_replay.py does.

    python benchmarks/search_guard.py run --data elpv --runs RUNS [--seeds 4 5 6 7 8]
    python benchmarks/search_guard.py run --data derma --root FOLDER --runs RUNS
    python benchmarks/search_guard.py report --runs RUNS

The arm "adaptive, lr" of benchmarks/search.py with one change: what the guard says is not heeded, so that a run goes
through all candidates that validation data choose. What they miss of the positives of guard and test part together is
the truth; guard sets are redrawn from these. `report` writes benchmarks/results/search_guard.md.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from guard_replay import exact_rule, point_rule, replay, shifted, truth
from hydra.utils import instantiate
from lightning.pytorch import Callback, seed_everything
from paper_files import Job, markdown, read_jobs
from paper_rounds import ScoresAfterVerdicts
from paper_tables import clustered, missed_of_pool
from search import ARMS, DATA, EPOCHS, RESULTS, TOLERANCE, composed, quieten, trainer

from lightning_classprune import ClassAwarePruningCallback, app, files
from lightning_classprune.data import SplitDataModule
from lightning_classprune.guard import Verdict
from lightning_classprune.judge import Judge
from lightning_classprune.outcomes import Outcomes

ARM = "adaptive, lr"
GUARD_SIZES = (76, 200, 600)
DRAWS = 10_000


class UnheededJudge(Judge):
    """Judges as ever; the run goes on as if every candidate had been accepted."""

    def verdict(self, outcomes: Outcomes | None) -> Verdict:
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
    cfg = composed(data, root, None, None, seed)
    made: SplitDataModule = instantiate(cfg.data)
    made.setup("fit")
    cfg.facts = app.facts(made, cfg.protect)
    seed_everything(seed, workers=True, verbose=False)
    pruning = instantiate(cfg.callbacks.classprune, target_sparsity=0.99, ladder=None, **ARMS[ARM])
    scores = ScoresAfterVerdicts(pruning, made, ("guard", "test"), cfg.facts.protected[0])
    trainer(EPOCHS, scores, pruning, Unheeded(pruning)).fit(app.build_module(cfg), datamodule=made)
    judged = np.array([row["verdict"] != "abandoned" for row in pruning.ledger])
    arrays = {
        name: part if name.endswith("_target") else part[judged] for name, part in scores.arrays().items()
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial.npz")
    np.savez_compressed(partial, about=np.array(json.dumps({"arm": ARM, "seed": seed})), **arrays)
    os.replace(partial, file)
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["run", "report"])
    parser.add_argument("--data", choices=list(DATA), default="elpv")
    parser.add_argument("--root", help="folder of the archive skin_dermamnist_28.npz")
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[4, 5, 6, 7, 8])
    given = parser.parse_args()
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
