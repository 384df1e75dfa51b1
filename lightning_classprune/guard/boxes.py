"""Boxes: the objects of a detector, matched by COCO's rule at one threshold of the score."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lightning_classprune.guard.lists import boxes, dicts, labelled
from lightning_classprune.guard.matching import box_areas, box_iou, box_overlaps, claimed_by
from lightning_classprune.guard.objects import Reading, Seen, Unmatched
from lightning_classprune.trainer import arguments

Floats = NDArray[np.float64]


def score_biases(threshold: float) -> tuple[float, ...]:
    """Biases of a detector's score, in steps of .02, with which its threshold stays inside (0, 1)."""
    steps = [round(0.02 * step, 2) for step in range(-49, 50) if step]
    return tuple(step for step in steps if 0 < threshold - step < 1)


@dataclass(frozen=True)
class ImageMatch:
    """What the predictions of one class find in one image.

    Attributes:
        box: `(objects, 4)`: where the objects are.
        area: `(objects,)`: pixels of each; 1 where that says nothing.
        scores: `(objects,)`: the score of what claims each; -inf for nothing.
        unmatched: Scores of the predictions that match none.
        unmatched_box: Gives `(predictions, 4)`, where these are; only asked for pictures.
    """

    box: Floats
    area: NDArray[np.int64]
    scores: Floats
    unmatched: Floats
    unmatched_box: Callable[[], Floats]


#: Matches the prediction and the target of an image, which the third argument names, by class.
OfImage: TypeAlias = Callable[[Mapping[str, Any], Mapping[str, Any], str, Reading], dict[int, ImageMatch]]


def read_images(
    task: str, scores: Any, target: Any, threshold: float, how: Reading, of_image: OfImage
) -> tuple[int, dict[int, Seen]]:
    """A batch of images with a dict each; see `Kind.read`.

    Args:
        task: What messages name.
        scores: Predictions.
        target: Targets.
        threshold: Of a prediction's score.
        how: What is known of classes and biases.
        of_image: Of one image.
    """
    images = _matched(task, scores, target, how, of_image)
    return len(target), {index: seen_in(found, threshold, how) for index, found in images.items()}


def unmatched_in(
    task: str, scores: Any, target: Any, thresholds: Mapping[int, float], how: Reading, of_image: OfImage
) -> list[Unmatched]:
    """The predictions of a batch that match no object; as `read_images` otherwise.

    Args:
        task: What messages name.
        scores: Predictions.
        target: Targets.
        thresholds: Of a prediction's score, by class.
        how: What is known of classes and biases.
        of_image: Of one image.
    """
    images = _matched(task, scores, target, how, of_image)
    return [
        Unmatched(place, index, (box[0], box[1], box[2], box[3]))
        for index, found in images.items()
        for place, one in enumerate(found)
        for box in one.unmatched_box()[one.unmatched >= thresholds[index]].tolist()
    ]


def _matched(
    task: str, scores: Any, target: Any, how: Reading, of_image: OfImage
) -> dict[int, list[ImageMatch]]:
    images: dict[int, list[ImageMatch]] = {index: [] for index in how.protected}
    for place, (prediction, truth) in enumerate(dicts(task, scores, target)):
        for index, one in of_image(prediction, truth, f"image {place} of a batch", how).items():
            images[index].append(one)
    return images


def seen_in(images: list[ImageMatch], threshold: float, how: Reading) -> Seen:
    """What a batch holds of one class, from its images: a prediction counts from the threshold of its score on."""
    counts = [len(one.scores) for one in images]
    scores = np.concatenate([one.scores for one in images]) if images else np.zeros(0)
    alarms = np.zeros((len(images), len(how.biases)), dtype=np.int64)
    found = np.zeros((len(scores), len(how.biases)), dtype=bool)
    for place, bias in enumerate(how.biases):
        found[:, place] = scores + bias >= threshold
        alarms[:, place] = [int((one.unmatched + bias >= threshold).sum()) for one in images]
    return Seen(
        np.repeat(np.arange(len(images)), counts),
        found,
        np.concatenate([one.box for one in images]).astype(np.float32)
        if images
        else np.zeros((0, 4), np.float32),
        np.concatenate([one.area for one in images]) if images else np.zeros(0, np.int64),
        alarms,
        np.zeros_like(alarms),
        np.zeros(len(images), dtype=np.int64),
    )


@dataclass(frozen=True)
class Detection:
    """Detection in torchvision's format: lists of a dict an image.

    A prediction has `boxes` (x1, y1, x2, y2), `scores` and `labels`; a target `boxes`, `labels` and optionally
    `iscrowd` or `ignore`: what lies in such a box, as in COCO's evaluation, counts neither way.

    By falling score every prediction takes the free object of its class with the largest IoU, of at least `iou`. An
    object is found if what takes it has a score of at least `score_threshold`; what takes none is a false alarm.

    Attributes:
        iou: In (0, 1).
        score_threshold: In (0, 1).

    Raises:
        ValueError: An argument is out of range; the message names it.
    """

    noun: ClassVar[str] = "objects"
    competes: ClassVar[bool] = False

    iou: float = 0.5
    score_threshold: float = 0.5

    def __post_init__(self) -> None:
        arguments.share("Detection.iou", self.iou)
        arguments.share("Detection.score_threshold", self.score_threshold)

    @property
    def in_words(self) -> str:
        """When an object counts as found."""
        return f"found by a box with an IoU of at least {self.iou:g} and a score of at least {self.score_threshold:g}"

    def biases(self) -> tuple[float, ...]:
        """Of a detector's score."""
        return score_biases(self.score_threshold)

    def read(self, scores: Any, target: Any, how: Reading) -> tuple[int, dict[int, Seen]]:
        """The boxes of a batch; see `Kind`."""
        return read_images("Detection", scores, target, self.score_threshold, how, self._of_image)

    def unmatched(
        self, scores: Any, target: Any, how: Reading, biases: Mapping[int, float]
    ) -> list[Unmatched]:
        """The boxes that match no object; see `Outlined`."""
        thresholds = {index: self.score_threshold - biases.get(index, 0.0) for index in how.protected}
        return unmatched_in("Detection", scores, target, thresholds, how, self._of_image)

    def _of_image(
        self, prediction: Mapping[str, Any], target: Mapping[str, Any], where: str, how: Reading
    ) -> dict[int, ImageMatch]:
        claimed, true = boxes(prediction, "prediction", where), boxes(target, "target", where)
        given = labelled(prediction, len(claimed), how, "prediction", where)
        objects = labelled(target, len(true), how, "target", where)
        found = {}
        for index in how.protected:
            mine, theirs = given.labels == index, objects.labels == index
            real, crowd = true[theirs & ~objects.ignored], true[theirs & objects.ignored]
            found[index] = match_boxes(claimed[mine], given.scores[mine], real, crowd, self.iou)
        return found


def match_boxes(claimed: Floats, scores: Floats, real: Floats, crowd: Floats, iou: float) -> ImageMatch:
    """COCO's rule for one class in one image.

    Args:
        claimed: `(n, 4)` predicted boxes.
        scores: `(n,)`.
        real: `(m, 4)` objects.
        crowd: `(k, 4)` boxes in which predictions count neither way: what lies in one to a share of `iou` at least.
        iou: Least IoU of a match.
    """
    claims, of_object = claimed_by(box_iou(claimed, real), scores, iou)
    inside = box_overlaps(claimed, crowd) >= iou * np.maximum(box_areas(claimed), 1e-12)[:, None]
    none = (claims < 0) & ~inside.any(1)
    return ImageMatch(
        real, np.ones(len(real), dtype=np.int64), of_object, scores[none], lambda: claimed[none]
    )
