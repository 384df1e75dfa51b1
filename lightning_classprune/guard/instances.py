"""Instances: objects with a mask each, and the predicted masks that find them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lightning_classprune.guard.boxes import ImageMatch, read_images, score_biases, unmatched_in
from lightning_classprune.guard.lists import field, labelled
from lightning_classprune.guard.masks import OF_THE_CLASS, MaskRule, check_rule, in_words
from lightning_classprune.guard.matching import boxes_of, centroids, claimed_by, in_turn
from lightning_classprune.guard.objects import Reading, Seen, Unmatched
from lightning_classprune.trainer import arguments

#: Probability from which on a pixel of a predicted mask belongs to it, as in torchvision's models.
_IN_THE_MASK = 0.5

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Layers:
    """The masks of one image.

    Attributes:
        map: `(H, W)`, numbers from 1 on, where no two overlap; else None.
        stack: `(m, H, W)` booleans where they do; else None.
        count: m.
        size: H and W.
    """

    map: NDArray[Any] | None
    stack: NDArray[np.bool_] | None
    count: int
    size: tuple[int, ...]

    def only(self, keep: NDArray[np.bool_]) -> Layers:
        """Some of the masks, numbered anew."""
        count = int(keep.sum())
        if self.map is None:
            assert self.stack is not None
            return Layers(None, self.stack[keep], count, self.size)
        numbers = np.concatenate([[0], np.where(keep, np.cumsum(keep), 0)])
        return Layers(numbers[self.map], None, count, self.size)

    @property
    def areas(self) -> Ints:
        """`(m,)` pixels of each."""
        if self.map is None:
            assert self.stack is not None
            counted: Ints = self.stack.sum((1, 2)).astype(np.int64)
            return counted
        counts: Ints = np.bincount(self.map.ravel(), minlength=self.count + 1)[1:]
        return counts

    def flat(self) -> NDArray[np.float32]:
        """`(m, H * W)`: ones and zeros."""
        if self.stack is not None:
            return self.stack.reshape(self.count, math.prod(self.size)).astype(np.float32)  # of none too
        assert self.map is not None
        whole: NDArray[np.bool_] = self.map.ravel()[None] == np.arange(1, self.count + 1)[:, None]
        return whole.astype(np.float32)

    def shared(self, other: Layers) -> Floats:
        """`(m, k)`: pixels shared with each mask of another image of the same size."""
        if self.map is None or other.map is None:
            product: Floats = (self.flat() @ other.flat().T).astype(np.float64)
            return product
        columns = other.count + 1
        joint = self.map.ravel().astype(np.int64) * columns + other.map.ravel()
        counts = np.bincount(joint, minlength=(self.count + 1) * columns).reshape(-1, columns)
        return counts[1:, 1:].astype(np.float64)

    def boxes(self) -> Floats:
        """`(m, 4)`: x1, y1, x2, y2, the ends beyond the mask."""
        if self.map is not None:
            return boxes_of(self.map, self.count).astype(np.float64)
        boxes = np.zeros((self.count, 4))
        flat = self.flat().reshape(self.count, *self.size) > 0
        for place, mask in enumerate(flat):
            y, x = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            if len(y):
                boxes[place] = x[0], y[0], x[-1] + 1, y[-1] + 1
        return boxes

    def centroids(self) -> Ints:
        """`(m, 2)`: row and column of the pixel nearest to each mask's centroid."""
        if self.map is not None:
            return centroids(self.map, self.count)
        flat, size = self.flat(), np.maximum(self.areas, 1)[:, None]
        rows, columns = np.indices(self.size)
        places = np.stack([rows.ravel(), columns.ravel()], 1)
        middle: Ints = np.rint(flat.astype(np.float64) @ places / size).astype(np.int64)
        return middle


def layers(told: Mapping[str, Any], whose: str, where: str) -> Layers:
    """The masks of one image: a map of numbers, 0 outside, or a stack of masks or of their probabilities.

    Raises:
        ValueError: Of another shape, or a target mask without a pixel; names `predict`.
    """
    if "map" in told:
        given = field(told, "map", whose, where)
        if given.ndim == 3 and given.shape[0] == 1:
            given = given[0]
        if given.ndim != 2 or given.min(initial=0) < 0 or not np.issubdtype(given.dtype, np.integer):
            raise ValueError(
                f"predict: the {whose} of {where} has a map of shape {given.shape} and dtype {given.dtype}; (H, W) "
                "whole numbers are needed, 0 outside of objects"
            )
        numbers, count = in_turn(given)
        return Layers(numbers, None, count, given.shape)
    masks = field(told, "masks", whose, where)
    if masks.ndim == 4 and masks.shape[1] == 1:
        masks = masks[:, 0]
    if masks.ndim != 3:
        raise ValueError(
            f"predict: the {whose} of {where} has masks of shape {masks.shape}; (m, H, W) are needed, or a 'map' (H, W)"
        )
    stack = masks > _IN_THE_MASK if np.issubdtype(masks.dtype, np.floating) else masks.astype(bool)
    if whose == "target" and len(stack) and not stack.any((1, 2)).all():
        empty = int(np.flatnonzero(~stack.any((1, 2)))[0])
        raise ValueError(
            f"predict: mask {empty} of the target of {where} has no pixel; leave such objects out"
        )
    if len(stack) and stack.sum(0).max() <= 1:
        numbers = (stack * np.arange(1, len(stack) + 1)[:, None, None]).sum(0)
        return Layers(numbers, None, len(stack), stack.shape[1:])
    return Layers(None, stack, len(stack), stack.shape[1:])


@dataclass(frozen=True)
class InstanceSegmentation:
    """Objects with a mask each: lists of a dict an image.

    A prediction has `masks` `(m, H, W)` (or torchvision's `(m, 1, H, W)` probabilities) or a `map` `(H, W)` of numbers,
    0 outside, and `labels`; `scores` where it has any. A target has `masks` or a `map`, and `labels`, and optionally
    `iscrowd` or `ignore` as in `Detection`. The labels of a map are in ascending order of its numbers; with two classes
    they may be left out, and all are of the second.

    Attributes:
        rule: `"iou"`: an object is found by a mask with an IoU above `iou`; `"coverage"`: where a predicted mask covers
            at least this share of it; `"centroid"`: where the centroid of a predicted mask lies on it.
        iou: In [0.5, 1) with the rule of that name; the share, in [0, 1], with `"coverage"`.
        score_threshold: Predictions with a score below it do not count; in (0, 1).

    Raises:
        ValueError: An argument is out of range; the message names it.
    """

    noun: ClassVar[str] = "objects"
    competes: ClassVar[bool] = False

    rule: MaskRule = "iou"
    iou: float = 0.5
    score_threshold: float = 0.5

    def __post_init__(self) -> None:
        check_rule("InstanceSegmentation", self.rule, "iou", self.iou)
        arguments.share("InstanceSegmentation.score_threshold", self.score_threshold)

    @property
    def in_words(self) -> str:
        """When an object counts as found."""
        return in_words(self.rule, self.iou)

    def biases(self) -> tuple[float, ...]:
        """Of a prediction's score."""
        return score_biases(self.score_threshold)

    def read(self, scores: Any, target: Any, how: Reading) -> tuple[int, dict[int, Seen]]:
        """The masks of a batch; see `Kind`."""
        return read_images("InstanceSegmentation", scores, target, self.score_threshold, how, self._of_image)

    def unmatched(
        self, scores: Any, target: Any, how: Reading, biases: Mapping[int, float]
    ) -> list[Unmatched]:
        """The masks that match no object; see `Outlined`."""
        thresholds = {index: self.score_threshold - biases.get(index, 0.0) for index in how.protected}
        return unmatched_in("InstanceSegmentation", scores, target, thresholds, how, self._of_image)

    def _of_image(
        self, prediction: Mapping[str, Any], target: Mapping[str, Any], where: str, how: Reading
    ) -> dict[int, ImageMatch]:
        claimed, true = layers(prediction, "prediction", where), layers(target, "target", where)
        if claimed.count and true.count and claimed.size != true.size:
            raise ValueError(
                f"predict: the prediction of {where} is of size {claimed.size} and its target of {true.size}; "
                "bring the masks to the size of the target"
            )
        given = labelled(prediction, claimed.count, how, "prediction", where)
        objects = labelled(target, true.count, how, "target", where)
        found = {}
        for index in how.protected:
            mine, theirs = given.labels == index, objects.labels == index
            masks = claimed.only(mine)
            real, crowd = true.only(theirs & ~objects.ignored), true.only(theirs & objects.ignored)
            found[index] = self._match(masks, given.scores[mine], real, crowd)
        return found

    def _match(self, masks: Layers, scores: Floats, real: Layers, crowd: Layers) -> ImageMatch:
        size = np.maximum(masks.areas, 1)[:, None]
        ignored: NDArray[Any] = np.zeros(masks.count, dtype=bool)
        if masks.count and crowd.count:
            ignored = np.any(masks.shared(crowd) >= OF_THE_CLASS * size, axis=1)
        shared: NDArray[Any] = np.zeros((masks.count, real.count))
        if masks.count and real.count:
            shared = masks.shared(real)
        if self.rule == "iou":
            iou = shared / np.maximum(size + real.areas[None] - shared, 1)
            claims, of_object = claimed_by(iou, scores, self.iou, above=True)
        elif self.rule == "coverage":
            # A prediction finds all that it covers, and the best score of them counts.
            covers = (shared > 0) & (shared >= self.iou * real.areas[None])
            of_object = np.where(covers, scores[:, None], -np.inf).max(0, initial=-np.inf)
            claims = np.where(shared.sum(1) >= OF_THE_CLASS * size[:, 0], 0, -1)
        else:
            on: NDArray[Any] = np.zeros_like(shared)
            if masks.count and real.count:
                row, column = masks.centroids().T
                on = real.flat().reshape(real.count, *real.size)[:, row, column].T
            claims, of_object = claimed_by(on.astype(np.float64), scores, 0.5)
        none = (claims < 0) & ~ignored
        return ImageMatch(real.boxes(), real.areas, of_object, scores[none], lambda: masks.only(none).boxes())
