"""Objects and units: the level and the power of the three tests of units, and pruning of networks that find objects.

    python -m benchmarks.objects tables
    python -m benchmarks.objects run --data nuclei --root FOLDER --seeds 1 2 3 4 5
    python -m benchmarks.objects run --data blood --root FOLDER --seeds 1 2 3 4 5

`tables`: units of several objects whose fates are correlated (beta-binomial: the four fates of an object - found by
both networks, newly missed, newly found, missed by both - are drawn from a Dirichlet distribution of the unit with the
correlation given). Level: the true rise is exactly the tolerance, .05, and how often it is accepted all the same at 95%
confidence. For `one` and `betting` the rise is of objects, averaged over units; for `any` of units with any missed
object, whose true rise is made exactly the tolerance. `pooled` takes all objects for independent cases, as nobody
should. Power: an unchanged network, which differs on 5% of the objects, half each way.

`run`: a small network is trained on the archive's training part and pruned at 95% confidence, tolerance .1 and .2 for
false alarms, by the archive's guard part, in units of its blocks. The table tells of the test part, dense beside
delivered: missed objects by the rule that was judged (IoU .5) and by a milder one, unmatched predictions, units,
sparsity, verdicts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    interpolate,
    max_pool2d,
    pixel_shuffle,
    pixel_unshuffle,
    relu,
)
from torch.utils.data import DataLoader, Dataset

from benchmarks.support import RESULTS, command_line, named, one_thread, quiet_trainer, versions
from lightning_classprune import ClassAwarePruningCallback, Fixed, Guard, files
from lightning_classprune.guard.betting import betting_p_value
from lightning_classprune.guard.objects import ObjectTask
from lightning_classprune.guard.statistics import exact_p_value, rate_upper
from lightning_classprune.guard.tasks import Detection, InstanceSegmentation

TOLERANCE, ALPHA = 0.05, 0.05
#: Units and objects of each.
SIZES = ((60, 6), (60, 28), (150, 6), (300, 6))
CORRELATIONS = (0.0, 0.05, 0.1, 0.25, 0.5)
#: Shares of objects that are missed by both networks, and newly found, where the level is looked at.
BOTH, FOUND = 0.05, 0.03

Counts = NDArray[np.int64]
Test = Callable[[Counts, np.random.Generator], float]


def fates(
    shares: tuple[float, ...],
    units: int,
    objects: int,
    correlation: float,
    sims: int,
    rng: np.random.Generator,
) -> Counts:
    """`(sims, units, 4)`: objects found by both, newly missed, newly found, missed by both."""
    if correlation:
        strength = (1 - correlation) / correlation
        mean = np.maximum(np.array(shares), 1e-9)
        gammas = np.maximum(rng.standard_gamma(mean * strength, (sims, units, 4)), 1e-300)
        chances = gammas / gammas.sum(-1, keepdims=True)
    else:
        chances = np.broadcast_to(np.array(shares), (sims, units, 4))
    counts: Counts = rng.multinomial(objects, chances)
    return counts


def one(counts: Counts, rng: np.random.Generator) -> float:
    """P-value by one object a unit."""
    edges = counts.cumsum(-1)
    drawn = (rng.integers(0, edges[:, -1])[:, None] >= edges).sum(-1)
    return exact_p_value(int((drawn == 1).sum()), int((drawn == 2).sum()), len(counts), TOLERANCE)


def any_missed(counts: Counts, rng: np.random.Generator) -> float:
    """P-value by units with any missed object."""
    now, before = counts[:, 1] + counts[:, 3] > 0, counts[:, 2] + counts[:, 3] > 0
    return exact_p_value(int((now & ~before).sum()), int((before & ~now).sum()), len(counts), TOLERANCE)


def betting(counts: Counts, rng: np.random.Generator) -> float:
    """P-value by the units' means."""
    return betting_p_value(((counts[:, 1] - counts[:, 2]) / counts.sum(-1)).tolist(), TOLERANCE)


def pooled(counts: Counts, rng: np.random.Generator) -> float:
    """P-value of all objects as if they were independent."""
    new, gone = int(counts[:, 1].sum()), int(counts[:, 2].sum())
    return exact_p_value(new, gone, int(counts.sum()), TOLERANCE)


TESTS: dict[str, Test] = {"one": one, "any": any_missed, "betting": betting, "pooled": pooled}


def at_the_limit(name: str, objects: int, correlation: float) -> tuple[float, ...]:
    """Shares of the four fates with which the rise that a test is about is exactly the tolerance."""
    if name != "any":
        new = FOUND + TOLERANCE
        return (1 - BOTH - FOUND - new, new, FOUND, BOTH)
    low, high = FOUND, 1 - BOTH - FOUND
    for _ in range(30):
        new = (low + high) / 2
        rise = _clear(FOUND + BOTH, objects, correlation) - _clear(new + BOTH, objects, correlation)
        low, high = (new, high) if rise < TOLERANCE else (low, new)
    return (1 - BOTH - FOUND - low, low, FOUND, BOTH)


def _clear(missed: float, objects: int, correlation: float) -> float:
    """Chance that a unit has no missed object (beta-binomial)."""
    if not correlation:
        return float((1 - missed) ** objects)
    strength = (1 - correlation) / correlation
    a, places = (1 - missed) * strength, np.arange(objects)
    return float(np.prod((a + places) / (strength + places)))


def accepted(
    name: str, shares: tuple[float, ...], size: tuple[int, int], rho: float, sims: int, seed: int
) -> int:
    """How often of `sims` times a test accepts."""
    rng = np.random.default_rng([seed, int(1000 * rho), *size])
    counts = fates(shares, *size, rho, sims, rng)
    return sum(TESTS[name](each, rng) <= ALPHA for each in counts)


def tables(sims: int, seed: int) -> str:
    """Both tables in Markdown."""
    head = "| units x objects | correlation | " + " | ".join(TESTS) + " |\n|---|---|" + "---|" * len(TESTS)
    level, power = [head], [head]
    for size in SIZES:
        for rho in CORRELATIONS:
            cells = [accepted(t, at_the_limit(t, size[1], rho), size, rho, sims, seed) for t in TESTS]
            level.append(_line(size, rho, [_share(k, sims) for k in cells]))
            same = (1 - 0.05 - BOTH, 0.025, 0.025, BOTH)
            cells = [accepted(t, same, size, rho, sims, seed + 1) for t in TESTS]
            power.append(_line(size, rho, [f"{k / sims:.2f}" for k in cells]))
    return (
        f"# Tests of units\n\n{sims} simulations a cell, seed {seed}, {named(versions())}; tolerance {TOLERANCE:g} at "
        "95% confidence. What the cells are is said in `benchmarks/objects.py`; `pooled`, the test of all objects as "
        "if they were independent, is what the package does not do.\n\n## Level\n\nHow often a true rise of exactly "
        "the tolerance is accepted, in percent, and the upper end of a 95% interval: at most 5 where a test holds.\n\n"
        + "\n".join(level)
        + "\n\n## Power\n\nHow often an unchanged network is accepted that differs on 5% of the objects, half each "
        "way.\n\n" + "\n".join(power) + "\n"
    )


def _line(size: tuple[int, int], rho: float, cells: list[str]) -> str:
    return f"| {size[0]} x {size[1]} | {rho:g} | " + " | ".join(cells) + " |"


def _share(k: int, sims: int) -> str:
    return f"{100 * k / sims:.1f} ({100 * rate_upper(k, sims, 0.025):.1f})"


# -- real pictures --


class Archive(Dataset[dict[str, Any]]):
    """Pictures of one part of an archive, with their objects and block.

    Args:
        root: Folder of the archives.
        data: `"nuclei"` or `"blood"`.
        part: `"train"`, `"val"`, `"guard"` or `"test"`.
    """

    def __init__(self, root: Path, data: str, part: str) -> None:
        name = {"nuclei": "nuclei_dsb2018_192.npz", "blood": "blood_boxes_bccd_192x144.npz"}[data]
        with np.load(root / name) as arrays:
            number = arrays["split_names"].tolist().index(part)
            self.mine = np.flatnonzero(arrays["split"] == number)
            self.block = arrays["block"][self.mine]
            if data == "nuclei":
                self.x = arrays["x"][self.mine]
                self.maps = arrays["instances"][self.mine].astype(np.int64)
            else:
                self.x = np.stack(list(_decoded(arrays["jpeg"], arrays["offsets"], self.mine)))
                of = [arrays["box_image"] == one for one in self.mine]
                self.boxes = [arrays["box"][rows] for rows in of]
                self.labels = [arrays["box_class"][rows].astype(np.int64) + 1 for rows in of]
        self.data = data

    def __len__(self) -> int:
        return len(self.mine)

    def __getitem__(self, index: int) -> dict[str, Any]:
        x = torch.from_numpy(self.x[index]).permute(2, 0, 1).float()
        low, high = x.quantile(0.01), x.quantile(0.99)
        target: dict[str, Any] = (
            {"map": self.maps[index]}
            if self.data == "nuclei"
            else {"boxes": self.boxes[index], "labels": self.labels[index]}
        )
        return {"x": (x - low) / (high - low + 1), "target": target, "block": int(self.block[index])}


def _decoded(jpeg: NDArray[np.uint8], offsets: NDArray[np.int64], which: NDArray[np.int64]) -> Iterator[Any]:
    from torchvision.io import decode_jpeg

    for one_ in which:
        data = torch.from_numpy(jpeg[offsets[one_] : offsets[one_ + 1]].copy())
        yield decode_jpeg(data).permute(1, 2, 0).numpy()


def together(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Pictures as one tensor, targets and blocks as lists."""
    return {
        "x": torch.stack([one_["x"] for one_ in samples]),
        "target": [one_["target"] for one_ in samples],
        "block": [one_["block"] for one_ in samples],
    }


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
    )  # fmt: skip


class UNet(pl.LightningModule):
    """Three levels below half the resolution, about half a million weights.

    Args:
        outputs: Scores of every pixel.
    """

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.down = nn.ModuleList([_block(12, 24), _block(24, 48), _block(48, 96)])
        self.bottom = _block(96, 128)
        self.up = nn.ModuleList([_block(128 + 96, 64), _block(64 + 48, 48), _block(48 + 24, 24)])
        self.head = nn.Conv2d(24, 4 * outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scores `(n, outputs, H, W)`."""
        kept, x = [], pixel_unshuffle(x, 2)
        for block in self.down:
            x = block(x)
            kept.append(x)
            x = max_pool2d(x, 2)
        x = self.bottom(x)
        for block, skip in zip(self.up, reversed(kept), strict=True):
            x = block(torch.cat([interpolate(x, size=skip.shape[2:]), skip], 1))
        return pixel_shuffle(self.head(x), 2)

    def configure_optimizers(self) -> Any:
        """Adam with one cycle of the learning rate a round."""
        optimizer = torch.optim.Adam(self.parameters(), lr=2e-3)
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class Nuclei(UNet):
    """Background, inside and border of nuclei; instances are the pieces of the inside, grown by a pixel."""

    def __init__(self) -> None:
        super().__init__(3)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Cross-entropy, the thin border weighing more."""
        target = torch.from_numpy(np.stack([_inside_and_border(one_["map"]) for one_ in batch["target"]]))
        weight = torch.tensor([1.0, 1.0, 3.0])
        return cross_entropy(self(batch["x"]), target.to(self.device), weight=weight.to(self.device))

    @staticmethod
    def predict(module: Any, batch: dict[str, Any]) -> Any:
        """Maps of instances, with blocks."""
        from scipy import ndimage

        found = []
        for claimed in module(batch["x"]).argmax(1).cpu().numpy():
            numbers, _ = ndimage.label(claimed == 1)
            grown = ndimage.grey_dilation(numbers, 3)
            found.append({"map": np.where(numbers > 0, numbers, grown * (claimed > 0))})
        return found, batch["target"], batch["block"]


def _inside_and_border(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    same = np.ones(numbers.shape, dtype=bool)
    for axis in (0, 1):
        for step in (1, -1):
            same &= np.roll(numbers, step, axis) == numbers
    return np.where(numbers == 0, 0, np.where(same, 1, 2))


class Centres(UNet):
    """A heat map of centres for each of three kinds of cells, and the size of a box at every pixel."""

    def __init__(self) -> None:
        super().__init__(5)
        assert self.head.bias is not None
        nn.init.constant_(self.head.bias[:12], -2.2)  # of the heat maps: hardly a pixel is a centre

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Heat maps by a focal loss, sizes at the centres by their logarithm."""
        scores, loss = self(batch["x"]), torch.zeros((), device=self.device)
        for given, target in zip(scores, batch["target"], strict=True):
            boxes, labels = torch.as_tensor(target["boxes"]), torch.as_tensor(target["labels"])
            heat, rows, columns = _heat(boxes, labels, given.shape[1:])
            p = given[:3].sigmoid()
            each = binary_cross_entropy_with_logits(given[:3], heat.to(self.device), reduction="none")
            focus = torch.where(
                heat.to(self.device) == 1, (1 - p) ** 2, p**2 * (1 - heat.to(self.device)) ** 4
            )
            loss = loss + (each * focus).sum() / max(len(boxes), 1)
            if len(boxes):
                size = (boxes[:, 2:] - boxes[:, :2]).log().to(self.device)
                loss = loss + 3 * (given[3:, rows, columns].T - size / 3).abs().mean()
        return loss / len(scores)

    @staticmethod
    def predict(module: Any, batch: dict[str, Any]) -> Any:
        """Boxes at the peaks of the heat maps, with blocks."""
        found = []
        for given in module(batch["x"]).float().cpu():
            heat = given[:3].sigmoid()
            peak = (heat == max_pool2d(heat[None], 9, 1, 4)[0]) & (heat > 0.05)
            label, row, column = peak.nonzero().T
            size = (3 * given[3:, row, column].T).clamp(max=6).exp()
            centre = torch.stack([column, row], 1) + 0.5
            found.append(
                {
                    "boxes": torch.cat([centre - size / 2, centre + size / 2], 1),
                    "scores": heat[label, row, column],
                    "labels": label + 1,
                }
            )
        return found, batch["target"], batch["block"]


def _heat(boxes: Tensor, labels: Tensor, size: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Gaussian bumps at the centres, and where these are."""
    heat = torch.zeros(3, *size)
    y, x = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    columns = ((boxes[:, 0] + boxes[:, 2]) / 2).long().clamp(0, size[1] - 1)
    rows = ((boxes[:, 1] + boxes[:, 3]) / 2).long().clamp(0, size[0] - 1)
    widths = relu((boxes[:, 2:] - boxes[:, :2]).amin(1) / 8 - 1) + 1
    for row, column, width, label in zip(rows, columns, widths, labels - 1, strict=True):
        bump = (-((y - row) ** 2 + (x - column) ** 2) / (2 * width**2)).exp()
        heat[label] = torch.maximum(heat[label], bump)
    return heat, rows, columns


def job(data: str, root: Path, seed: int, epochs: int, densities: int) -> list[str]:
    """One run; the lines of the table that it gives, a protected class each."""
    pl.seed_everything(seed, verbose=False)
    parts = {part: Archive(root, data, part) for part in ("train", "val", "guard", "test")}
    loaders = {
        part: DataLoader(one_, batch_size=8, shuffle=part == "train", collate_fn=together)
        for part, one_ in parts.items()
    }
    module: Any = Nuclei() if data == "nuclei" else Centres()
    names = ["rest", "nucleus"] if data == "nuclei" else ["rest", "red", "white", "platelet"]
    rules: dict[str, Any] = {"IoU": InstanceSegmentation(), "centroid": InstanceSegmentation(rule="centroid")}
    if data == "blood":
        rules = {"IoU": Detection(score_threshold=0.3), "IoU .3": Detection(iou=0.3, score_threshold=0.3)}
    callback = ClassAwarePruningCallback(
        len(names),
        dict.fromkeys(names[1:], 0.1),
        class_names=names,
        predict=module.predict,
        task=rules["IoU"],
        guard_dataloader=loaders["guard"],
        target_sparsity=1 - 0.5**densities,
        search=Fixed(fraction=0.5, rewind="lr", round_epochs=max(1, epochs // 3)),
        guard=Guard(max_fp_rise=0.2),
    )
    dense = Dense()
    start = time.perf_counter()
    trainer = quiet_trainer(callback, dense, max_epochs=epochs)
    trainer.fit(module, loaders["train"])
    seconds = time.perf_counter() - start
    lines = []
    for rule, kind in rules.items():
        task = ObjectTask(kind, names, range(1, len(names)), 0.0, "one", with_offset=False)
        before, now = (
            _found(task, module, state, loaders["test"]) for state in (dense.state, module.state_dict())
        )
        for name in names[1:]:
            misses, alarms = now.pairs(before, name)
            assert misses.inside is not None
            assert alarms.inside is not None
            verdicts = (
                " ".join(row["verdict"] for row in callback.ledger[1:]) or callback.ledger[0]["reason"][:60]
            )
            lines.append(
                f"| {data} | {seed} | {name} | {rule} | {callback.sparsity:.3f} | {misses.inside.before} -> "
                f"{misses.inside.now} of {misses.inside.cases} | {alarms.inside.before} -> {alarms.inside.now} | "
                f"{misses.support} | {verdicts} | {seconds:.0f} |"
            )
    return lines


class Dense(pl.Callback):
    """Keeps the weights of the dense network: those before anything is zero."""

    state: dict[str, Tensor]

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Of the last epoch in which no convolution has more than a few zeros."""
        weight = pl_module.bottom[0].weight  # type: ignore[index, union-attr]
        if float((weight == 0).float().mean()) < 0.01:  # type: ignore[union-attr]
            self.state = {name: value.detach().clone() for name, value in pl_module.state_dict().items()}


def _found(task: ObjectTask, module: Any, state: dict[str, Tensor], loader: Any) -> Any:
    kept = {name: value.clone() for name, value in module.state_dict().items()}
    module.load_state_dict(state)
    module.eval()
    with torch.no_grad():
        parts = [task.columns(*module.predict(module, batch)) for batch in loader]
    module.load_state_dict(kept)
    places = torch.cat([torch.full_like(part[0], place) for place, part in enumerate(parts)])
    columns = tuple(torch.cat(column) for column in zip(*parts, strict=True))
    return task.outcomes(task.numbered(columns, places), {})


HEAD = (
    "| data | seed | class | rule | sparsity | missed objects of the test | unmatched | units | verdicts | s |"
    "\n|---|---|---|---|---|---|---|---|---|---|"
)


def main() -> None:
    """The command line."""
    parser = command_line(__doc__, RESULTS)
    what = parser.add_subparsers(dest="what", required=True)
    made = what.add_parser("tables")
    made.add_argument("--sims", type=int, default=2000, help="simulations a cell (default: %(default)s)")
    made.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    ran = what.add_parser("run", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    ran.add_argument("--data", choices=("nuclei", "blood"), required=True, help="which archive")
    ran.add_argument("--root", type=Path, required=True, help="folder of the archives")
    ran.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5], help="one run each")
    ran.add_argument("--epochs", type=int, default=30, help="of the dense round; others have a third")
    ran.add_argument("--densities", type=int, default=4, help="halvings of the weights to try")
    args = parser.parse_args()
    one_thread()
    if args.what == "tables":
        files.write_text(args.out / "objects_tests.md", tables(args.sims, args.seed))
        return
    lines = [HEAD]
    for seed in args.seeds:
        lines += job(args.data, args.root, seed, args.epochs, args.densities)
        files.write_text(args.out / f"objects_{args.data}.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
