"""Masks: the pieces of a protected class in semantic segmentation, and what finds them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lightning_classprune.guard.claims import (
    SCORE_BIASES,
    check_kind,
    check_numbers,
    check_target,
    claims,
    flags_of,
    scores_of,
)
from lightning_classprune.guard.matching import areas, boxes_of, centroids, images_of, overlaps, pieces
from lightning_classprune.guard.objects import EVERYTHING, Reading, Seen
from lightning_classprune.trainer import arguments

MaskRule = Literal["coverage", "iou", "centroid"]
#: A claimed piece is a false alarm under the rule of coverage where less than this share of it is of the class.
OF_THE_CLASS = 0.5

Booleans = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Pieces:
    """Numbered pieces of a stack of images: `(n, H, W)` from 1 on, 0 outside."""

    numbers: NDArray[Any]
    count: int

    @property
    def areas(self) -> Ints:
        """Pixels of each."""
        return areas(self.numbers, self.count)

    @property
    def images(self) -> Ints:
        """In which image each is."""
        return images_of(self.numbers, self.count)


@dataclass(frozen=True)
class Match:
    """What claimed pieces find.

    Attributes:
        found: Of every object.
        false: Of every claimed piece: it matches none.
        outside: Of every claimed piece: its pixels outside of objects; 0 where they say nothing.
    """

    found: Booleans
    false: Booleans
    outside: Ints


def match(true: Pieces, claimed: Pieces, rule: MaskRule, share: float) -> Match:
    """Which objects are found by which claimed pieces.

    Args:
        true: The objects.
        claimed: What a network claims.
        rule: `"coverage"`: a share of the object is claimed; a claimed piece is false where less than half of it lies
            on objects. `"iou"`: one piece has an IoU above the share, which is at least .5, so that pairs are unique.
            `"centroid"`: the centroid of a piece lies on the object; a second one there is false.
        share: See the rule.
    """
    if rule == "centroid":
        return _by_centroid(true, claimed)
    objects, pieces_, shared = overlaps(true.numbers, claimed.numbers, true.count, claimed.count)
    size, claimed_size = true.areas, claimed.areas
    if rule == "iou":
        iou = shared / np.maximum(size[objects] + claimed_size[pieces_] - shared, 1)
        good = iou > share
        found, false = np.zeros(true.count, dtype=bool), np.ones(claimed.count, dtype=bool)
        found[objects[good]], false[pieces_[good]] = True, False
        return Match(found, false, np.zeros(claimed.count, dtype=np.int64))
    covered = np.bincount(objects, weights=shared, minlength=true.count)
    on_objects = np.bincount(pieces_, weights=shared, minlength=claimed.count)
    false = on_objects < OF_THE_CLASS * claimed_size
    outside = np.where(false, claimed_size - on_objects, 0).astype(np.int64)
    return Match((covered > 0) & (covered >= share * size), false, outside)


def _by_centroid(true: Pieces, claimed: Pieces) -> Match:
    rows, columns = centroids(claimed.numbers, claimed.count).T
    hit = true.numbers[claimed.images, rows, columns]
    found, false = np.zeros(true.count, dtype=bool), np.ones(claimed.count, dtype=bool)
    objects, first = np.unique(hit, return_index=True)
    found[objects[objects > 0] - 1], false[first[objects > 0]] = True, False
    return Match(found, false, np.zeros(claimed.count, dtype=np.int64))


@dataclass(frozen=True)
class Segmentation:
    """Semantic segmentation: the objects are the connected pieces of a protected class.

    `predict` returns scores `(n, C, H, W)`, or of two classes one, `(n, 1, H, W)` or `(n, H, W)`, real or of dtype
    bool, and a target `(n, H, W)` of class indices.

    Attributes:
        ignore_index: Target of pixels that count neither way; None for none.
        rule: `"coverage"`: a piece is found where at least `share` of its pixels are given to its class; `"iou"`: where
            a claimed piece has an IoU above `share`; `"centroid"`: where the centroid of a claimed piece lies on it.
        share: In [0, 1], at least 0.5 with `"iou"`; 0 means one pixel.
        min_area: Pieces of fewer pixels count neither way, true or claimed; 0 or more.

    Raises:
        ValueError: An argument is out of range; the message names it.
    """

    noun: ClassVar[str] = "pieces"
    competes: ClassVar[bool] = True

    ignore_index: int | None = None
    rule: MaskRule = "coverage"
    share: float = 0.5
    min_area: int = 0

    def __post_init__(self) -> None:
        check_rule("Segmentation", self.rule, "share", self.share)
        arguments.whole("Segmentation.min_area", self.min_area, 0)
        if self.ignore_index is not None and not arguments.is_whole(self.ignore_index):
            raise ValueError(f"Segmentation.ignore_index={self.ignore_index!r} is no whole number, or None")

    @property
    def in_words(self) -> str:
        """When a piece counts as found."""
        return in_words(self.rule, self.share)

    def biases(self) -> tuple[float, ...]:
        """Of the class' score at a pixel."""
        return SCORE_BIASES

    def read(self, scores: Any, target: Any, how: Reading) -> tuple[int, dict[int, Seen]]:
        """The pieces of a batch; see `Kind`."""
        scores, target = self._checked(scores, target, how)
        truth = target.cpu().numpy()
        ignored = (
            np.zeros(truth.shape, dtype=bool) if self.ignore_index is None else truth == self.ignore_index
        )
        flag = flags_of(scores, how)
        return len(truth), {
            index: self._of_class(scores, truth == index, ignored, index, how, flag)
            for index in how.protected
        }

    def _checked(self, scores: Any, target: Any, how: Reading) -> tuple[Tensor, Tensor]:
        if not (isinstance(scores, Tensor) and isinstance(target, Tensor)):
            raise ValueError(
                "predict must return two tensors (scores, target) for task=Segmentation(), got "
                f"{type(scores).__name__} and {type(target).__name__}; for masks of single objects, a dict an image, "
                "use task=InstanceSegmentation()"
            )
        if target.ndim == 4 and target.shape[1] == 1:
            target = target[:, 0]
        classes = len(how.names)
        found = scores_of(scores, tuple(target.shape), how) if target.ndim == 3 else None
        if found is None:
            also = ", (n, 1, H, W) or (n, H, W)" if classes == 2 else ""
            raise ValueError(
                f"predict returned scores {tuple(scores.shape)}, target {tuple(target.shape)} for task=Segmentation() "
                f"and num_classes={classes}; scores (n, {classes}, H, W){also} and a target (n, H, W) of the same H "
                "and W are needed: bring the scores to the size of the target"
            )
        check_kind(scores)
        check_numbers(scores)
        check_target(target, self.ignore_index, how)
        return found, target

    def _of_class(
        self, scores: Tensor, truth: Booleans, ignored: Booleans, index: int, how: Reading, flag: int
    ) -> Seen:
        true = Pieces(*pieces(truth))
        small = true.areas < self.min_area
        if small.any():
            ignored = ignored | (np.concatenate([[False], small])[true.numbers])
            true = Pieces(*pieces(truth & ~ignored))
        claimed = claims(scores, index, how)
        found = np.zeros((true.count, len(how.biases)), dtype=bool)
        alarms = np.zeros((len(truth), len(how.biases)), dtype=np.int64)
        false_area = np.zeros_like(alarms)
        flags = np.full(len(truth), flag)
        for place, bias in enumerate(how.biases):
            mask = claimed.at(bias)
            if place == 0:
                flags |= np.where((mask | ignored).all((1, 2)), EVERYTHING, 0)
            given = Pieces(*pieces(mask & ~ignored))
            one = match(true, given, self.rule, self.share)
            found[:, place] = one.found
            counts = one.false & (given.areas >= self.min_area)
            images = given.images[counts]
            alarms[:, place] = np.bincount(images, minlength=len(truth))
            false_area[:, place] = np.bincount(images, weights=one.outside[counts], minlength=len(truth))
        return Seen(
            true.images, found, boxes_of(true.numbers, true.count), true.areas, alarms, false_area, flags
        )


def check_rule(task: str, rule: object, name: str, share: float) -> None:
    """Refuse a rule that nobody knows, or a share that does not go with it.

    Raises:
        ValueError: Names the argument.
    """
    arguments.one_of(f"{task}.rule", rule, ("coverage", "iou", "centroid"))
    least = 0.5 if rule == "iou" else 0.0
    if not arguments.is_number(share) or not least <= share <= 1 or (rule == "iou" and share == 1):
        raise ValueError(
            f"{task}.{name}={share!r} is out of range: from {least:g} to 1"
            + (" (below .5 an object could match two predictions)" if rule == "iou" else "")
        )


def in_words(rule: MaskRule, share: float) -> str:
    """When an object counts as found."""
    if rule == "iou":
        return f"found by an IoU above {share:g}"
    if rule == "centroid":
        return "found by the centroid of a prediction"
    return f"found where at least {share:g} of it is covered"
