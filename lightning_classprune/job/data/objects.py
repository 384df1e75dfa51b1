"""Pictures with objects in one .npz archive: what archives of masks and of boxes have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor
from torch.utils.data import Dataset

from lightning_classprune.job.data import checks
from lightning_classprune.job.data.archive import Arrays, groups_of, images, known_and_test, opened, parts
from lightning_classprune.job.data.base import SplitDataModule, Splits, image_moments, warn_of_flat
from lightning_classprune.job.data.splits import FRACTIONS, PARTS

#: The objects of one picture.
Target = dict[str, Tensor]
#: A picture, its objects, and the unit that it belongs to.
Sample = tuple[Tensor, Target, int]
#: Pictures `(n, C, H, W)`, their objects, and the units `(n,)` that they belong to.
ObjectBatch = tuple[Tensor, list[Target], Tensor]

#: What class 0 is called: what is no object.
BACKGROUND = "background"


class Pictures(Dataset[Sample]):
    """Pictures in memory, each with its objects and its unit; normalised, and mirrored together with them.

    Attributes:
        x: `(n, C, H, W)` uint8.
        targets: A dict a picture: `labels` `(m,)`, and `map` `(H, W)` or `boxes` `(m, 4)`.
        units: `(n,)`.
        mean: Of the channels on the 0..1 scale, `(C, 1, 1)`.
        std: Likewise.
        flip: Mirror each axis with probability 1/2, drawn from torch's default generator.
    """

    def __init__(
        self,
        x: Tensor,
        targets: Sequence[Target],
        units: Tensor,
        mean: Tensor,
        std: Tensor,
        *,
        flip: bool = False,
    ) -> None:
        self.x, self.targets, self.units = x, list(targets), units
        self.mean, self.std, self.flip = mean.float(), std.float(), flip

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Sample:
        x = (self.x[index].float().div_(255) - self.mean) / self.std
        target = self.targets[index]
        if self.flip:
            for dim in (-1, -2):
                if torch.rand(()) < 0.5:
                    x, target = x.flip(dim), mirrored(target, dim, x.shape[dim])
        return x, target, int(self.units[index])


def mirrored(target: Target, dim: int, size: int) -> Target:
    """The objects of a picture that is mirrored.

    Args:
        target: Its objects.
        dim: -1 for left and right, -2 for top and bottom.
        size: Of the picture in that dimension, in pixels.
    """
    moved = dict(target)
    if "map" in target:
        moved["map"] = target["map"].flip(dim)
    if "boxes" in target:
        low, high = (0, 2) if dim == -1 else (1, 3)
        boxes = target["boxes"].clone()
        boxes[:, low], boxes[:, high] = size - target["boxes"][:, high], size - target["boxes"][:, low]
        moved["boxes"] = boxes
    return moved


def together(samples: Sequence[Sample]) -> ObjectBatch:
    """One batch of samples: the pictures stacked, the objects as a list."""
    x, targets, units = zip(*samples, strict=True)
    return torch.stack(x), list(targets), torch.tensor(units)


class ObjectArchive(SplitDataModule):
    """The pictures of `root`/`name`.npz with their objects, split so that a unit stays on one side.

    Batches are `(x, targets, units)`. Class 0 is the background. `splits.samples` tells the file number and the unit of
    each picture.

    Arrays of the archive, besides those of its objects:
        x: uint8 `(N, H, W, C)`; or `jpeg` (bytes of all files), `offsets` `(N + 1,)` and `size` (H, W, C).
        y: optional, a kind of each picture, of which all parts get their share; pictures with y < 0 are left out.
        split, split_names, block, photo: optional; see `NpzData`.

    Args:
        root: Folder of the archive.
        name: File name without `.npz`.
        split: `auto` (the array `split` if there is one), `random`, or the name of another split array.
        groups: What is a unit: `auto` (`block` or `photo` if there is one), `none` (the picture), or the name of
            another array.
        fractions: Shares of train, val, guard and test; only their ratios count where the archive gives the test part.
        seed: Of the split.
        flip: Mirror training pictures left-right and top-bottom at random, with their objects.

    Raises:
        ValueError: (in `setup`) An archive or array that is not there, with those that are; an array that is not what
            it must be, with the first row that is wrong.
    """

    collate = staticmethod(together)
    #: What tells the objects of a picture, in its target.
    told_by: ClassVar[str]

    def __init__(
        self,
        root: str,
        name: str,
        split: str = "auto",
        groups: str = "auto",
        fractions: Mapping[str, float] = FRACTIONS,
        seed: int = 0,
        flip: bool = True,
        batch_size: int = 8,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, num_workers)
        self.root, self.name = Path(root), name
        self.split, self.groups = split, groups
        self.fractions, self.seed, self.flip = fractions, seed, flip

    @abstractmethod
    def objects(self, arrays: Arrays, size: tuple[int, int, int]) -> tuple[list[Target], list[str]]:
        """The objects of all pictures, and the names of their classes, without the background.

        Args:
            arrays: The archive.
            size: Number of pictures, height and width.
        """

    def load(self) -> Splits:
        """Decode the pictures, check their objects and split them."""
        with opened(self.root, self.name) as arrays:
            x = images(arrays)
            targets, classes = self.objects(arrays, (len(x), x.shape[2], x.shape[3]))
            if BACKGROUND in classes:
                raise ValueError(f"{arrays.path}: {BACKGROUND!r} names what is no object; rename that class")
            kinds = _kinds(arrays, len(x))
            known, test = known_and_test(arrays, kinds, self.split)
            known = known & ~_blank(x, targets)
            units = groups_of(arrays, kinds, self.groups)
            indices = parts(kinds, known, test, units, self.fractions, self.seed)
        units = torch.arange(len(x)) if units is None else units
        for part in PARTS:
            if not len(indices[part]) and self.fractions[part] > 0:
                raise ValueError(
                    f"{arrays.path}: {len(x)} pictures in {len(set(units.tolist()))} units leave none for {part!r}; "
                    "give more units, or other data.fractions"
                )
        names = [str(number) for number in range(len(x))]
        warn_of_flat(x[known], [names[i] for i in known.nonzero().flatten().tolist()])
        mean, std = image_moments(x[indices["train"]])
        made = {
            part: Pictures(
                x[which],
                [targets[i] for i in which.tolist()],
                units[which],
                mean,
                std,
                flip=self.flip and part == "train",
            )
            for part, which in indices.items()
        }
        labels = [made["train"].targets[i]["labels"] for i in range(len(made["train"]))]
        # Of the background every picture is a sample.
        counted = torch.cat([torch.zeros(len(labels), dtype=torch.int64), *labels])
        called = {part: [(names[i], int(units[i])) for i in indices[part].tolist()] for part in PARTS}
        shape = (x.shape[1], x.shape[2], x.shape[3])
        return Splits(
            made, counted, [BACKGROUND, *classes], shape, (mean.float(), std.float()), called, self.told_by
        )

    def told(self, part: str, protected: Sequence[int]) -> str:
        """Pictures of a part, their units, and the protected objects in them."""
        pictures: Any = self.splits.parts[part]
        labels = torch.cat([torch.zeros(0, dtype=torch.int64), *(one["labels"] for one in pictures.targets)])
        counts = [f"{int((labels == index).sum()):,} {self.class_names[index]}" for index in protected]
        units = len(pictures.units.unique())
        return f"{part} {len(pictures):,} in {units:,} unit{'s' * (units != 1)} ({', '.join(counts)})"


def _blank(x: Tensor, targets: Sequence[Target]) -> Tensor:
    """`(N,)`: pictures of one colour without an object: all alike, so that one would judge what another has trained."""
    flat = x.flatten(2)
    blank = (flat.amax(2) == flat.amin(2)).all(1) & torch.tensor([not len(one["labels"]) for one in targets])
    if blank.any():
        told = ", ".join(str(number) for number in blank.nonzero().flatten().tolist()[:5])
        rank_zero_warn(
            f"{int(blank.sum())} of {len(x)} pictures are of one colour and hold no object, such as {told}; they are "
            "left out"
        )
    return blank


def _kinds(arrays: Arrays, count: int) -> Tensor:
    """The kind of each picture; one kind where none is told."""
    if "y" not in arrays:
        return torch.zeros(count, dtype=torch.int64)
    values = arrays["y"]
    checks.check_length(values, count, arrays.where("y"))
    if values.dtype.kind in "US":
        return torch.from_numpy(np.unique(values, return_inverse=True)[1])
    return torch.from_numpy(checks.whole_numbers(values, arrays.where("y")))
