"""What pruning makes an encoder forget that was trained with labels, and one that was trained without.

    python -m benchmarks.contrastive run --data derma --root FOLDER --seeds 1 2 3 4 5
    python -m benchmarks.contrastive run --data elpv --seeds 1 2 3 4 5
    python -m benchmarks.contrastive report

`run`: a small convolutional encoder is trained with labels (cross-entropy, classes of equal weight) or without
(SimCLR: two random views of each image, NT-Xent), and pruned gradually to some densities, whatever becomes of it.
Both are judged alike, by a `LinearProbe` on the labelled training part that is fitted anew to each network. derma:
melanomas against all other lesions of DermaMNIST, 1,500 training images; elpv: defective solar cells at 32 pixels,
1,312. The archive's test part, and of elpv guard and test part, are what is decided. A run leaves one file and is
skipped where that exists.

`report`: a pruned network's threshold is set where it has as many false alarms as its own dense network. Told are
misses and the area under the ROC curve; which cases of the class are newly missed and newly found then; how much the
cases that the two kinds of encoder forget have in common (Jaccard index), beside what two seeds of one kind have; and
how sure the dense network was of those that were forgotten: the mean rank of their margin among the cases that it
found, 0 the least sure, .5 what chance would give. Means over seeds with 95% intervals (Student's t).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, normalize
from torch.utils.data import DataLoader

from benchmarks.robustness import auc, interval
from benchmarks.support import (
    command_line,
    files_of_runs,
    markdown,
    named,
    one_thread,
    quiet_trainer,
    versions,
    write,
)
from lightning_classprune import (
    ClassAwarePruningCallback,
    Files,
    Gradual,
    Guard,
    LinearProbe,
    files,
    load_ticket,
)
from lightning_classprune.job.data.base import SplitDataModule, TensorBatches
from lightning_classprune.job.data.npz import NpzData
from lightning_classprune.job.data.small import ElpvData
from lightning_classprune.job.models import conv_net

KINDS = ("with labels", "without labels")
DENSITIES = (0.05, 0.02)
EPOCHS, ROUND_EPOCHS, BATCH, TEMPERATURE, WIDTH = 16, 6, 128, 0.2, 8

Floats = NDArray[np.float64]
Decided = dict[str, Floats]


class Encoder(pl.LightningModule):
    """An encoder with a head that training alone uses: classes, or a projection for SimCLR.

    Args:
        channels: Of an image.
        shares: Of the classes among training samples; None trains without labels.
    """

    def __init__(self, channels: int, shares: Tensor | None) -> None:
        super().__init__()
        self.encoder = conv_net(channels, width=WIDTH)[:-1]
        size = 8 * WIDTH
        self.weight = None if shares is None else 1 / shares
        self.head: nn.Module = nn.Linear(size, 2)
        if shares is None:
            self.head = nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, 32))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The loss of a batch."""
        x, y = batch
        if self.weight is not None:
            return cross_entropy(self.head(self.encoder(view(x))), y, self.weight)
        z = normalize(self.head(self.encoder(torch.cat([view(x), view(x)]))))
        likeness = z @ z.T / TEMPERATURE
        likeness.fill_diagonal_(-torch.inf)
        return cross_entropy(likeness, torch.arange(len(z)).roll(len(x)))

    def configure_optimizers(self) -> Any:
        """AdamW, one cycle."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=3e-3, weight_decay=1e-2)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def view(x: Tensor) -> Tensor:
    """A random view: one crop a batch, mirrors, light and noise for each image."""
    size = x.shape[-1]
    cut = int(torch.randint(size // 2, size + 1, ()))
    top, left = (int(torch.randint(0, size - cut + 1, ())) for _ in range(2))
    x = interpolate(
        x[..., top : top + cut, left : left + cut], size=(size, size), mode="bilinear", align_corners=False
    )
    for dim in (-1, -2):
        mirrored = (torch.rand(len(x)) < 0.5).view(-1, 1, 1, 1)
        x = torch.where(mirrored, x.flip(dim), x)
    gain, shift = (1 + 0.3 * torch.randn(len(x), 1, 1, 1), 0.3 * torch.randn(len(x), 1, 1, 1))
    return x * gain + shift + 0.1 * torch.randn(x.shape)


def features(module: Any, x: Tensor) -> Tensor:
    """What the probe sees."""
    found: Tensor = module.encoder(x)
    return found


def load(name: str, root: Path | None) -> dict[str, TensorBatches]:
    """Training and `held` parts."""
    data: SplitDataModule
    if name == "elpv":
        data = ElpvData(32, {"train": 0.5, "val": 0.1, "guard": 0.25, "test": 0.15})
    else:
        data = NpzData(str(root), "skin_dermamnist_28", one_vs_rest="mel")
    data.setup()
    parts: Any = data.splits.parts
    train, held = parts["train"], [parts["test"]] + ([parts["guard"]] if name == "elpv" else [])
    chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:1500]
    return {
        "train": TensorBatches(train.x[chosen], train.y[chosen], train.mean, train.std),
        "held": TensorBatches(
            torch.cat([p.x for p in held]), torch.cat([p.y for p in held]), train.mean, train.std
        ),
        "guard": TensorBatches(parts["val"].x[:200], parts["val"].y[:200], train.mean, train.std),
    }


def loader(data: TensorBatches, shuffle: bool = False) -> DataLoader[Any]:
    """Batches of a part."""
    return DataLoader(data, BATCH, shuffle=shuffle, drop_last=shuffle, collate_fn=lambda batch: batch)


def decided(parts: dict[str, TensorBatches], kind: str, seed: int) -> dict[str, list[float]]:
    """By density, the margin of every held case."""
    pl.seed_everything(seed, verbose=False)
    channels, shares = parts["train"].x.shape[1], torch.bincount(parts["train"].y, minlength=2).float()
    shares = shares / shares.sum()
    folder = tempfile.mkdtemp(prefix="contrastive-")
    module = Encoder(channels, shares if kind == KINDS[0] else None)
    probe = LinearProbe(features, loader(parts["train"]))
    pruning = ClassAwarePruningCallback(
        2,
        {1: 1.0},
        predict=probe,
        guard_dataloader=loader(parts["guard"]),
        target_sparsity=1 - DENSITIES[-1],
        search=Gradual(densities=DENSITIES, round_epochs=ROUND_EPOCHS),
        guard=Guard(confidence=None, max_fp_rise=None),
        files=Files(ladder=folder),
    )
    trainer = quiet_trainer(pruning, max_epochs=EPOCHS, num_sanity_val_steps=0, limit_val_batches=0)
    trainer.fit(module, loader(parts["train"], shuffle=True))
    found = {}
    for row in pruning.ledger:
        ticket = load_ticket(Path(folder) / f"round={row['round']:02d}.safetensors", module)
        head = probe.head(ticket.beside)
        module.eval()
        with torch.no_grad():
            scores = torch.cat([head(module.encoder(x)) for x, _ in loader(parts["held"])])
        found[f"{1 - row['sparsity']:.3g}"] = (scores[:, 1] - scores[:, 0]).double().numpy().round(6).tolist()
    return found


def run(args: argparse.Namespace) -> None:
    """Two runs a seed."""
    torch.set_num_threads(1)
    parts = load(args.data, args.root)
    for seed in args.seeds:
        for kind in KINDS:
            file = args.runs / f"{args.data}-{kind.replace(' ', '-')}-seed={seed}.json"
            if file.exists():
                continue
            margins = decided(parts, kind, seed)
            file.parent.mkdir(parents=True, exist_ok=True)
            files.write_text(file, json.dumps({"y": parts["held"].y.tolist(), "margins": margins}))
            print(file)


def found_at_equal_alarms(
    y: NDArray[np.int64], margins: dict[str, list[float]], density: str
) -> NDArray[np.bool_]:
    """Which cases of the class are found, with as many false alarms as the dense network has at 0."""
    now, dense = np.array(margins[density]), np.array(margins["1"])
    alarms = int((dense[y == 0] >= 0).sum())
    others = np.sort(now[y == 0])[::-1]
    threshold = (others[alarms - 1] + others[min(alarms, len(others) - 1)]) / 2 if alarms else np.inf
    return now[y == 1] >= threshold


def forgotten(y: NDArray[np.int64], margins: dict[str, list[float]], density: str) -> NDArray[np.bool_]:
    """Which cases of the class the dense network finds and the pruned one does not."""
    return found_at_equal_alarms(y, margins, "1") & ~found_at_equal_alarms(y, margins, density)


def jaccard(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Share of what both have in what either has; NaN where neither has any."""
    either = int((one | other).sum())
    return int((one & other).sum()) / either if either else float("nan")


def report(args: argparse.Namespace) -> None:
    """Write the tables of all data sets whose runs are there."""
    files_of_runs(args.runs, "*-seed=*.json")
    explained = (__doc__ or "").split("`report`: ")[1].strip()
    lines = ["# What encoders forget", "", explained[0].upper() + explained[1:], ""]
    for name in ("derma", "elpv"):
        runs = {kind: _read(args.runs, name, kind) for kind in KINDS}
        seeds = sorted(set(runs[KINDS[0]]) & set(runs[KINDS[1]]))
        if not seeds:
            continue
        y = np.array(runs[KINDS[0]][seeds[0]]["y"])
        lines += [
            f"## {name}: {len(seeds)} seeds, {int(y.sum())} cases of the class, {int((y == 0).sum())} others",
            "",
        ]
        lines += _tables(y, {kind: [runs[kind][seed]["margins"] for seed in seeds] for kind in KINDS})
    lines += [f"Made by `python -m benchmarks.contrastive`, {named(versions())}."]
    write(args.out / "contrastive.md", lines)


def _read(folder: Path, name: str, kind: str) -> dict[int, Any]:
    found = folder.glob(f"{name}-{kind.replace(' ', '-')}-seed=*.json")
    return {int(file.stem.rpartition("=")[2]): json.loads(file.read_text()) for file in found}


def _tables(y: NDArray[np.int64], runs: dict[str, list[dict[str, list[float]]]]) -> list[str]:
    densities = sorted({d for one in runs[KINDS[0]] for d in one}, key=float, reverse=True)
    rows = []
    for kind, seeds in runs.items():
        for density in densities:
            missed = [1 - float(found_at_equal_alarms(y, one, density).mean()) for one in seeds]
            row = {
                "encoder": kind,
                "kept": f"{float(density):.0%}",
                "missed": told(missed),
                "AUC": told([auc(y, np.array(one[density])) for one in seeds]),
            }
            new = [forgotten(y, one, density) for one in seeds]
            back = [~found_at_equal_alarms(y, o, "1") & found_at_equal_alarms(y, o, density) for o in seeds]
            row["newly missed"] = told([float(one.mean()) for one in new]) if density != "1" else ""
            row["newly found"] = told([float(one.mean()) for one in back]) if density != "1" else ""
            row["rank of what is forgotten"] = told([_rank(y, o, f) for o, f in zip(seeds, new, strict=True)])
            rows.append(row)
    common = []
    for density in densities[1:]:
        lost = {kind: [forgotten(y, one, density) for one in seeds] for kind, seeds in runs.items()}
        across = [jaccard(a, b) for a, b in zip(lost[KINDS[0]], lost[KINDS[1]], strict=True)]
        row = {"kept": f"{float(density):.0%}", "between the two kinds": told(across)}
        for kind in KINDS:
            row[f"between seeds, {kind}"] = (
                f"{np.nanmean([jaccard(a, b) for a, b in combinations(lost[kind], 2)]):.3f}"
            )
        common.append(row)
    return [markdown(rows), "", "What the forgotten cases have in common:", "", markdown(common), ""]


def _rank(y: NDArray[np.int64], margins: dict[str, list[float]], lost: NDArray[np.bool_]) -> float:
    """Mean rank, in [0, 1], of the dense margins of what is forgotten among what the dense network finds."""
    found = found_at_equal_alarms(y, margins, "1")
    dense = np.array(margins["1"])[y == 1]
    ranks = dense[found].argsort().argsort() / max(int(found.sum()) - 1, 1)
    return float(ranks[lost[found]].mean()) if lost.any() else float("nan")


def told(values: Sequence[float]) -> str:
    """Mean and interval of the seeds that have a value."""
    known = [value for value in values if value == value]
    if not known:
        return ""
    mean, half = interval(known)
    return f"{mean:.3f}±{half:.3f}"


def main() -> None:
    """Read the command line."""
    parser = command_line(__doc__)
    parser.add_argument("what", choices=("run", "report"))
    parser.add_argument("--data", choices=("derma", "elpv"), default="elpv")
    parser.add_argument("--root", type=Path, help="folder of skin_dermamnist_28.npz")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument(
        "--runs", type=Path, default=Path("outputs/contrastive"), help="folder of the runs' files"
    )
    args = parser.parse_args()
    one_thread()
    run(args) if args.what == "run" else report(args)


if __name__ == "__main__":
    main()
