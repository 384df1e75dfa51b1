"""What samples and labels must be before anything is trained on them: one validator for all sources.

An error names the source (a file and its array, a column), the first row that is wrong, and the mend. Rows count from
0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor

#: Levels of 255 by which the pixels of an image differ, at most, for it to be called nearly constant.
FLAT = 2
#: The brightest pixel of 255 of a whole set, at most, for it to be called dark.
DARK = 31
_SHOWN = 3
_CHANNELS = (1, 2, 3, 4)


def check_images(x: np.ndarray, where: str) -> None:
    """Refuse what is not uint8 images `(samples, height, width, channels)`.

    Raises:
        ValueError: Another type or shape, or no image; says how to turn it into one.
    """
    if x.dtype != np.uint8:
        raise ValueError(
            f"{where} is {x.dtype}{_spread(x)}, and images must be uint8, 0 to 255: what is exported later takes such "
            "pixels; store what the camera gave, or np.round(255 * (x - low) / (high - low)).astype(np.uint8) "
            "with one low and one high for all images"
        )
    if x.ndim != 4 or 0 in x.shape:
        mend = "; for grey images add the channels: x[..., None]" if x.ndim == 3 else ""
        raise ValueError(
            f"{where} has shape {x.shape}, and images must be (samples, height, width, channels){mend}"
        )
    _, first, second, last = x.shape
    # More than a colour image's channels: told by a first axis that is no height beside the other two.
    if last not in _CHANNELS and (first in _CHANNELS or (first != second and first < min(second, last))):
        raise ValueError(
            f"{where} has shape {x.shape}, which looks like (samples, channels, height, width); images must be "
            "(samples, height, width, channels): x.transpose(0, 2, 3, 1)"
        )


def check_rows(x: Tensor, where: str) -> None:
    """Refuse rows of features that are not finite.

    Raises:
        ValueError: Names the first row and column that is not.
    """
    wrong = (~torch.isfinite(x)).nonzero()
    if len(wrong):
        row, column = wrong[0].tolist()
        raise ValueError(f"{where}: row {row}, column {column} is {x[row, column].item()}; must be finite")


def check_length(array: np.ndarray, count: int, where: str) -> None:
    """Refuse an array that does not hold one entry a sample.

    Raises:
        ValueError: Names both lengths.
    """
    if array.shape != (count,):
        raise ValueError(
            f"{where} has shape {array.shape}, must be ({count},): one entry for each label of 'y'"
        )


def whole_numbers(values: np.ndarray, where: str) -> np.ndarray:
    """Numbers that stand for something, as int64.

    Raises:
        ValueError: They are not whole; names the first row.
    """
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{where} is {values.dtype}; must be whole numbers")
    flat = values.ravel()
    if flat.dtype.kind == "f":
        wrong = np.flatnonzero(~np.isfinite(flat) | (flat != np.rint(flat)))
        if len(wrong):
            raise ValueError(f"{where}: row {wrong[0]} is {flat[wrong[0]]}; must be a whole number")
    if flat.dtype.kind == "u" and len(flat) and flat.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{where}: row {flat.argmax()} is {flat.max()}; must fit into int64")
    return values.astype(np.int64)


def check_range(values: np.ndarray, least: int, most: int, where: str, what: str) -> None:
    """Refuse whole numbers that stand for nothing.

    Args:
        values: `(n,)`.
        least: The smallest that is allowed.
        most: The largest.
        where: What holds them, for errors.
        what: What they stand for.

    Raises:
        ValueError: Names the first row that is out of range.
    """
    wrong = (values < least) | (values > most)
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"{where}: row {row} is {values[row]}; allowed are {least} to {most}, {what}")


def read_labels(values: np.ndarray, names: Sequence[str], where: str) -> Tensor:
    """Labels as indices into `names`, int64; negative ones, which mark samples to leave out, as they are.

    Args:
        values: Whole numbers, or the classes' names.
        names: Of all classes.
        where: What holds them, for errors.

    Raises:
        ValueError: One that is no class, or is not whole; names its row. Labels that are one-hot or begin at 1.
    """
    if values.ndim != 1:
        hot = values.ndim == 2 and values.shape[1] == len(names) > 1
        mend = "one-hot labels become indices by y.argmax(1)" if hot else "give one label a sample"
        raise ValueError(f"{where} has shape {values.shape}, must be (samples,): {mend}")
    if not len(values):
        raise ValueError(f"{where} is empty; there must be samples")
    if values.dtype.kind in "US":
        return _from_names(read_text(values, where), names, where)
    y = whole_numbers(values, where)
    if y.min() == 1 and y.max() == len(names):
        raise ValueError(
            f"{where}: the labels of {len(names)} classes run from 1 to {len(names)}; must begin at 0: y - 1"
        )
    counted = y[y >= 0]
    if len(counted) and counted.min() == 1 and counted.max() < len(names):
        rank_zero_warn(
            f"{where}: no label is 0, the class {names[0]!r}; where labels begin at 1, they must begin at 0: y - 1"
        )
    if y.max() >= len(names):
        row = int((y >= len(names)).argmax())
        raise ValueError(
            f"{where}: row {row} is {y[row]}; allowed are 0 to {len(names) - 1}, the classes {_listed(names)}, and "
            "negative numbers for samples to leave out"
        )
    return torch.from_numpy(y)


def _from_names(values: Sequence[str], names: Sequence[str], where: str) -> Tensor:
    index = {name: place for place, name in enumerate(names)}
    for row, value in enumerate(values):
        if value not in index:
            raise ValueError(
                f"{where}: row {row} is {value!r}, which is none of the classes {_listed(names)}"
            )
    return torch.tensor([index[value] for value in values])


def read_names(values: np.ndarray, where: str, least: int = 2) -> list[str]:
    """Class names as text, as many as `least` or more.

    Raises:
        ValueError: Not one name a class, or one name twice.
    """
    if values.ndim != 1 or len(values) < least:
        few = "two or more classes" if least > 1 else "the classes"
        raise ValueError(f"{where} has shape {values.shape}; must be the names of {few}")
    names = read_text(values, where) if values.dtype.kind in "US" else [str(name) for name in values.tolist()]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{where}: the name {twice!r} stands there twice; must be different")
    return names


def read_text(values: np.ndarray, where: str) -> list[str]:
    """Text, from bytes as well.

    Raises:
        ValueError: Bytes that are not UTF-8; names the first row.
    """
    if values.dtype.kind == "U":
        return [str(value) for value in values.tolist()]
    read = []
    for row, value in enumerate(values.tolist()):
        try:
            read.append(bytes(value).decode())
        except UnicodeDecodeError as error:
            raise ValueError(f"{where}: row {row} is {value!r}, which is not UTF-8") from error
    return read


def warn_of_flat(spread: Sequence[int], brightest: int, names: Sequence[str]) -> None:
    """Say which images hold next to nothing, and whether all are dark: what a wrong conversion leaves.

    Args:
        spread: By image, largest less smallest pixel, of 255.
        brightest: Of all pixels, of 255.
        names: What the images are called.
    """
    flat = [name for name, one in zip(names, spread, strict=True) if one <= FLAT]
    if flat:
        rank_zero_warn(
            f"{len(flat)} of {len(names)} images are nearly constant (their pixels differ by at most {FLAT} of 255), "
            f"such as {_listed(flat)}; look at them: were they converted wrongly?"
        )
    if brightest <= DARK:
        rank_zero_warn(
            f"the brightest pixel of all {len(names)} images is {brightest} of 255; a camera of 12 bits in files of "
            "16, or pixels from 0 to 1, look so: scale them to 0 to 255 before"
        )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(map(repr, names[:_SHOWN]))}{more}"


def _spread(x: np.ndarray) -> str:
    """The range of what is there, and the first row of images that is not finite."""
    if x.dtype.kind not in "biuf" or not x.size:
        return ""
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        return f" (row {np.argwhere(~np.isfinite(x))[0][0]} is not finite)"
    return f" from {x.min():g} to {x.max():g}"
