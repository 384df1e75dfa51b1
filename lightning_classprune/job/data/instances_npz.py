"""Pictures whose objects have a mask each, such as nuclei, in one .npz archive."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from numpy.typing import NDArray

from lightning_classprune.job.data import checks
from lightning_classprune.job.data.archive import Arrays
from lightning_classprune.job.data.objects import ObjectArchive, Target

#: What the map of objects may be called; the first that is there.
MAPS = ("instances", "objects")
#: Where the class of each object is told, and of which.
CLASSES = ("obj_image", "obj_id", "obj_class")


class InstancesNpz(ObjectArchive):
    """Objects with a mask each; targets have a `map` `(H, W)` of numbers and `labels` in their ascending order.

    Arrays of the archive, besides those of `ObjectArchive`:
        instances (or objects): `(N, H, W)` whole numbers, 0 outside, k the k-th object of that picture.
        label_classes: optional, names `(K,)`, the first of what is no object; by default there is one class, `object`.
        obj_image, obj_id, obj_class: `(objects,)` where there is more than one class: the picture, the number in its
            map and the index in `label_classes` of each object.
    """

    told_by: ClassVar[str] = "map"

    def objects(self, arrays: Arrays, size: tuple[int, int, int]) -> tuple[list[Target], list[str]]:
        """See `ObjectArchive`."""
        key = next((name for name in MAPS if name in arrays), MAPS[0])
        maps = _maps(arrays[key], size, arrays.where(key))
        names = ["", "object"]
        if "label_classes" in arrays:
            names = checks.read_names(arrays["label_classes"], arrays.where("label_classes"))
        numbers = [np.unique(one[one > 0]) for one in maps]
        if "obj_class" in arrays:
            labels = _labels(arrays, numbers, names, key)
            names, labels = _without_empty(names, labels, arrays.where("label_classes"))
        elif len(names) == 2:
            labels = [np.ones(len(one), dtype=np.int64) for one in numbers]
        else:
            raise ValueError(
                f"{arrays.where('label_classes')} names {len(names) - 1} classes of objects, and nothing says which "
                f"object is of which: give the arrays {', '.join(map(repr, CLASSES))}, one row an object"
            )
        targets = [
            {"map": torch.from_numpy(one.astype(np.int32)), "labels": torch.from_numpy(its)}
            for one, its in zip(maps, labels, strict=True)
        ]
        return targets, names[1:]


def _without_empty(
    names: list[str], labels: list[NDArray[np.int64]], where: str
) -> tuple[list[str], list[NDArray[np.int64]]]:
    """Only the classes that some object is of: archives name others too, such as the sky."""
    there = np.unique(np.concatenate([np.zeros(1, np.int64), *labels]))
    empty = [name for place, name in enumerate(names) if place not in there]
    if empty:
        rank_zero_warn(f"{where}: there is no object of {', '.join(map(repr, empty))}; left out")
    return [names[place] for place in there], [np.searchsorted(there, one) for one in labels]


def _maps(maps: NDArray[np.generic], size: tuple[int, int, int], where: str) -> NDArray[np.int64]:
    if maps.dtype.kind not in "iu":
        raise ValueError(
            f"{where} is {maps.dtype}; must be whole numbers, 0 outside of objects and another for each object of a "
            "picture: of numbers x.round().astype(np.int32), of masks or probabilities scipy.ndimage.label(one > 0.5) "
            "of each picture"
        )
    if maps.shape != size:
        mend = "; leave out the axis of one channel: x[..., 0]" if maps.shape == (*size, 1) else ""
        raise ValueError(
            f"{where} has shape {maps.shape}, must be {size}: a number for each pixel of 'x'{mend}"
        )
    whole: NDArray[np.int64] = maps.astype(np.int64)
    if maps.size and (whole.min() < 0 or whole.max() > np.iinfo(np.int32).max):
        row = int(((whole < 0) | (whole > np.iinfo(np.int32).max)).any((1, 2)).argmax())
        wrong = whole[row].min() if whole[row].min() < 0 else whole[row].max()
        raise ValueError(f"{where}: picture {row} holds {wrong}; objects are 1, 2, ..., and 0 is outside")
    if not whole.any():
        raise ValueError(f"{where} is 0 everywhere, so there are no objects")
    if len(whole) > 1 and not (whole < whole.max((1, 2), keepdims=True))[whole > 0].any():
        rank_zero_warn(
            f"{where}: no picture has more than one object; where these are masks of a class, number their pieces "
            "first: scipy.ndimage.label(one)[0] of each picture"
        )
    return whole


def _labels(
    arrays: Arrays, numbers: list[NDArray[np.int64]], names: list[str], key: str
) -> list[NDArray[np.int64]]:
    """The class of every object of a picture, in the order of its numbers."""
    for name in CLASSES:
        if name not in arrays:
            raise ValueError(f"{arrays.where(name)} is not there, but 'obj_class' is; give all of {CLASSES}")
    image, number, label = (checks.whole_numbers(arrays[name], arrays.where(name)) for name in CLASSES)
    for name, values in zip(CLASSES[1:], (number, label), strict=True):
        if values.shape != image.shape or image.ndim != 1:
            raise ValueError(
                f"{arrays.where(name)} has shape {values.shape} and 'obj_image' {image.shape}; must be one row "
                "an object"
            )
    checks.check_range(image, 0, len(numbers) - 1, arrays.where("obj_image"), "the pictures")
    checks.check_range(label, 1, len(names) - 1, arrays.where("obj_class"), "the classes of 'label_classes'")
    told: list[dict[int, int]] = [{} for _ in numbers]
    for row, (of, its, kind) in enumerate(zip(image.tolist(), number.tolist(), label.tolist(), strict=True)):
        if its in told[of]:
            raise ValueError(f"{arrays.where('obj_id')}: row {row} is object {its} of picture {of} once more")
        told[of][its] = kind
    found = []
    for of, there in enumerate(numbers):
        said, seen = set(told[of]), set(there.tolist())
        if said - seen:
            raise ValueError(
                f"{arrays.where('obj_id')}: object {min(said - seen)} of picture {of} has no pixel in {key!r}; leave "
                "its row out"
            )
        if seen - said:
            raise ValueError(
                f"{arrays.where('obj_id')}: nothing says of which class object {min(seen - said)} of picture {of} is"
            )
        found.append(np.array([told[of][its] for its in there.tolist()], dtype=np.int64))
    return found
