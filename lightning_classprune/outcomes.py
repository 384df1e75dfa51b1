"""Outcomes: what was predicted for every guard sample, and the counts per class that follow from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassStatScores, MultilabelStatScores

from lightning_classprune.guard import Evidence


@dataclass(frozen=True)
class Outcomes:
    """Targets and decisions on the same samples in the same order.

    Attributes:
        target: `(n,)` class indices, or `(n, labels)` booleans for multi-label tasks.
        predicted: Same shape and kind.
        num_classes: Number of classes (labels).
    """

    target: Tensor
    predicted: Tensor
    num_classes: int

    def counts(self) -> Tensor:
        """`(num_classes, 5)` integers from torchmetrics: tp, fp, tn, fn, support."""
        metric: MulticlassStatScores | MultilabelStatScores
        if self.target.ndim == 2:
            metric = MultilabelStatScores(self.num_classes, average=None)
        else:
            metric = MulticlassStatScores(self.num_classes, average=None)
        if not len(self.target):
            return torch.zeros(self.num_classes, 5, dtype=torch.int64)
        scores: Tensor = metric(self.predicted.long(), self.target.long())
        return scores.reshape(self.num_classes, 5)

    def found(self, index: int) -> tuple[Tensor, Tensor]:
        """Which samples belong to the class, and which are predicted to: two `(n,)` boolean tensors."""
        if self.target.ndim == 2:
            return self.target[:, index].bool(), self.predicted[:, index].bool()
        return self.target == index, self.predicted == index

    def right(self) -> Tensor:
        """Which decisions are right: `(n,)` booleans, of a multi-label task `(n * labels,)`."""
        return (self.predicted.long() == self.target.long()).flatten()

    def state_dict(self) -> dict[str, Tensor | int]:
        """Plain tensors and integers, small: two bytes a decision."""
        return {
            "target": self.target.to(torch.int16),
            "predicted": self.predicted.to(torch.int16),
            "num_classes": self.num_classes,
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor | int]) -> Outcomes:
        """The outcomes that `state_dict` stored."""
        target, predicted = state["target"], state["predicted"]
        assert isinstance(target, Tensor)
        assert isinstance(predicted, Tensor)
        return cls(target.long(), predicted.long(), int(state["num_classes"]))


def evidence(baseline: Outcomes, candidate: Outcomes, index: int) -> Evidence:
    """Paired counts of one class: the same samples under the dense network and under the candidate.

    Raises:
        ValueError: The two do not hold the same samples, so pairs would be meaningless.
    """
    if not torch.equal(baseline.target.long(), candidate.target.long()):
        raise ValueError(
            "the guard data changed between the dense network and this round: "
            f"{len(baseline.target)} samples then, {len(candidate.target)} now, or other targets"
        )
    positive, before = baseline.found(index)
    _, now = candidate.found(index)
    return Evidence(
        support=int(positive.sum()),
        baseline_missed=int((positive & ~before).sum()),
        newly_missed=int((positive & before & ~now).sum()),
        newly_found=int((positive & ~before & now).sum()),
    )


def scores_and_target(returned: Any) -> tuple[Any, Any]:
    """What a `predict` function returned, as the pair that it has to be.

    Raises:
        ValueError: It is something else.
    """
    if not (isinstance(returned, tuple | list) and len(returned) == 2):
        raise ValueError(f"predict must return (scores, target), got {type(returned).__name__}")
    return returned[0], returned[1]


def decide(scores: Tensor, target: Tensor, num_classes: int, threshold: float) -> tuple[Tensor, Tensor]:
    """Turn scores into decisions, before any metric sees them: (predicted, target).

    Multi-class scores `(n, num_classes)` go to the largest; one binary score `(n,)` or `(n, 1)` and multi-label
    scores `(n, num_classes)` with targets of that shape are positive at or above `threshold`, with no sigmoid.

    Raises:
        ValueError: Shapes, class counts, targets or scores that make no sense together; names `predict`.
    """
    if not (isinstance(scores, Tensor) and isinstance(target, Tensor)):
        raise ValueError(
            f"predict must return two tensors (scores, target), got {type(scores).__name__} and {type(target).__name__}"
        )
    shapes = f"scores {tuple(scores.shape)}, target {tuple(target.shape)} for num_classes={num_classes}"
    if not scores.is_floating_point():
        raise ValueError(
            f"predict returned scores of dtype {scores.dtype}; real scores are needed, not decisions"
        )
    if (
        scores.ndim == 2
        and target.ndim == 2
        and scores.shape == target.shape
        and scores.shape[1] == num_classes
    ):
        _check_values(scores, target, 2)
        return (scores >= threshold).long(), target.long()
    if target.ndim == 2 and target.shape[1] == 1:
        target = target[:, 0]
    if scores.ndim == 2 and scores.shape[1] == 1 and num_classes == 2:
        scores = scores[:, 0]
    if target.ndim != 1 or not scores.ndim or len(scores) != len(target):
        raise ValueError(
            f"predict returned {shapes}; one target a sample is needed, or multi-label targets of the scores' shape"
        )
    _check_values(scores, target, num_classes)
    if scores.ndim == 1 and num_classes == 2:
        return (scores >= threshold).long(), target.long()
    if scores.ndim == 2 and scores.shape[1] == num_classes:
        return scores.argmax(1), target.long()
    raise ValueError(
        f"predict returned {shapes}; scores must be (n, {num_classes})"
        + (", (n,) or (n, 1)" if num_classes == 2 else "")
    )


def _check_values(scores: Tensor, target: Tensor, num_classes: int) -> None:
    if not torch.isfinite(scores).all() and torch.isnan(scores).any():
        raise NaNScoresError("predict returned NaN scores; nothing can be decided from them")
    if len(target) and (target.min() < 0 or target.max() >= num_classes or (target != target.long()).any()):
        raise ValueError(
            f"predict returned targets from {target.min()} to {target.max()}; "
            f"whole numbers from 0 to {num_classes - 1} are allowed"
        )


class NaNScoresError(ValueError):
    """Scores are not numbers: a network that has diverged."""
