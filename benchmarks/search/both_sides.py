"""What the ready-made job delivers, judged on both sides: how often anything, how sparse, at what price on test data.

    python -m benchmarks.search.both_sides run --data elpv --runs RUNS [--seeds 41 42 ...] [--arms ...]
    python -m benchmarks.search.both_sides run --data derma --root FOLDER --runs RUNS
    python -m benchmarks.search.both_sides run --data cracks --root FOLDER --runs RUNS
    python -m benchmarks.search.both_sides report --runs RUNS [--out benchmarks/results]

Each arm is the ready-made job with other words on its command line (`ARMS`); data, network, loss and dense epochs are
the job's own. Four arms are controls that nobody judges and that get no offset: "by hand" prunes the dense network of
the job with the same seed once, to the job's target by global magnitude, and retrains it with a fresh schedule;
"ModelPruning" lets Lightning's callback prune it little by little along the cubic of Zhu & Gupta; "AC/DC" trains a new
network sparse and dense by turns; "dense as long" prunes nothing. Each takes as many epochs as the job with its seed
took in all. A run leaves one JSON and is skipped where that exists. `report` writes search_both_sides.md.

All numbers are of the test split, which nothing else reads; every network is compared with the dense network of its
own run. Seeds 1 to 8, 11 to 21, 31 to 34 and 101 to 104 were looked at while the package was made; 41 to 60 were not,
but for 41 to 45 of cracks.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from lightning.pytorch import seed_everything
from omegaconf import DictConfig
from scipy import stats
from torch import nn

from benchmarks import support
from benchmarks.search import controls
from benchmarks.search.arms import DATA
from benchmarks.search.runs import (
    answer,
    command_line,
    cost,
    file_of,
    on_test,
    run_missing,
    trainer,
)
from benchmarks.support import markdown, read_runs, write
from lightning_classprune import ClassAwarePruningCallback, DecisionOffset, load_ticket
from lightning_classprune.job import app
from lightning_classprune.job.data.base import SplitDataModule
from lightning_classprune.job.measures import exact_interval

GUARD = "callbacks.classprune.guard"
NOW, BY_HAND, LIGHTNING, BY_TURNS, LONG = "now", "by hand", "ModelPruning", "AC/DC", "dense as long"
CONTROLS = (BY_HAND, LIGHTNING, BY_TURNS, LONG)
ARMS: dict[str, tuple[str, tuple[str, ...]]] = {
    NOW: (
        "the ready-made job: a gradual search, offset from validation data, both sides guarded, judged once at the end",
        (),
    ),
    BY_HAND: ("one-shot global magnitude to the job's target, as many epochs in all, nothing judged", ()),
    LIGHTNING: (
        "Lightning's ModelPruning along a cubic to the job's target, as many epochs in all, nothing judged",
        (),
    ),
    BY_TURNS: (
        "AC/DC to the job's target: sparse and dense by turns, from the start, as many epochs in all, nothing judged",
        (),
    ),
    LONG: ("the dense network for as many epochs in all", ()),
    "magnitude": ("as now, by magnitude", ("callbacks.classprune.cut.criterion=magnitude",)),
    "soft targets": (
        "as now, but in pruned rounds half of the loss is the divergence from the dense network's probabilities at "
        "temperature 2",
        (
            "loss._target_=benchmarks.paper.arms.SoftTargetLoss",
            "+callbacks.teacher._target_=benchmarks.paper.arms.DenseTeacher",
        ),
    ),
    "adaptive": ("the adaptive search, the job's default before", ("search=adaptive",)),
    "lr rewinding": (
        "half of the weights a round, learning-rate rewinding (Renda et al.)",
        ("search=fixed", "search.fraction=0.5", "search.rewind=lr"),
    ),
    "lottery ticket": (
        "a fifth of the weights a round, rewound to the start (Frankle & Carbin)",
        ("search=fixed", "search.fraction=0.2"),
    ),
    "before": (
        "the job of before: misses alone, no offset, judged each round, one retry (half of the error level each)",
        (
            f"{GUARD}.judging=round",
            f"{GUARD}.offset=none",
            f"{GUARD}.max_fp_rise=null",
            "search=adaptive",
            "search.on_refusal=retry",
            "search.retries=1",
        ),
    ),
    "no offset": ("as now, but judged at the dense network's threshold", (f"{GUARD}.offset=none",)),
    "each round": ("as now, but judged each round, to the first refusal", (f"{GUARD}.judging=round",)),
}
SEEDS = tuple(range(41, 51))
ALLOWED = 0.10  # rise of the false-alarm rate


def configured(
    data: str, root: str | None, seed: int, ladder: str, words: Sequence[str]
) -> tuple[DictConfig, SplitDataModule]:
    """The job's configuration with the data's facts, and the data; all is seeded."""
    overrides = [*DATA[data], f"run_dir={ladder}", f"seed={seed}", "callbacks=[classprune]", *words]
    overrides += [f"data.root={root}"] if data != "elpv" else []
    cfg = support.job_config(overrides)
    seed_everything(seed, workers=True, verbose=False)
    return cfg, app.describe(cfg)


def run_arm(arm: str, data: str, root: str | None, seed: int, runs: Path) -> dict[str, Any]:
    """Train, prune and test one arm with one seed."""
    with tempfile.TemporaryDirectory() as folder:
        cfg, made = configured(data, root, seed, folder, ARMS[arm][1])
        protected, started = cfg.facts.protected[0], time.process_time()
        module, dense = app.build_module(cfg), app.build_module(cfg)
        rows: Sequence[Mapping[str, Any]] = []
        offsets: dict[str, float] = {}
        epochs = dense_epochs = cfg.trainer.max_epochs
        target = cfg.callbacks.classprune.target_sparsity
        if arm in CONTROLS:
            of_job = json.loads(file_of(runs, data, NOW, seed).read_text())
            dense.load_state_dict(torch.load(dense_of(runs, data, seed)))
            epochs = of_job["all_epochs"]
            if arm == LONG:
                trainer(epochs).fit(module, datamodule=made)
            elif arm == BY_TURNS:
                controls.alternately(module, made, target, epochs)
            else:
                module.load_state_dict(dense.state_dict())
                prune_by = controls.by_hand if arm == BY_HAND else controls.little_by_little
                prune_by(module, made, target, max(epochs - dense_epochs, 2))
        else:
            callbacks = instantiate(cfg.callbacks)
            trainer(cfg.trainer.max_epochs, *callbacks.values()).fit(module, datamodule=made)
            pruning: ClassAwarePruningCallback = callbacks.classprune
            rows, offsets = pruning.ledger, pruning.offsets
            load_ticket(Path(folder) / "tickets" / "round=00.safetensors", dense)
        seconds = time.process_time() - started
        if arm == NOW:
            torch.save(dense.state_dict(), dense_of(runs, data, seed))
        names = list(cfg.facts.class_names)
        result = {"arm": arm, "data": data, "seed": seed, "rows": rows, "all_seconds": round(seconds, 1)}
        result |= cost(rows, epochs, seconds)
        if arm in CONTROLS:
            result["density"] = 1.0 if arm == LONG else 1 - target
        result["test"] = on_test(WithOffset(module, offsets, names), made, protected)
        result["dense"] = on_test(dense, made, protected)
    return result


class WithOffset(nn.Sequential):
    """A network, and behind it what of the decision offset it does not contain."""

    def __init__(self, module: nn.Module, offsets: Mapping[str, float], names: Sequence[str]) -> None:
        super().__init__(module, DecisionOffset(offsets, names))


def dense_of(runs: Path, data: str, seed: int) -> Path:
    return runs / data / f"dense-{seed}.pt"


def run_all(data: str, root: str | None, seeds: Sequence[int], arms: Sequence[str], runs: Path) -> None:
    run_missing(
        data,
        runs,
        ((arm, seed) for arm in arms for seed in seeds),  # controls follow "now"
        lambda arm, seed: run_arm(arm, data, root, seed, runs),
        summed_up,
    )


def summed_up(result: Mapping[str, Any]) -> str:
    before, now = result["dense"], result["test"]
    return (
        f"density {result['density']:.4f}, {result['all_epochs']} epochs, {result['all_seconds']:.0f} s; "
        f"FN {before['fn']} -> {now['fn']}, FP {before['fp']} -> {now['fp']}, "
        f"AUC {before['auc']:.3f} -> {now['auc']:.3f}; {trace(result['rows'])}"
    )


# -- the report --


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean, and Student's interval of it; without width for one value."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, mean, mean
    half = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1))
    half *= statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def told(values: Sequence[float]) -> str:
    """A mean difference as `+.012 [-.003, +.027]`."""
    return "-" if not values else "{:+.3f} [{:+.3f}, {:+.3f}]".format(*mean_interval(values))


def rises(result: Mapping[str, Any]) -> dict[str, float]:
    """Rise of the error rates over the dense network of the run, on test data, and of the AUC."""
    now, before = result["test"], result["dense"]
    return {
        "FN": (now["fn"] - before["fn"]) / now["positives"],
        "FP": (now["fp"] - before["fp"]) / now["negatives"],
        "AUC": now["auc"] - before["auc"],
        "FN at 5% FPR": (now["fn_at_fpr"] - before["fn_at_fpr"]) / now["positives"],
    }


def trace(rows: Sequence[Mapping[str, Any]]) -> str:
    """Attempts, as density in % and verdict."""
    signs = {"baseline": "", "accepted": "+", "refused": "-", "unproven": "?", "abandoned": "x", "kept": "k"}
    return " ".join(f"{100 * (1 - r['sparsity']):.2g}{signs[r['verdict']]}" for r in rows[1:])


def line(
    arm: str, results: Sequence[Mapping[str, Any]], hand: Mapping[int, float], long: Mapping[int, float]
) -> dict[str, Any]:
    """One arm's row of the table; differences are of the seeds in which something pruned was delivered."""
    delivered = [r for r in results if r["density"] < 1 or arm == LONG]
    low, high = exact_interval(len(delivered), len(results))
    differences = [rises(r) for r in delivered]
    densities = [100 * r["density"] for r in delivered]
    beyond = sum(one["FP"] > ALLOWED for one in differences)
    both, as_long = (
        [r["test"]["auc"] - control[r["seed"]] for r in delivered if r["seed"] in control]
        for control in (hand, long)
    )
    return {
        "arm": arm,
        "delivered": f"{len(delivered)} of {len(results)} [{low:.2f}, {high:.2f}]",
        "density in %": f"{statistics.median(densities):.3g} [{min(densities):.3g}, {max(densities):.3g}]"
        if densities
        else "-",
        **{name: told([one[name] for one in differences]) for name in ("FN", "FP", "AUC", "FN at 5% FPR")},
        f"FP beyond {ALLOWED:.2f}": f"{beyond} of {len(delivered)}",
        "AUC against by hand": "-" if arm == BY_HAND else told(both),
        "AUC against dense as long": "-" if arm == LONG else told(as_long),
        "epochs": f"{statistics.fmean(r['all_epochs'] for r in results):.1f}",
        "seconds": f"{statistics.fmean(r['all_seconds'] for r in results):.0f}",
    }


def table(data: str, results: Sequence[Mapping[str, Any]]) -> list[str]:
    """What there is of one data set."""
    now = {r["seed"]: r for r in results if r["arm"] == NOW}
    first = next(iter(results))
    hand, long = (
        {r["seed"]: r["test"]["auc"] for r in results if r["arm"] == arm} for arm in (BY_HAND, LONG)
    )
    rows = [line(arm, mine, hand, long) for arm in ARMS if (mine := [r for r in results if r["arm"] == arm])]
    dense = [r["dense"] for r in now.values()]
    means = {key: statistics.fmean(one[key] for one in dense) for key in ("fn", "fp", "auc", "fn_at_fpr")}
    text = [
        f"## {data}",
        "",
        f"{first['test']['positives']} positives and {first['test']['negatives']} negatives in test. Dense, mean of "
        f"{len(dense)} seeds: FN {means['fn']:.1f}, FP {means['fp']:.1f}, AUC {means['auc']:.3f}, FN at 5% FPR "
        f"{means['fn_at_fpr']:.1f}.",
        "",
        markdown(rows),
        "",
    ]
    for arm in ARMS:
        for r in sorted((r for r in results if r["arm"] == arm), key=lambda r: r["seed"]):
            before, after = r["dense"], r["test"]
            text.append(
                f"- {arm}, seed {r['seed']}: {trace(r['rows']) or 'unjudged'}; delivered {100 * r['density']:.3g}%: "
                f"FN {before['fn']} -> {after['fn']}, FP {before['fp']} -> {after['fp']}, AUC {before['auc']:.3f} -> "
                f"{after['auc']:.3f}"
            )
    return [*text, ""]


def report(runs: Path, out: Path) -> None:
    """Write search_both_sides.md of all runs that there are."""
    results = read_runs(runs)
    text = [
        "# What the ready-made job delivers, judged on both sides",
        "",
        "`python -m benchmarks.search.both_sides --help` explains how this was made. Test split. FN and FP: rise of",
        "the rate over the dense network of the same run; all four differences: mean over the seeds in which something",
        "pruned was delivered, with Student's 95% interval over seeds. Delivered: with the exact 95% interval.",
        "Density: median [lowest, highest] where delivered. AUC against a control: paired, over the same seeds,",
        "whatever the density. Epochs and processor seconds: of the whole job; by hand and ModelPruning without the",
        "seconds of the dense training. AC/DC and dense as long train a network of their own, whole.",
        "",
        "Attempts below: density in % and verdict (+ accepted, - refused, ? unproven, x abandoned, k kept, not",
        "judged).",
        "",
    ]
    for data in DATA:
        if mine := [r for r in results if r["data"] == data]:
            text += table(data, mine)
    text += ["## Arms", "", *(f"- **{arm}**: {about}" for arm, (about, _) in ARMS.items())]
    write(out / "search_both_sides.md", text)


def parser() -> argparse.ArgumentParser:
    made = command_line(__doc__)
    made.set_defaults(seeds=list(SEEDS))
    made.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    return made


def main() -> None:
    answer(parser().parse_args(), run_all, report)


if __name__ == "__main__":
    main()
