"""Labelled images in one .npz archive, read without pickled objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from lightning_classprune.job.data import checks
from lightning_classprune.job.data.archive import Arrays, groups_of, images, known_and_test, opened, parts
from lightning_classprune.job.data.augmentation import Augmentation
from lightning_classprune.job.data.base import SplitDataModule, Splits, tensor_splits
from lightning_classprune.job.data.splits import FRACTIONS


class NpzData(SplitDataModule):
    """The images of `root`/`name`.npz, split so that near-duplicates stay on one side.

    Arrays of the archive:
        x: uint8 `(N, H, W, C)`; or `jpeg` (bytes of all files), `offsets` `(N + 1,)` and `size` (H, W, C).
        y: `(N,)`, indices into `classes`, or the names themselves; samples with y < 0 are left out.
        classes: class names `(K,)`.
        split, split_names: optional; the part called `test` becomes the test part, all others are cut anew into
            train, validation and guard. Samples with split < 0 are left out.
        block, photo: optional; samples with the same value stay in the same part (overlapping crops).
        test_near_dup_of_train: optional bool `(N,)`; such samples are left out of the test part.

    Args:
        root: folder of the archive.
        name: file name without `.npz`.
        split: `auto` (the array `split` if there is one), `random`, or the name of another split array.
        groups: `auto` (`block` or `photo` if there is one), `none`, or the name of another array.
        one_vs_rest: a class name: the task becomes that class (index 1) against all others (index 0).
        fractions: shares of train, val, guard and test; only their ratios count where the archive gives the test part.
        seed: of the split.
        flip: mirror training images left-right and top-bottom at random.
        augment: transforms of `torchvision.transforms.v2` for training images, in place of `flip`.

    Raises:
        ValueError: (in `setup`) an archive, array or class name that is not there, with those that are; an array that
            is not what it must be, with the first row that is wrong.
    """

    def __init__(
        self,
        root: str,
        name: str,
        split: str = "auto",
        groups: str = "auto",
        one_vs_rest: str | None = None,
        fractions: Mapping[str, float] = FRACTIONS,
        seed: int = 0,
        flip: bool = True,
        augment: Sequence[Augmentation] | None = None,
        batch_size: int = 64,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, num_workers)
        self.root, self.name = Path(root), name
        self.split, self.groups, self.one_vs_rest = split, groups, one_vs_rest
        self.fractions, self.seed, self.flip, self.augment = fractions, seed, flip, augment

    def load(self) -> Splits:
        """Decode the images and split them."""
        with opened(self.root, self.name) as arrays:
            y, names = self._labels(arrays)
            known, test = known_and_test(arrays, y, self.split)
            groups = groups_of(arrays, y, self.groups)
            indices = parts(y, known, test, groups, self.fractions, self.seed)
            x = images(arrays)
        if len(x) != len(y):
            where = arrays.where("x" if "x" in arrays else "offsets")
            raise ValueError(f"{where} holds {len(x)} images, 'y' {len(y)} labels; must be as many")
        dims = (-1, -2) if self.flip else ()
        return tensor_splits(x, y, names, indices, dims, augment=self.augment)

    def _labels(self, arrays: Arrays) -> tuple[Tensor, list[str]]:
        names = checks.read_names(arrays["classes"], arrays.where("classes"))
        y = checks.read_labels(arrays["y"], names, arrays.where("y"))
        if self.one_vs_rest is None:
            return y, names
        if self.one_vs_rest not in names:
            raise ValueError(
                f"one_vs_rest={self.one_vs_rest!r} is not a class of {self.name}; classes: {names}"
            )
        one = (y == names.index(self.one_vs_rest)).long()
        return torch.where(y < 0, y, one), ["rest", self.one_vs_rest]
