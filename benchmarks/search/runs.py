"""How soon a search finds how sparse a network the guard accepts: schedules side by side, seed by seed.

    python benchmarks/search.py run --data elpv --runs RUNS [--seeds 4 5 6 7 8] [--arms ...]
    python benchmarks/search.py run --data derma --root FOLDER --runs RUNS
    python benchmarks/search.py report --runs RUNS

Every arm has the same data, guard, tolerance (.05), confidence (.95) and target (1% density, or 2% by its name). A run
leaves one JSON `RUNS/<data>/<arm>-<seed>.json` and is skipped where that exists. `report` writes
benchmarks/results/search.md and .png.

All numbers of the delivered network are of the test split, which nothing else reads. "Epochs" are all epochs of the job
up to the end of the delivered round, the dense round and abandoned rounds included; what is trained after that to
be refused is in "all epochs". Seeds 1 to 3 and 101 to 104 were looked at while the schedule was made. Seconds are
processor time of one thread, shared out among the rounds by their wall time, so that what else the machine does
hardly shows.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Checkpoint, ModelPruning
from matplotlib.figure import Figure
from omegaconf import DictConfig
from torch import nn
from torchmetrics.functional.classification import binary_auroc

from lightning_classprune import files
from lightning_classprune.guard.outcomes import Decisions, evidence
from lightning_classprune.guard.tolerance import FNTolerance
from lightning_classprune.guard.verdict import judge
from lightning_classprune.job import app
from lightning_classprune.job.classifier import decide
from lightning_classprune.job.data.base import SplitDataModule
from lightning_classprune.ledger.rows import delivered_row

RESULTS = Path(__file__).parent / "results"
DATA = {
    "elpv": ("data=elpv",),
    "derma": (
        "data=npz",
        "data.name=skin_dermamnist_28",
        "data.one_vs_rest=mel",
        "protect={mel: 0.05}",
    ),
}
EPOCHS = 8  # of the dense round
SHORT = EPOCHS // 2
TOLERANCE, CONFIDENCE = 0.05, 0.95  # those of the ready-made job
FPR = 0.05

# Callback settings of each arm; "_" marks what is not the callback's.
ARMS: dict[str, dict[str, Any]] = {
    "dense": {"_pruned": False},
    "fixed 20%, init": {"rewind": "init", "prune_fraction": 0.2},
    "fixed 50%, init": {"rewind": "init", "prune_fraction": 0.5},
    "fixed 50%, lr": {"rewind": "lr", "prune_fraction": 0.5},
    "fixed 75%, lr": {"rewind": "lr", "prune_fraction": 0.75},
    "one-shot 98%, lr": {"rewind": "lr", "prune_fraction": 0.98, "max_rounds": 1},
    "gradual to 2%": {"_gradual": 0.98},
    "adaptive, lr": {"schedule": "adaptive", "rewind": "lr", "round_epochs": SHORT},
    "adaptive, lr, one retry": {
        "schedule": "adaptive",
        "rewind": "lr",
        "round_epochs": SHORT,
        "on_refusal": "retry",
        "retries": 1,
        "max_rounds": 5,
    },
    "adaptive, init": {"schedule": "adaptive", "rewind": "init"},
    "adaptive, lr, class-blind": {
        "schedule": "adaptive",
        "rewind": "lr",
        "round_epochs": SHORT,
        "_loss": "cross_entropy",
    },
    "dense, as long as adaptive, lr": {"_pruned": False, "_epochs_of": "adaptive, lr"},
    "dense, half as long": {"_pruned": False, "_epochs": EPOCHS // 2},
}
EXPLAINED = {
    "dense": "round 0 alone",
    "fixed 20%, init": "a fifth a round, weights rewound to the start (Frankle & Carbin)",
    "fixed 50%, init": "a half a round, rewound to the start (Entezari & Saukh)",
    "fixed 50%, lr": "a half a round, learning-rate rewinding (Renda et al.)",
    "fixed 75%, lr": "three quarters a round, learning-rate rewinding",
    "one-shot 98%, lr": "one step to 2%, learning-rate rewinding, one test",
    "gradual to 2%": f"after the dense training {EPOCHS} epochs at a constant rate of 5e-4 in which Lightning's "
    "ModelPruning follows the cubic of Zhu & Gupta, the last two without pruning; one test",
    "adaptive, lr": f"steps by validation data, learning-rate rewinding, rounds of {SHORT} epochs",
    "adaptive, lr, one retry": "the same with one retry at half of the error level, in at most five rounds",
    "adaptive, init": f"steps by validation data, rewound to the start, rounds of {EPOCHS} epochs",
    "adaptive, lr, class-blind": "control: the same with plain cross-entropy",
    "dense, as long as adaptive, lr": "control: one dense training of as many epochs as 'adaptive, lr' took",
    "dense, half as long": "for the question whether round 0 may be cut short",
}


def quieten() -> None:
    """Keep warnings and the lines of single rounds off the screen."""
    app.quieten()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning_utilities.core.rank_zero").setLevel(logging.ERROR)


def composed(data: str, root: str | None, loss: str | None, scheduler: str | None, seed: int) -> DictConfig:
    overrides = [*DATA[data], "search=fixed", "run_dir=.", f"seed={seed}", "callbacks=[classprune]"]
    overrides += [f"data.root={root}"] if data == "derma" else []
    overrides += [f"loss={loss}"] if loss else []
    overrides += [f"scheduler={scheduler}", "optimizer.lr=5e-4"] if scheduler else []
    with initialize_config_dir(str(app.conf_dir()), version_base="1.3"):
        return compose("config", overrides)


def trainer(epochs: int, *callbacks: Any) -> Trainer:
    return Trainer(
        max_epochs=epochs,
        callbacks=list(callbacks),
        accelerator="cpu",
        logger=False,
        enable_checkpointing=any(isinstance(c, Checkpoint) for c in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def prepared(data: str, root: str | None, loss: str | None, seed: int) -> tuple[DictConfig, SplitDataModule]:
    """The configuration with the data's facts, and the data; all is seeded."""
    cfg = composed(data, root, loss, None, seed)
    made: SplitDataModule = instantiate(cfg.data)
    made.setup("fit")
    cfg.facts = app.facts(made, cfg.protect)
    seed_everything(seed, workers=True, verbose=False)
    return cfg, made


def pruning_for(arm: str, cfg: DictConfig) -> Any:
    """The callback of an arm."""
    options = {k: v for k, v in ARMS[arm].items() if not k.startswith("_")}
    return instantiate(cfg.callbacks.classprune, target_sparsity=0.99, ladder=None, **options)


def run_arm(arm: str, data: str, root: str | None, seed: int, runs: Path) -> dict[str, Any]:
    """Train, prune and test one arm with one seed."""
    settings = ARMS[arm]
    cfg, made = prepared(data, root, settings.get("_loss"), seed)
    epochs = settings.get("_epochs", EPOCHS)
    if "_epochs_of" in settings:
        epochs = json.loads(file_of(runs, data, settings["_epochs_of"], seed).read_text())["epochs"]
    module, started = app.build_module(cfg), time.process_time()
    rows: list[dict[str, Any]] = []
    if "_gradual" in settings:
        fine = composed(data, root, None, "none", seed)
        fine.facts = cfg.facts
        module, rows = gradual(module, app.build_module(fine), made, settings["_gradual"], cfg.facts)
    elif settings.get("_pruned", True):
        callback = pruning_for(arm, cfg)
        trainer(epochs, callback).fit(module, datamodule=made)
        rows = callback.ledger
    else:
        trainer(epochs).fit(module, datamodule=made)
    seconds = time.process_time() - started
    result = {"arm": arm, "data": data, "seed": seed, "rows": rows, "all_seconds": round(seconds, 1)}
    result |= cost(rows, epochs, seconds) | on_test(module, made, cfg.facts.protected[0])
    result["parameters"] = sum(p.numel() for p in module.parameters())
    return result


def gradual(
    dense: LightningModule, pruned: LightningModule, data: SplitDataModule, sparsity: float, facts: DictConfig
) -> tuple[LightningModule, list[dict[str, Any]]]:
    """Train `dense`, go on in `pruned` while weights go, test once; the network that is delivered, and rows."""
    started = time.perf_counter()
    trainer(EPOCHS).fit(dense, datamodule=data)
    between = time.perf_counter()
    pruned.load_state_dict(dense.state_dict())
    last = EPOCHS - 3  # the epoch after which the last weights go
    pruning = ModelPruning(
        "l1_unstructured",
        parameters_to_prune=[(m, "weight") for m in pruned.modules() if isinstance(m, nn.Conv2d | nn.Linear)],
        amount=lambda epoch: cubic_share(epoch, last, sparsity),
        apply_pruning=lambda epoch: epoch <= last,
        use_lottery_ticket_hypothesis=False,
    )
    trainer(EPOCHS, pruning).fit(pruned, datamodule=data)
    seconds = between - started, time.perf_counter() - between
    protected, tolerance = facts.protected[0], FNTolerance(rate=TOLERANCE)
    pair = evidence(*(on_guard(module, data, facts.num_classes) for module in (dense, pruned)), protected)
    verdict = judge({"it": pair}, {"it": tolerance}, 1 - CONFIDENCE).outcome
    rows = [
        {"sparsity": share, "verdict": said, "epochs": EPOCHS, "seconds": spent}
        for share, said, spent in zip((0.0, sparsity), ("baseline", verdict), seconds, strict=True)
    ]
    return (pruned if verdict == "accepted" else dense), rows


def cubic_share(epoch: int, last: int, sparsity: float) -> float:
    """Share of the remaining weights that goes after this epoch, so that a cubic reaches `sparsity` after `last`.

    s_t = s_f (1 - (1 - t / n)^3): Zhu & Gupta 2017 (arXiv 1710.01878), equation 1, from a dense network.
    """
    before, after = (sparsity * (1 - (1 - t / (last + 1)) ** 3) for t in (epoch, epoch + 1))
    return (after - before) / (1 - before)


@torch.no_grad()
def on_guard(module: LightningModule, data: SplitDataModule, num_classes: int) -> Decisions:
    module.eval()
    batches = [(decide(module(x)), y) for x, y in data.guard_dataloader()]
    decided, y = (torch.cat(part) for part in zip(*batches, strict=True))
    return Decisions(y, decided, num_classes)


def cost(rows: list[dict[str, Any]], epochs: int, seconds: float) -> dict[str, Any]:
    """Epochs and seconds up to the delivered round and in all, and the density that was reached."""
    final = delivered_row(rows)
    if final is None:
        return {
            "epochs": epochs,
            "seconds": round(seconds, 1),
            "all_epochs": epochs,
            "density": 1.0,
            "tests": 0,
        }
    until = rows[: rows.index(final) + 1]
    share = sum(row["seconds"] for row in until) / max(sum(row["seconds"] for row in rows), 1e-9)
    return {
        "epochs": sum(row["epochs"] for row in until),
        "seconds": round(seconds * share, 1),
        "all_epochs": sum(row["epochs"] for row in rows),
        "density": 1 - final["sparsity"],
        "tests": sum(row["verdict"] in ("accepted", "refused", "unproven") for row in rows),
    }


@torch.no_grad()
def on_test(module: LightningModule, data: SplitDataModule, protected: int) -> dict[str, Any]:
    """Misses and false alarms as decided, misses at the threshold of 5% false alarms, and the area under the curve."""
    module.eval()
    batches = [(module(x), y) for x, y in data.test_dataloader()]
    scores, y = torch.cat([s for s, _ in batches]), torch.cat([y for _, y in batches])
    positive, decided = y == protected, scores.argmax(1) == protected
    score = scores.softmax(1)[:, protected]
    negatives = score[~positive].sort(descending=True).values
    threshold = negatives[int(FPR * len(negatives))]
    return {
        "positives": int(positive.sum()),
        "negatives": len(negatives),
        "fn": int((positive & ~decided).sum()),
        "fp": int((~positive & decided).sum()),
        "fn_at_fpr": int((positive & (score <= threshold)).sum()),
        "auc": float(binary_auroc(score, positive.long())),
    }


def file_of(runs: Path, data: str, arm: str, seed: int) -> Path:
    name = "".join(c if c.isalnum() else "_" for c in arm)
    return runs / data / f"{name}-{seed}.json"


def run_all(data: str, root: str | None, seeds: Sequence[int], arms: Sequence[str], runs: Path) -> None:
    (runs / data).mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        for arm in arms:
            file = file_of(runs, data, arm, seed)
            if file.exists():
                continue
            result = run_arm(arm, data, root, seed, runs)
            files.write_text(file, json.dumps(result))
            print(
                f"{data} seed {seed} {arm}: density {result['density']:.4f} after {result['epochs']} epochs "
                f"({result['all_epochs']}), {result['seconds']:.0f} s, test FN {result['fn']}",
                flush=True,
            )


def report(runs: Path) -> None:
    """Write the tables and the picture of all runs that there are."""
    results = [json.loads(file.read_text()) for file in sorted(runs.glob("*/*.json"))]
    names = [name for name in DATA if any(r["data"] == name for r in results)]
    text = ["# Search: how soon, how sparse, at what cost in misses", ""]
    text += [
        "`python benchmarks/search.py` explains how this was made. Tolerance .05, confidence .95, no retries"
    ]
    text += [
        "unless said; median over seeds [lowest, highest]; FN, FP and AUC are means on the test split.",
        "",
    ]
    picture = Figure(figsize=(6.5 * len(names), 4.8), dpi=120, layout="constrained")
    for axes, name in zip(picture.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        of_data = [r for r in results if r["data"] == name]
        text += table(name, of_data)
        scatter(axes, name, of_data)
    text += ["", "## Arms", "", *(f"- **{arm}**: {said}" for arm, said in EXPLAINED.items()), ""]
    RESULTS.mkdir(exist_ok=True)
    files.write_text(RESULTS / "search.md", "\n".join(text))
    picture.savefig(RESULTS / "search.png")


def table(name: str, results: list[dict[str, Any]]) -> list[str]:
    first = results[0]
    lines = [f"## {name}", ""]
    lines += [
        f"{first['positives']} positives and {first['negatives']} negatives in test, {first['parameters']} parameters.",
        "",
        "| arm | seeds | pruned in | density | epochs | all epochs | seconds | FN | FP | FN at 5% FPR | AUC |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for arm in ARMS:
        of_arm = [r for r in results if r["arm"] == arm]
        if not of_arm:
            continue
        pruned = sum(r["density"] < 1 for r in of_arm)
        cells = [
            arm,
            str(len(of_arm)),
            f"{pruned}",
            spread([100 * r["density"] for r in of_arm], "{:.3g}%"),
            spread([r["epochs"] for r in of_arm], "{:.0f}"),
            spread([r["all_epochs"] for r in of_arm], "{:.0f}"),
            spread([r["seconds"] for r in of_arm], "{:.0f}"),
            *(f"{statistics.mean(r[key] for r in of_arm):.1f}" for key in ("fn", "fp", "fn_at_fpr")),
            f"{statistics.mean(r['auc'] for r in of_arm):.3f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *against_a_fifth(results), "", *verdicts(results), ""]
    return lines


def against_a_fifth(results: list[dict[str, Any]]) -> list[str]:
    """Seed by seed, when each adaptive arm was at the density that a fifth a round came to."""
    slow = {r["seed"]: r for r in results if r["arm"] == "fixed 20%, init"}
    lines = ["Epochs to the density that 'fixed 20%, init' delivered with the same seed:", ""]
    for arm in ("adaptive, lr", "adaptive, lr, one retry"):
        for r in sorted((r for r in results if r["arm"] == arm), key=lambda r: r["seed"]):
            if (other := slow.get(r["seed"])) is None:
                continue
            total, reached = 0, None
            for row in r["rows"]:
                total += row["epochs"]
                if reached is None and row["verdict"] in ("baseline", "accepted"):
                    reached = total if 1 - row["sparsity"] <= other["density"] + 1e-9 else None
            said = (
                "not reached"
                if reached is None
                else f"{reached} epochs, {reached / other['epochs']:.0%} of its"
            )
            lines.append(
                f"- {arm}, seed {r['seed']}: {100 * other['density']:.3g}% in {other['epochs']} epochs; {said}; "
                f"delivered {100 * r['density']:.3g}% with test FN {r['fn']} against {other['fn']}"
            )
    return lines


def spread(values: list[float], form: str) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{form.format(middle)} [{form.format(low)}, {form.format(high)}]"


def verdicts(results: list[dict[str, Any]]) -> list[str]:
    """The path of every run: density and verdict of each attempt."""
    short: dict[str, str] = {"accepted": "+", "refused": "-", "unproven": "?", "abandoned": "x"}
    lines = [
        "Attempts, as density in % and verdict (+ accepted, - refused, ? unproven, x abandoned untested):",
        "",
    ]
    for arm in ARMS:
        for r in sorted((r for r in results if r["arm"] == arm and r["rows"]), key=lambda r: r["seed"]):
            path = " ".join(
                f"{100 * (1 - row['sparsity']):.2g}{short[row['verdict']]}" for row in r["rows"][1:]
            )
            lines.append(f"- {arm}, seed {r['seed']}: {path}")
    return lines


def scatter(axes: Any, name: str, results: list[dict[str, Any]]) -> None:
    markers = "os^vDPX<>*h"
    for number, arm in enumerate(a for a in ARMS if ARMS[a].get("_pruned", True)):
        of_arm = [r for r in results if r["arm"] == arm]
        axes.scatter(
            [r["epochs"] for r in of_arm],
            [100 * r["density"] for r in of_arm],
            label=arm,
            marker=markers[number],
            color=f"C{number}",
            alpha=0.75,
        )
    axes.set(xscale="log", yscale="log", title=name, xlabel="epochs until then", ylabel="accepted density, %")
    axes.grid(color="0.9")
    axes.legend(fontsize=7)


def command_line(description: str | None) -> argparse.ArgumentParser:
    """What this benchmark and that of its guard are asked."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["run", "report"])
    parser.add_argument("--data", choices=list(DATA), default="elpv")
    parser.add_argument("--root", help="folder of the archive skin_dermamnist_28.npz")
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[4, 5, 6, 7, 8])
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    parser = command_line(__doc__)
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    quieten()
    if given.what == "report":
        report(given.runs)
    else:
        run_all(given.data, given.root, given.seeds, given.arms, given.runs)


if __name__ == "__main__":
    main()
