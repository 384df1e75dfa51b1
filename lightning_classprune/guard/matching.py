"""Matching: which objects of an image or a batch are found by which predictions, without a loop over pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Booleans = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

#: Pixels that touch at a corner belong to one piece - else a thin diagonal crack is many; images do not touch.
_TOUCHING = np.zeros((3, 3, 3), dtype=int)
_TOUCHING[1] = 1


def pieces(masks: Booleans) -> tuple[NDArray[np.int32], int]:
    """Connected pieces of a stack of masks: `(n, H, W)` numbers from 1 on, 0 outside, and how many there are."""
    numbers, count = ndimage.label(masks, structure=_TOUCHING)
    return numbers, int(count)


def areas(numbers: NDArray[Any], count: int) -> Ints:
    """`(count,)`: pixels of every piece."""
    counted: Ints = np.bincount(numbers.ravel(), minlength=count + 1)[1:]
    return counted


def images_of(numbers: NDArray[Any], count: int) -> Ints:
    """`(count,)`: in which image of a stack every piece is."""
    where = np.flatnonzero(numbers)
    images = np.zeros(count + 1, dtype=np.int64)
    images[numbers.ravel()[where]] = where // max(numbers[0].size, 1)
    return images[1:]


def boxes_of(numbers: NDArray[Any], count: int) -> NDArray[np.float32]:
    """`(count, 4)`: x1, y1, x2, y2 of every piece, in pixels, the ends beyond it."""
    boxes = np.zeros((count, 4), dtype=np.float32)
    for place, slices in enumerate(ndimage.find_objects(numbers, max_label=count) if count else ()):
        y, x = slices[-2:]
        boxes[place] = x.start, y.start, x.stop, y.stop
    return boxes


def centroids(numbers: NDArray[Any], count: int) -> Ints:
    """`(count, 2)`: row and column of the pixel nearest to the centroid of every piece of a stack or of an image."""
    *_, rows, columns = np.nonzero(numbers)
    of = numbers[numbers > 0].astype(np.int64) - 1
    size = np.maximum(areas(numbers, count), 1)
    sums = [np.bincount(of, weights=where, minlength=count) for where in (rows, columns)]
    middle: Ints = np.rint(np.stack(sums, 1) / size[:, None]).astype(np.int64)
    return middle


def in_turn(numbers: NDArray[Any]) -> tuple[Ints, int]:
    """A map with its numbers replaced by 1, 2, ... in ascending order, 0 staying 0, and how many there are."""
    largest = int(numbers.max(initial=0))
    if largest > 1 << 20:
        there, places = np.unique(numbers, return_inverse=True)
        outside = int(there[0] == 0)
        return places.reshape(numbers.shape) + 1 - outside, len(there) - outside
    known = np.bincount(numbers.ravel().astype(np.int64), minlength=1) > 0
    known[0] = False
    return np.where(known, np.cumsum(known), 0)[numbers.astype(np.int64)], int(known.sum())


def overlaps(true: NDArray[Any], others: NDArray[Any], trues: int, count: int) -> tuple[Ints, Ints, Ints]:
    """Pairs of pieces that share pixels: places of the one, of the other, and how many pixels.

    Args:
        true: Numbers from 1 on, 0 outside.
        others: The same, of the same shape.
        trues: How many there are of the one.
        count: And of the other.
    """
    both = (true > 0) & (others > 0)
    joint = (true[both].astype(np.int64) - 1) * max(count, 1) + others[both] - 1
    if trues * count <= 1 << 20:
        shared = np.bincount(joint, minlength=trues * count)
        keys = np.flatnonzero(shared)
        return keys // max(count, 1), keys % max(count, 1), shared[keys]
    keys, shared = np.unique(joint, return_counts=True)
    return keys // count, keys % count, shared


def claimed_by(iou: Floats, scores: Floats, least: float, *, above: bool = False) -> tuple[Ints, Floats]:
    """Match predictions to objects by falling score; each takes the free object with the largest IoU.

    Args:
        iou: `(predictions, objects)`.
        scores: `(predictions,)`; of equal ones the earlier is first.
        least: IoU from which on a prediction may claim an object.
        above: The IoU must be larger.

    Returns:
        Of every prediction its object, -1 for none; of every object the score of what claims it, -inf for nothing.
    """
    may = iou > least if above else iou >= least
    claims = np.full(len(scores), -1, dtype=np.int64)
    some = np.flatnonzero(may.any(1))
    if len(some) and may.sum(1).max() == 1 and may.sum(0).max() == 1:
        claims[some] = may[some].argmax(1)
    else:
        free = np.ones(iou.shape[1], dtype=bool)
        for prediction in some[np.argsort(-scores[some], kind="stable")]:
            open_to = np.flatnonzero(may[prediction] & free)
            if len(open_to):
                # Of equals the last, as in COCO's evaluation.
                values = iou[prediction, open_to]
                claims[prediction] = open_to[np.flatnonzero(values == values.max())[-1]]
                free[claims[prediction]] = False
    of_object = np.full(iou.shape[1], -np.inf)
    of_object[claims[claims >= 0]] = scores[claims >= 0]
    return claims, of_object


def box_areas(boxes: Floats) -> Floats:
    """`(n,)`: areas of boxes x1, y1, x2, y2."""
    return np.maximum(boxes[:, 2] - boxes[:, 0], 0) * np.maximum(boxes[:, 3] - boxes[:, 1], 0)


def box_overlaps(boxes: Floats, others: Floats) -> Floats:
    """`(n, m)`: areas that boxes share."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared: Floats = np.maximum(high - low, 0).prod(2)
    return shared


def box_iou(boxes: Floats, others: Floats) -> Floats:
    """`(n, m)`: intersection over union of boxes."""
    shared = box_overlaps(boxes, others)
    union = box_areas(boxes)[:, None] + box_areas(others)[None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
