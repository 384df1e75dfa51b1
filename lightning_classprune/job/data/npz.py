"""Labelled images in one .npz archive, read without pickled objects."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lightning_classprune.job.data.base import SplitDataModule, Splits, tensor_splits
from lightning_classprune.job.data.splits import FRACTIONS, renormalised, split_indices

GROUP_ARRAYS = ("block", "photo")


class NpzData(SplitDataModule):
    """The images of `root`/`name`.npz, split so that near-duplicates stay on one side.

    Arrays of the archive:
        x: uint8 `(N, H, W, C)`; or `jpeg` (bytes of all files), `offsets` `(N + 1,)` and `size` (H, W, C).
        y: integer `(N,)`, indices into `classes`; samples with y < 0 are left out.
        classes: class names `(K,)`.
        split, split_names: optional; the part called `test` becomes the test part, all others are cut anew into
            train, validation and guard. Samples with split < 0 are left out.
        block, photo: optional; samples with the same value stay in the same part (overlapping crops).
        test_near_dup_of_train: optional bool `(N,)`; such samples are left out of the test part.

    Args:
        root: folder of the archive.
        name: file name without `.npz`.
        split: `auto` (the array `split` if there is one), `random`, or the name of another split array.
        groups: `auto` (`block` or `photo` if there is one), `none`, or the name of another integer array.
        one_vs_rest: a class name: the task becomes that class (index 1) against all others (index 0).
        fractions: shares of train, val, guard and test; only their ratios count where the archive gives the test part.
        seed: of the split.
        flip: mirror training images left-right and top-bottom at random.

    Raises:
        ValueError: (in `setup`) an archive, array or class name that is not there, with those that are.
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
        batch_size: int = 64,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, num_workers)
        self.root, self.name = Path(root), name
        self.split, self.groups, self.one_vs_rest = split, groups, one_vs_rest
        self.fractions, self.seed, self.flip = fractions, seed, flip

    def load(self) -> Splits:
        """Decode the images and split them."""
        path = self.root / f"{self.name}.npz"
        if not path.is_file():
            there = sorted(file.stem for file in self.root.glob("*.npz"))
            raise ValueError(
                f"name={self.name!r}: no such archive in root={str(self.root)!r}; there are {there}"
            )
        with np.load(path, allow_pickle=False) as archive:
            arrays = _Arrays(archive, path)
            y, names = self._labels(arrays)
            known, test = self._known_and_test(arrays, y)
            indices = self._indices(arrays, y, known, test)
            x = images(arrays)
        return tensor_splits(x, y, names, indices, flip_dims=(-1, -2) if self.flip else ())

    def _labels(self, arrays: _Arrays) -> tuple[Tensor, list[str]]:
        y = torch.from_numpy(arrays["y"].astype(np.int64))
        names = [str(name) for name in arrays["classes"]]
        if self.one_vs_rest is None:
            return y, names
        if self.one_vs_rest not in names:
            raise ValueError(
                f"one_vs_rest={self.one_vs_rest!r} is not a class of {self.name}; classes: {names}"
            )
        one = (y == names.index(self.one_vs_rest)).long()
        return torch.where(y < 0, y, one), ["rest", self.one_vs_rest]

    def _known_and_test(self, arrays: _Arrays, y: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return masks `(N,)`: samples to use, and those of the archive's own test part (None: it has none)."""
        known = y >= 0
        key = {"auto": "split" if "split" in arrays else None, "random": None}.get(self.split, self.split)
        if key is None:
            return known, None
        part = torch.from_numpy(arrays[key].astype(np.int64))
        test = part == value_of_test(arrays[f"{key}_names"])
        if "test_near_dup_of_train" in arrays:
            known = known & ~(test & torch.from_numpy(arrays["test_near_dup_of_train"]))
        return known & (part >= 0), test

    def _indices(self, arrays: _Arrays, y: Tensor, known: Tensor, test: Tensor | None) -> dict[str, Tensor]:
        found = next((name for name in GROUP_ARRAYS if name in arrays), None)
        key = {"auto": found, "none": None}.get(self.groups, self.groups)
        groups = None if key is None else torch.from_numpy(arrays[key].astype(np.int64))
        pool = (known if test is None else known & ~test).nonzero().flatten()
        fractions = (
            self.fractions if test is None else renormalised(self.fractions, ("train", "val", "guard"))
        )
        cut = split_indices(y[pool], fractions, self.seed, None if groups is None else groups[pool])
        indices = {part: pool[index] for part, index in cut.items()}
        return indices if test is None else {**indices, "test": (known & test).nonzero().flatten()}


class _Arrays:
    """The arrays of an archive; asking for one that is missing is an error that lists the others."""

    def __init__(self, archive: Any, path: Path) -> None:
        self._archive, self._path = archive, path

    def __contains__(self, name: str) -> bool:
        return name in self._archive.files

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._archive.files:
            raise ValueError(f"{self._path} has no array {name!r}; it has {sorted(self._archive.files)}")
        array: np.ndarray = self._archive[name]
        return array


def images(arrays: Any) -> Tensor:
    """Return the images as uint8 `(N, C, H, W)`, decoding JPEG bytes where the archive holds those."""
    if "x" in arrays:
        return torch.from_numpy(arrays["x"]).permute(0, 3, 1, 2).contiguous()
    data, offsets = arrays["jpeg"], arrays["offsets"]
    height, width, channels = (int(value) for value in arrays["size"])
    x = torch.empty(len(offsets) - 1, channels, height, width, dtype=torch.uint8)
    for i in range(len(x)):
        with Image.open(io.BytesIO(data[offsets[i] : offsets[i + 1]].tobytes())) as file:
            pixels = np.array(file.convert("L" if channels == 1 else "RGB"))
        x[i] = torch.from_numpy(pixels.reshape(height, width, channels)).permute(2, 0, 1)
    return x


def value_of_test(names: np.ndarray) -> int:
    """Return the value that means `test`: a name's position, or the number written before it ("2 test").

    Raises:
        ValueError: no name is `test`.
    """
    for position, text in enumerate(str(name) for name in names):
        match = re.fullmatch(r"(?:(-?\d+) )?test", text)
        if match:
            return position if match[1] is None else int(match[1])
    raise ValueError(f"no part is called 'test' in {[str(name) for name in names]}; use split=random")
