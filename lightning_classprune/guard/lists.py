"""Lists: predictions and targets that are a dict an image, as torchvision's detectors have them, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_classprune.guard.matching import box_areas
from lightning_classprune.guard.objects import Reading
from lightning_classprune.guard.task import NaNScoresError

#: By how much a score may lie outside of [0, 1], as rounding makes it.
_ROUNDED = 1e-3

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def dicts(task: str, scores: Any, target: Any) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Prediction and target of every image of a batch.

    Raises:
        ValueError: They are no lists of dicts of one length; names `predict`.
    """
    for given in (scores, target):
        listed = isinstance(given, Sequence) and not isinstance(given, str | bytes)
        if not listed or not all(isinstance(one, Mapping) for one in given):
            also = "; for tensors of scores use task=Segmentation() or task=Tokens()"
            raise ValueError(
                f"predict must return (list of dicts, list of dicts), one an image, for task={task}(), got "
                f"{type(scores).__name__} and {type(target).__name__}{also}"
            )
    if len(scores) != len(target):
        raise ValueError(
            f"predict returned {len(scores)} predictions for {len(target)} targets; one an image is needed"
        )
    return list(zip(scores, target, strict=True))


def field(told: Mapping[str, Any], name: str, whose: str, where: str) -> NDArray[Any]:
    """One entry of a dict, as an array; half precision becomes single.

    Raises:
        ValueError: There is none.
    """
    if name not in told:
        raise ValueError(f"predict: the {whose} of {where} has no {name!r}; it has {sorted(map(str, told))}")
    value = told[name]
    if isinstance(value, Tensor):
        value = value.detach()
        return (value.float() if value.dtype in (torch.float16, torch.bfloat16) else value).cpu().numpy()
    return np.asarray(value)


@dataclass(frozen=True)
class Labelled:
    """Classes and scores of the predictions or objects of one image.

    Attributes:
        labels: `(m,)` class indices.
        scores: `(m,)`; infinite where predictions have none.
        ignored: `(m,)` booleans: a target that counts neither way.
    """

    labels: Ints
    scores: Floats
    ignored: NDArray[np.bool_]


def labelled(told: Mapping[str, Any], count: int, how: Reading, whose: str, where: str) -> Labelled:
    """Labels of `count` things, checked; where there are two classes and no labels, all are of the second.

    Raises:
        ValueError: They are of another number, or out of range, or an object is of the background; names `predict`.
        NaNScoresError: Scores are NaN.
    """
    if "labels" not in told and len(how.names) == 2:
        labels = np.ones(count, dtype=np.int64)
    else:
        labels = field(told, "labels", whose, where).reshape(-1)
    scores = np.full(count, np.inf)
    if whose == "prediction" and "scores" in told:
        scores = field(told, "scores", whose, where).astype(np.float64).reshape(-1)
    ignored = np.zeros(count, dtype=bool)
    for name in ("iscrowd", "ignore"):
        if whose == "target" and name in told:
            ignored = ignored | field(told, name, whose, where).reshape(-1).astype(bool)
    if not len(labels) == len(scores) == len(ignored) == count:
        raise ValueError(
            f"predict: the {whose} of {where} has {count} objects, {len(labels)} labels, {len(scores)} scores and "
            f"{len(ignored)} marks to ignore; one each is needed"
        )
    if np.isnan(scores).any():
        raise NaNScoresError("predict returned NaN scores; nothing can be decided from them")
    scored = whose == "prediction" and "scores" in told and count > 0
    if scored and not (scores.min() >= -_ROUNDED and scores.max() <= 1 + _ROUNDED):
        raise ValueError(
            f"predict: the {whose} of {where} has scores from {scores.min():.4g} to {scores.max():.4g}; they must lie "
            "between 0 and 1, as score_threshold does: put raw ones through torch.sigmoid first"
        )
    whole = labels.dtype.kind in "iub" or (labels.dtype.kind == "f" and bool((labels % 1 == 0).all()))
    if count and not whole:
        raise ValueError(
            f"predict: the {whose} of {where} has labels {labels[:3].tolist()}; whole numbers are needed, the index of "
            "a class each"
        )
    classes = len(how.names)
    if count and (labels.min() < 0 or labels.max() >= classes):
        raise ValueError(
            f"predict: the {whose} of {where} has labels from {labels.min()} to {labels.max()}; 0 to {classes - 1} are "
            f"allowed with num_classes={classes} (torchvision's background, 0, is one of them)"
        )
    if whose == "target" and how.names[0].strip("_").lower() == "background" and count and labels.min() == 0:
        raise ValueError(
            f"predict: the target of {where} has an object of label 0, which is {how.names[0]!r}; labels of objects "
            "are counted from 1 on, as torchvision's detectors count them: add 1"
        )
    return Labelled(labels.astype(np.int64), scores, ignored)


def boxes(told: Mapping[str, Any], whose: str, where: str) -> Floats:
    """`(m, 4)` boxes x1, y1, x2, y2.

    Raises:
        ValueError: Of another shape; of a target NaN or without an area; names `predict`.
        NaNScoresError: A predicted box is NaN.
    """
    found = field(told, "boxes", whose, where).astype(np.float64)
    if found.size == 0:
        return np.zeros((0, 4))
    if found.ndim != 2 or found.shape[1] != 4:
        raise ValueError(
            f"predict: the {whose} of {where} has boxes of shape {found.shape}; (m, 4) are needed: x1, y1, x2, y2"
        )
    if np.isnan(found).any():
        if whose == "prediction":
            raise NaNScoresError("predict returned NaN boxes; nothing can be decided from them")
        raise ValueError(f"predict: a target box of {where} is NaN")
    if whose == "target" and np.isinf(found).any():
        raise ValueError(f"predict: a target box of {where} is infinite")
    if whose == "target" and (box_areas(found) <= 0).any():
        worst = found[box_areas(found) <= 0][0].tolist()
        raise ValueError(
            f"predict: the target of {where} has a box without an area, {worst}; boxes are x1, y1, x2, y2 with x2 > x1 "
            "and y2 > y1"
        )
    return found
