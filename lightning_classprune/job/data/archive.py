"""Archives: the arrays of an .npz file, read without pickled objects, and what images, groups and parts they name."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lightning_classprune.job.data import checks
from lightning_classprune.job.data.splits import renormalised, split_indices

GROUP_ARRAYS = ("block", "photo")


@contextmanager
def opened(root: Path, name: str | None) -> Iterator[Arrays]:
    """Open `root`/`name`.npz.

    Raises:
        ValueError: There is no such archive; says which there are.
    """
    path = root / f"{name}.npz"
    if not path.is_file():
        there = sorted(file.stem for file in root.glob("*.npz"))
        raise ValueError(f"name={name!r}: no such archive in root={str(root)!r}; there are {there}")
    try:
        archive = np.load(path, allow_pickle=False)
    except Exception as error:  # zip readers raise anything over damaged files
        raise ValueError(f"{path} is not an .npz archive: {error}") from error
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise ValueError(f"{path} holds one array, and not an archive: write it with np.savez")
    with archive:
        yield Arrays(archive, path)


def known_and_test(arrays: Arrays, y: Tensor, split: str) -> tuple[Tensor, Tensor | None]:
    """Return masks `(N,)`: samples to use, and those of the archive's own test part (None: it has none).

    Args:
        arrays: The archive.
        y: `(N,)` labels; those below 0 are left out.
        split: `auto` (the array `split` if there is one), `random`, or the name of another split array.
    """
    known = y >= 0
    key = {"auto": "split" if "split" in arrays else None, "random": None}.get(split, split)
    if key is None:
        return known, None
    part = torch.from_numpy(checks.whole_numbers(arrays.each(key, y), arrays.where(key)))
    test = part == value_of_test(arrays[f"{key}_names"])
    if "test_near_dup_of_train" in arrays:
        near = arrays.each("test_near_dup_of_train", y)
        if near.dtype != bool:
            raise ValueError(f"{arrays.where('test_near_dup_of_train')} is {near.dtype}; must be bool")
        known = known & ~(test & torch.from_numpy(near))
    return known & (part >= 0), test


def groups_of(arrays: Arrays, y: Tensor, groups: str) -> Tensor | None:
    """Numbers of the group that each sample belongs to; None where none are named.

    Args:
        arrays: The archive.
        y: `(N,)` labels.
        groups: `auto` (`block` or `photo` if there is one), `none`, or the name of another array.
    """
    found = next((name for name in GROUP_ARRAYS if name in arrays), None)
    key = {"auto": found, "none": None}.get(groups, groups)
    return None if key is None else numbered(arrays.each(key, y), arrays.where(key))


def parts(
    y: Tensor,
    known: Tensor,
    test: Tensor | None,
    groups: Tensor | None,
    fractions: Mapping[str, float],
    seed: int,
) -> dict[str, Tensor]:
    """Return the sample indices of train, val, guard and test; what is no test part of the archive's own is cut anew.

    Args:
        y: `(N,)` labels.
        known: `(N,)`: samples to use.
        test: `(N,)`: the archive's own test part; None: it has none.
        groups: `(N,)`: what stays together; None: nothing.
        fractions: Shares; only the ratios of the first three count where there is a test part.
        seed: Of the split.
    """
    pool = (known if test is None else known & ~test).nonzero().flatten()
    fractions = fractions if test is None else renormalised(fractions, ("train", "val", "guard"))
    cut = split_indices(y[pool], fractions, seed, None if groups is None else groups[pool])
    indices = {part: pool[index] for part, index in cut.items()}
    return indices if test is None else {**indices, "test": (known & test).nonzero().flatten()}


class Arrays:
    """The arrays of an archive; asking for one that is missing is an error that lists the others."""

    def __init__(self, archive: Any, path: Path) -> None:
        self._archive, self.path = archive, path

    def __contains__(self, name: str) -> bool:
        return name in self._archive.files

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._archive.files:
            raise ValueError(f"{self.path} has no array {name!r}; it has {sorted(self._archive.files)}")
        try:
            array: np.ndarray = self._archive[name]
        except Exception as error:  # zip readers raise anything over damaged files
            raise ValueError(f"{self.where(name)} cannot be read: {error}") from error
        return array

    def each(self, name: str, y: Tensor) -> np.ndarray:
        """The array of that name, which holds one entry for each label."""
        array = self[name]
        checks.check_length(array, len(y), self.where(name))
        return array

    def where(self, name: str) -> str:
        """What an error calls the array."""
        return f"{self.path}: array {name!r}"


def numbered(values: np.ndarray, where: str) -> Tensor:
    """Numbers for the groups that text or numbers name."""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        row = int((~np.isfinite(values)).argmax())
        raise ValueError(f"{where}: row {row} is {values[row]}, which names no group")
    if values.dtype.kind in "bi":
        return torch.from_numpy(values.astype(np.int64))
    return torch.from_numpy(np.unique(values, return_inverse=True)[1])


def images(arrays: Any) -> Tensor:
    """Return the images as uint8 `(N, C, H, W)`, decoding JPEG bytes where the archive holds those."""
    if "x" in arrays:
        x = arrays["x"]
        checks.check_images(x, arrays.where("x"))
        return torch.from_numpy(x).permute(0, 3, 1, 2).contiguous()
    if "jpeg" not in arrays:
        raise ValueError(
            f"{arrays.where('x')} is not there; an archive needs 'x', or 'jpeg', 'offsets' and 'size'"
        )
    data, offsets, (height, width, channels) = _jpegs(arrays)
    decoded: Tensor | None = None
    for i in range(len(offsets) - 1):
        try:
            with Image.open(io.BytesIO(data[offsets[i] : offsets[i + 1]].tobytes())) as file:
                if file.size != (width, height):
                    raise ValueError(
                        f"has {file.height} x {file.width} pixels, 'size' says {height} x {width}"
                    )
                pixels = np.array(file.convert("L" if channels == 1 else "RGB"))
        except Exception as error:  # decoders raise anything over damaged files
            raise ValueError(f"{arrays.where('jpeg')}: row {i} cannot be used: {error}") from error
        if decoded is None:  # only now is it known that images are as large as is said
            decoded = torch.empty(len(offsets) - 1, channels, height, width, dtype=torch.uint8)
        decoded[i] = torch.from_numpy(pixels.reshape(height, width, channels)).permute(2, 0, 1)
    assert decoded is not None  # there is an offset, and so an image
    return decoded


def _jpegs(arrays: Any) -> tuple[np.ndarray, np.ndarray, tuple[int, int, int]]:
    """The bytes of all files, where each begins and the last ends, and height, width and channels."""
    data = arrays["jpeg"]
    offsets = checks.whole_numbers(arrays["offsets"], arrays.where("offsets"))
    size = checks.whole_numbers(arrays["size"], arrays.where("size")).tolist()
    if data.dtype != np.uint8 or data.ndim != 1:
        raise ValueError(
            f"{arrays.where('jpeg')} is {data.dtype} {data.shape}; must be the files' bytes, uint8"
        )
    if not isinstance(size, list) or len(size) != 3 or min(size) < 1 or size[2] not in (1, 3):
        raise ValueError(f"{arrays.where('size')} is {size}; must be height, width and 1 or 3 channels")
    if offsets.ndim != 1 or len(offsets) < 2:
        raise ValueError(f"{arrays.where('offsets')} has shape {offsets.shape}; must be (samples + 1,)")
    wrong = np.flatnonzero((np.diff(offsets) <= 0) | (offsets[:-1] < 0) | (offsets[1:] > len(data)))
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(
            f"{arrays.where('offsets')}: row {row} is a file from {offsets[row]} to {offsets[row + 1]}; must lie in "
            f"the {len(data)} bytes of 'jpeg', one after another"
        )
    return data, offsets, (size[0], size[1], size[2])


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
