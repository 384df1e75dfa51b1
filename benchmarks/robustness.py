"""How sparse a network can be before it breaks under corruption, while it finds as many clean cases as before.

    python -m benchmarks.robustness run --data elpv --seeds 1 2 3 4 5
    python -m benchmarks.robustness run --data cracks --root FOLDER --seeds 1 2 3 4 5
    python -m benchmarks.robustness run --data blood --root FOLDER --seeds 1 2 3 4 5
    python -m benchmarks.robustness report

`run`: the ready-made job's small network is trained densely and pruned gradually (`lamp_gradient`) to each of some
densities, whatever becomes of it; a run leaves one file and is skipped where that exists. Every network decides the
guard's and the test's cases, which nothing was chosen by, clean and under each of the guard's eleven corruptions, which
are the same for all networks of a data set. elpv: solar cells at 48 pixels, the split of the job. cracks: concrete and
pavement at 48 pixels, 1,200 samples of the archive's training part to train, 1,500 of its test part to decide, blocks
apart. blood: the boxes of blood cells and the job's detector (`data=boxes_npz`), guard and test part decide.

`report`: both sides at equal clean misses. A pruned network slides along its ROC curve, so its threshold is set where
it misses exactly as many of the clean cases as the dense network does; told is how its miss rate, its false-alarm
rate and the area under its ROC curve then differ from the dense network's, clean and under each corruption, at that
same threshold. Means over seeds with 95% intervals (Student's t). A density holds under a corruption if the upper
ends of these intervals are below .05 for misses and below .10 for false alarms, the limits of a guard; with few seeds
that is asked of wide intervals. It is worse if the area lost under the corruption is shown to be more than the area
lost on clean data: the interval of the difference, paired by seed, excludes 0. Of boxes, found by an IoU of .5, the
score threshold is set so in each class; false alarms are predictions that match no box, as a share of the boxes; and
the average precision takes the place of the area.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata, t
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import ConcatDataset, DataLoader
from torchvision.transforms.v2 import functional as F

from benchmarks.support import (
    command_line,
    files_of_runs,
    job_config,
    markdown,
    named,
    one_thread,
    quiet_trainer,
    versions,
    write,
)
from lightning_classprune import ClassAwarePruningCallback, Files, Gradual, Guard, files, load_ticket
from lightning_classprune.guard.boxes import match_boxes
from lightning_classprune.guard.corrupted import Corruption
from lightning_classprune.guard.corruptions import CORRUPTIONS
from lightning_classprune.guard.objects import Found
from lightning_classprune.guard.statistics import exact_p_value
from lightning_classprune.guard.tasks import Detection
from lightning_classprune.job import app
from lightning_classprune.job.classifier import Classifier
from lightning_classprune.job.data.base import SplitDataModule, TensorBatches
from lightning_classprune.job.data.npz import NpzData
from lightning_classprune.job.data.objects import ObjectBatch
from lightning_classprune.job.data.small import ElpvData
from lightning_classprune.job.models import conv_net
from lightning_classprune.job.objects.finder import ReadObjects
from lightning_classprune.job.report.pictures import pixels
from lightning_classprune.ledger.object_pictures import object_pictures
from lightning_classprune.losses import ClassBalancedCrossEntropy

SIZE, BATCH = 48, 32
DENSITIES = (0.2, 0.05, 0.02, 0.01)
EPOCHS, ROUND_EPOCHS = 10, 6
#: Of the rise of misses and of false alarms.
FN_LIMIT, FP_LIMIT = 0.05, 0.10
CLEAN = "clean"
#: Of boxes, where the dense network decides: the job's.
SCORE_THRESHOLD = 0.3
BOXES_DENSITIES, BOXES_ROUND_EPOCHS = (0.05, 0.01), 5
#: A class that the job protects, its limit, and the error level.
PROTECTED, TOLERANCE, ALPHA = "WBC", 0.1, 0.05

Floats = NDArray[np.float64]
Parts = dict[str, TensorBatches]


def load(name: str, root: Path | None) -> tuple[Parts, list[int]]:
    """Training, validation and `held` (guard and test) parts of a data set, and the classes' training samples."""
    data: SplitDataModule
    if name == "elpv":
        data = ElpvData(SIZE, {"train": 0.5, "val": 0.1, "guard": 0.25, "test": 0.15})
    else:
        data = NpzData(str(root), "crack_pavement_concrete_64")
    data.setup()
    parts = {part: _tensors(data, part) for part in ("train", "val", "guard", "test")}
    order = torch.Generator().manual_seed(0)
    if name == "cracks":
        parts = {
            part: _some(one, most, order)
            for (part, one), most in zip(parts.items(), (1200, 400, 0, 1500), strict=True)
        }
    parts["held"] = _both(parts["guard"], parts["test"])
    counts = torch.bincount(parts["train"].y, minlength=2).tolist()
    return parts, counts


def _tensors(data: SplitDataModule, part: str) -> TensorBatches:
    whole = data.splits.parts[part]
    assert isinstance(whole, TensorBatches)
    x = whole.x if whole.x.shape[-1] == SIZE else F.resize(whole.x, [SIZE, SIZE], antialias=True)
    flips = (-1, -2) if part == "train" else ()
    return TensorBatches(x, whole.y, whole.mean, whole.std, flips)


def _some(data: TensorBatches, most: int, generator: torch.Generator) -> TensorBatches:
    chosen = torch.randperm(len(data), generator=generator)[:most].sort().values
    return TensorBatches(data.x[chosen], data.y[chosen], data.mean, data.std, data.flip_dims)


def _both(one: TensorBatches, other: TensorBatches) -> TensorBatches:
    return TensorBatches(torch.cat([one.x, other.x]), torch.cat([one.y, other.y]), one.mean, one.std)


def loader(data: TensorBatches, shuffle: bool = False) -> DataLoader[Any]:
    """Batches of a part."""
    return DataLoader(data, BATCH if shuffle else 250, shuffle=shuffle, collate_fn=lambda batch: batch)


def networks(parts: Parts, counts: Sequence[int], seed: int) -> dict[str, Classifier]:
    """A dense network and what pruning makes of it, by density."""
    pl.seed_everything(seed, verbose=False)
    folder = tempfile.mkdtemp(prefix="robustness-")
    module = new_module(parts["train"], counts)
    pruning = ClassAwarePruningCallback(
        2,
        {1: 1.0},
        guard_dataloader=loader(_some(parts["held"], 100, torch.Generator().manual_seed(0))),
        target_sparsity=1 - DENSITIES[-1],
        search=Gradual(densities=DENSITIES, round_epochs=ROUND_EPOCHS),
        guard=Guard(confidence=None, max_fp_rise=None),
        files=Files(ladder=folder),
    )
    trainer = quiet_trainer(pruning, max_epochs=EPOCHS, num_sanity_val_steps=0, limit_val_batches=0)
    trainer.fit(module, loader(parts["train"], shuffle=True))
    made = {}
    for row in pruning.ledger:
        made[f"{1 - row['sparsity']:.3g}"] = one = new_module(parts["train"], counts)
        load_ticket(Path(folder) / f"round={row['round']:02d}.safetensors", one)
        one.eval()
    return made


def new_module(train: TensorBatches, counts: Sequence[int]) -> Classifier:
    """The job's network, untrained."""
    return Classifier(
        conv_net(train.x.shape[1]),
        ClassBalancedCrossEntropy(counts),
        2,
        optimizer=partial(AdamW, lr=3e-3, weight_decay=1e-2),
        scheduler=partial(OneCycleLR, max_lr=3e-3),
        scheduler_interval="step",
    )


def margins(module: Classifier, batches: Sequence[tuple[Tensor, Tensor]]) -> Floats:
    """By how much the second class' score exceeds the first's."""
    with torch.no_grad():
        scores = torch.cat([module(x) for x, _ in batches])
    return (scores[:, 1] - scores[:, 0]).double().numpy()


def run(args: argparse.Namespace) -> None:
    """A run a seed."""
    torch.set_num_threads(1)
    if args.data == "blood":
        run_boxes(args)
        return
    parts, counts = load(args.data, args.root)
    held = parts["held"]
    looks = {CLEAN: list(loader(held))}
    for name, corrupt in CORRUPTIONS.items():
        change = Corruption(name, corrupt, (held.mean, held.std))
        looks[name] = [change(batch) for batch in looks[CLEAN]]
    for seed in args.seeds:
        file = args.runs / f"{args.data}-seed={seed}.json"
        if file.exists():
            continue
        found = {
            density: {name: margins(module, batches).round(6).tolist() for name, batches in looks.items()}
            for density, module in networks(parts, counts, seed).items()
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(file, json.dumps({"y": held.y.tolist(), "margins": found}))
        print(file)


#: Of a class under one look: scores of what finds a box, and of what matches none, and the number of boxes.
Matched = dict[str, Any]


def run_boxes(args: argparse.Namespace) -> None:
    """A run a seed."""
    config = job_config(["data=boxes_npz", f"data.root={args.root}", "trainer.accelerator=cpu"])
    data: Any = app.describe(config)
    held: Any = ConcatDataset([data.splits.parts[part] for part in ("guard", "test")])
    looks: dict[str, list[ObjectBatch]] = {CLEAN: list(DataLoader(held, 16, collate_fn=data.collate))}
    for name, corrupt in CORRUPTIONS.items():
        change = Corruption(name, corrupt, data.normalization)
        looks[name] = [change(batch) for batch in looks[CLEAN]]

    def picture(sample: int) -> Any:
        x, *_ = data.splits.parts["guard"][sample]
        return pixels(x, data.normalization, max(data.image_size))

    for seed in args.seeds:
        file = args.runs / f"blood-seed={seed}.json"
        if file.exists():
            continue
        pl.seed_everything(seed, verbose=False)
        folder, module = Path(tempfile.mkdtemp(prefix="robustness-")), app.build_module(config)
        pruning = ClassAwarePruningCallback(
            len(data.class_names),
            {PROTECTED: 1.0},
            class_names=data.class_names,
            task=Detection(score_threshold=SCORE_THRESHOLD),
            predict=ReadObjects(),
            guard_dataloader=data.guard_dataloader(),
            target_sparsity=1 - BOXES_DENSITIES[-1],
            search=Gradual(densities=BOXES_DENSITIES, round_epochs=BOXES_ROUND_EPOCHS),
            guard=Guard(confidence=None, max_fp_rise=None),
            files=Files(ladder=str(folder)),
        )
        trainer = quiet_trainer(pruning, max_epochs=EPOCHS, num_sanity_val_steps=0, limit_val_batches=0)
        trainer.fit(module, data.train_dataloader())
        dense, sparsest = (cast(Found, pruning.guard_outcomes[which]) for which in ("dense", "delivered"))
        misses, _ = sparsest.pairs(dense, PROTECTED)
        found = {}
        for row in pruning.ledger:
            load_ticket(folder / f"round={row['round']:02d}.safetensors", module)
            module.eval()
            found[f"{1 - row['sparsity']:.3g}"] = {
                name: boxes_found(module, batches, data.class_names) for name, batches in looks.items()
            }
        file.parent.mkdir(parents=True, exist_ok=True)
        counts = [misses.newly_missed, misses.newly_found, misses.support]
        files.write_text(file, json.dumps({"guard": counts, "networks": found}))
        figure = object_pictures(picture, dense, sparsest, PROTECTED, most=4)
        figure.savefig(file.with_suffix(".png"), dpi=60)
        print(file)


def boxes_found(module: Any, batches: Sequence[ObjectBatch], names: Sequence[str]) -> dict[str, Matched]:
    """By class, what a network finds."""
    told: dict[str, Matched] = {name: {"boxes": 0, "matched": [], "unmatched": []} for name in names[1:]}
    for x, targets, _ in batches:
        with torch.no_grad():
            read = module.network.read(module(x))
        for prediction, target in zip(read, targets, strict=True):
            for label, name in enumerate(names[1:], start=1):
                mine, theirs = prediction["labels"] == label, target["labels"] == label
                match = match_boxes(
                    prediction["boxes"][mine].double().numpy(),
                    prediction["scores"][mine].double().numpy(),
                    target["boxes"][theirs].double().numpy(),
                    np.zeros((0, 4)),
                    0.5,
                )
                one = told[name]
                one["boxes"] += len(match.scores)
                one["matched"] += match.scores[np.isfinite(match.scores)].round(6).tolist()
                one["unmatched"] += match.unmatched.round(6).tolist()
    return told


def measured_boxes(
    found: dict[str, dict[str, dict[str, Matched]]], label: str, threshold: float
) -> dict[tuple[str, str], dict[str, float]]:
    """As `measured`, of one class of boxes.

    Args:
        found: By density and corruption, what is found of each class.
        label: The class.
        threshold: Of the dense network's scores.
    """
    wanted = sum(one >= threshold for one in found["1"][CLEAN][label]["matched"])
    told = {}
    for density, looks in found.items():
        least = threshold
        if density != "1":
            best = sorted(looks[CLEAN][label]["matched"], reverse=True)
            # Of one that cannot find so many at any threshold it stays where it is.
            least = best[wanted - 1] if 0 < wanted <= len(best) else threshold
        for name, classes in looks.items():
            now, before = _of_boxes(classes[label], least), _of_boxes(found["1"][name][label], threshold)
            told[density, name] = now | {f"{key}_rise": now[key] - before[key] for key in now}
    return told


def _of_boxes(one: Matched, least: float) -> dict[str, float]:
    matched, unmatched = np.array(one["matched"]), np.array(one["unmatched"])
    return {
        "fn": 1 - float((matched >= least).sum()) / one["boxes"],
        "fp": float((unmatched >= least).sum()) / one["boxes"],
        "auc": average_precision(matched, unmatched, one["boxes"]),
    }


def average_precision(matched: Floats, unmatched: Floats, boxes: int) -> float:
    """Area under precision over recall, precision made to fall: of equal scores what matches nothing is first."""
    right = np.r_[np.zeros(len(unmatched)), np.ones(len(matched))]
    order = np.argsort(-np.r_[unmatched, matched], kind="stable")
    right = right[order]
    precision = right.cumsum() / np.arange(1, len(right) + 1)
    falling = np.maximum.accumulate(precision[::-1])[::-1]
    return float((falling * right).sum()) / boxes


def measured(
    y: NDArray[np.int64], found: dict[str, dict[str, list[float]]]
) -> dict[tuple[str, str], dict[str, float]]:
    """By density and corruption: rates of the network, and rises over the dense one, at equal clean misses."""
    dense = {name: np.array(values) for name, values in found["1"].items()}
    missed = int((dense[CLEAN][y == 1] < 0).sum())
    told = {}
    for density, looks in found.items():
        positives = np.sort(np.array(looks[CLEAN])[y == 1])
        threshold = (
            0.0 if density == "1" else (positives[missed - 1] + positives[missed]) / 2 if missed else -np.inf
        )
        for name, values in looks.items():
            now = np.array(values)
            fn, fp = float((now[y == 1] < threshold).mean()), float((now[y == 0] >= threshold).mean())
            before = dense[name]
            told[density, name] = {
                "fn": fn,
                "fp": fp,
                "auc": auc(y, now),
                "fn_rise": fn - float((before[y == 1] < 0).mean()),
                "fp_rise": fp - float((before[y == 0] >= 0).mean()),
                "auc_rise": auc(y, now) - auc(y, before),
            }
    return told


def auc(y: NDArray[np.int64], scores: Floats) -> float:
    """Area under the ROC curve."""
    positives, negatives = int((y == 1).sum()), int((y == 0).sum())
    ranks = float(rankdata(scores)[y == 1].sum())
    return (ranks - positives * (positives + 1) / 2) / (positives * negatives)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half the width of its 95% interval."""
    n = len(values)
    half = float(t.ppf(0.975, n - 1)) * float(np.std(values, ddof=1)) / n**0.5 if n > 1 else float("nan")
    return float(np.mean(values)), half


def report(args: argparse.Namespace) -> None:
    """Write the tables of all data sets whose runs are there."""
    files_of_runs(args.runs, "*-seed=*.json")
    explained = (__doc__ or "").split("`report`: ")[1].strip()
    lines = ["# Robustness of pruned networks", "", explained[0].upper() + explained[1:], ""]
    for name in ("elpv", "cracks"):
        runs = [json.loads(file.read_text()) for file in sorted(args.runs.glob(f"{name}-seed=*.json"))]
        if not runs:
            continue
        told = [measured(np.array(one["y"]), one["margins"]) for one in runs]
        y = runs[0]["y"]
        lines += [
            f"## {name}: {len(runs)} seeds, {sum(y)} cases of the class and {len(y) - sum(y)} others",
            "",
        ]
        lines += _tables(told)
    lines += _boxes(args.runs)
    lines += [f"Made by `python -m benchmarks.robustness`, {named(versions())}."]
    write(args.out / "robustness.md", lines)


def _boxes(folder: Path) -> list[str]:
    """The tables of blood cells, if there are runs, and what the guard says of the sparsest networks."""
    kept = sorted(folder.glob("blood-seed=*.json"))
    runs = [json.loads(file.read_text()) for file in kept]
    lines: list[str] = []
    for label, one in (runs[0]["networks"]["1"][CLEAN] if runs else {}).items():
        lines += [f"## blood, {label}: {len(runs)} seeds, {one['boxes']} boxes", ""]
        told = [measured_boxes(run["networks"], label, SCORE_THRESHOLD) for run in runs]
        lines += _tables(told, "average precision")
    if runs:
        rows = []
        for file, run in zip(kept, runs, strict=True):
            new, gone, units = run["guard"]
            p = exact_p_value(new, gone, units, TOLERANCE)
            rows.append(
                {
                    "seed": file.stem.rpartition("=")[2],
                    "newly missed": new,
                    "newly found": gone,
                    "units": units,
                    "p": f"{p:.2g}",
                    "verdict": "accepted" if p <= ALPHA else "refused",
                }
            )
        lines += [
            f"What the guard says of the networks with {BOXES_DENSITIES[-1]:.0%} kept, without an offset: a rise of "
            f"{TOLERANCE:g} in the share of missed {PROTECTED}, one drawn of each unit, at 95% confidence:",
            "",
            markdown(rows),
            "",
        ]
    return lines


def _tables(
    told: list[dict[tuple[str, str], dict[str, float]]], area: str = "area under the ROC curve"
) -> list[str]:
    densities = sorted({density for density, _ in told[0]}, key=float, reverse=True)
    names = [CLEAN, *CORRUPTIONS]

    def cell(density: str, name: str, key: str) -> str:
        mean, half = interval([one[density, name][key] for one in told])
        return f"{mean:+.3f}±{half:.3f}"

    rows = []
    for name in names:
        before = {key: interval([one["1", name][key] for one in told])[0] for key in ("fn", "fp", "auc")}
        row = {"": name, "dense": " / ".join(f"{before[key]:.3f}" for key in before)}
        for density in densities[1:]:
            row[f"{float(density):.0%} kept"] = " / ".join(
                cell(density, name, f"{key}_rise") for key in before
            )
        holding = [density for density in densities[1:] if _holds([one[density, name] for one in told])]
        row["sparsest that holds"] = _sparsest(densities[1:], holding)
        worse = [density for density in densities[1:] if _is_worse(told, density, name)]
        row["worse than clean at"] = ", ".join(f"{float(density):.0%}" for density in worse)
        rows.append(row)
    return [
        f"Miss rate / false-alarm rate / {area} of the dense network, and what is added to them:",
        "",
        markdown(rows),
        "",
    ]


def _holds(rises: Sequence[dict[str, float]]) -> bool:
    sides = [
        (interval([one[key] for one in rises]), most)
        for key, most in (("fn_rise", FN_LIMIT), ("fp_rise", FP_LIMIT))
    ]
    return all(mean + half < most for (mean, half), most in sides)


def _is_worse(told: list[dict[tuple[str, str], dict[str, float]]], density: str, name: str) -> bool:
    """Whether a corruption is shown to cost more of the area than clean data do."""
    beyond = [one[density, name]["auc_rise"] - one[density, CLEAN]["auc_rise"] for one in told]
    mean, half = interval(beyond)
    return name != CLEAN and mean + half < 0


def _sparsest(densities: Sequence[str], holding: Sequence[str]) -> str:
    """The last density before the first that does not hold."""
    last = "dense"
    for density in densities:
        if density not in holding:
            break
        last = f"{float(density):.0%}"
    return last


def main() -> None:
    """Read the command line."""
    parser = command_line(__doc__)
    parser.add_argument("what", choices=("run", "report"))
    parser.add_argument("--data", choices=("elpv", "cracks", "blood"), default="elpv")
    parser.add_argument("--root", type=Path, help="folder of the archives")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument(
        "--runs", type=Path, default=Path("outputs/robustness"), help="folder of the runs' files"
    )
    args = parser.parse_args()
    one_thread()
    run(args) if args.what == "run" else report(args)


if __name__ == "__main__":
    main()
