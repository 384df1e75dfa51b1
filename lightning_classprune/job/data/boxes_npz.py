"""Pictures whose objects have a box each, such as blood cells, in one .npz archive."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_classprune.job.data import checks
from lightning_classprune.job.data.archive import Arrays
from lightning_classprune.job.data.objects import ObjectArchive, Target

#: By how many pixels a box may go beyond its picture, as rounding makes it.
_BEYOND = 1.0


class BoxesNpz(ObjectArchive):
    """Objects with a box each; targets have `boxes` `(m, 4)` x1, y1, x2, y2 in pixels, and `labels` from 1 on.

    Arrays of the archive, besides those of `ObjectArchive`:
        box: `(boxes, 4)` x1, y1, x2, y2 in pixels of the stored picture.
        box_image: `(boxes,)`: the picture of each.
        box_class: `(boxes,)`: the index in `box_classes` of each, or its name.
        box_classes: Names `(K,)`; by default there is one class, `object`, and no `box_class` is needed.
    """

    told_by: ClassVar[str] = "boxes"

    def objects(self, arrays: Arrays, size: tuple[int, int, int]) -> tuple[list[Target], list[str]]:
        """See `ObjectArchive`."""
        count, height, width = size
        boxes = _boxes(arrays["box"], height, width, arrays.where("box"))
        image = checks.whole_numbers(arrays["box_image"], arrays.where("box_image"))
        if image.shape != (len(boxes),):
            raise ValueError(
                f"{arrays.where('box_image')} has shape {image.shape}, must be ({len(boxes)},): one entry for "
                "each 'box'"
            )
        checks.check_range(image, 0, count - 1, arrays.where("box_image"), "the pictures")
        names, labels = ["object"], np.zeros(len(boxes), dtype=np.int64)
        if "box_classes" in arrays:
            names = checks.read_names(arrays["box_classes"], arrays.where("box_classes"), least=1)
        if len(names) > 1 or "box_class" in arrays:
            labels = checks.read_labels(arrays["box_class"], names, arrays.where("box_class")).numpy()
        if labels.shape != image.shape:
            raise ValueError(
                f"{arrays.where('box_class')} has shape {labels.shape}, must be ({len(boxes)},): one entry for each "
                "'box'"
            )
        checks.check_range(
            labels, 0, len(names) - 1, arrays.where("box_class"), "the classes of 'box_classes'"
        )
        order = np.argsort(image, kind="stable")
        cuts = np.searchsorted(image[order], np.arange(1, count))
        return [
            {
                "boxes": torch.from_numpy(boxes[rows]).float(),
                "labels": torch.from_numpy(labels[rows] + 1),
            }
            for rows in np.split(order, cuts)
        ], names


def _boxes(boxes: NDArray[np.generic], height: int, width: int, where: str) -> NDArray[np.float64]:
    if boxes.dtype.kind not in "iuf" or boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(
            f"{where} is {boxes.dtype} {boxes.shape}; must be numbers (boxes, 4): x1, y1, x2, y2 in pixels"
        )
    found: NDArray[np.float64] = boxes.astype(np.float64)
    if not len(found):
        raise ValueError(f"{where} is empty, so there are no objects")

    def refuse(wrong: Any, why: str) -> None:
        if wrong.any():
            row = int(wrong.argmax())
            raise ValueError(f"{where}: row {row} is {found[row].tolist()}, {why}")

    refuse(~np.isfinite(found).all(1), "which is not finite; leave such rows out")
    if found.max() <= 1.5 and min(height, width) > 8:
        raise ValueError(
            f"{where} holds numbers up to {found.max():g} for pictures of {height} x {width} pixels, which look like "
            "shares of the picture; multiply x by the width and y by the height"
        )
    flat = (found[:, 2] <= found[:, 0]) | (found[:, 3] <= found[:, 1])
    refuse(
        flat,
        "which has no area; boxes are x1, y1, x2, y2 with x2 > x1 and y2 > y1 (from x, y, width and height: x2 = x1 + "
        "width, y2 = y1 + height)",
    )
    limits = np.array([width, height, width, height])
    beyond = ((found < -_BEYOND) | (found > limits + _BEYOND)).any(1)
    refuse(
        beyond,
        f"which goes beyond the picture of {height} x {width} pixels (height x width); scale boxes as the pictures "
        "were, and cut off what is outside: np.clip",
    )
    clipped: NDArray[np.float64] = np.clip(found, 0, limits)
    refuse(
        (clipped[:, 2] <= clipped[:, 0]) | (clipped[:, 3] <= clipped[:, 1]),
        "which lies outside of the picture",
    )
    return clipped
