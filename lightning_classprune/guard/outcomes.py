"""Decisions: what was predicted for every case of classes or labels, and the counts that follow from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassStatScores, MultilabelStatScores

from lightning_classprune.guard.evidence import Evidence, paired


@dataclass(frozen=True)
class Decisions:
    """Targets and decisions on the same cases in the same order; the outcomes of classes and of labels.

    Attributes:
        target: `(n,)` class indices, or `(n, labels)` booleans for multi-label tasks.
        predicted: Same shape and kind.
        num_classes: Number of classes (labels).
        names: One a class; indices where there are none.
    """

    target: Tensor
    predicted: Tensor
    num_classes: int
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.target)

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
        """Which cases belong to the class, and which are predicted to: two `(n,)` boolean tensors."""
        if self.target.ndim == 2:
            return self.target[:, index].bool(), self.predicted[:, index].bool()
        return self.target == index, self.predicted == index

    def right(self) -> Tensor:
        """Which decisions are right: `(n,)` booleans, of a multi-label task `(n * labels,)`."""
        return (self.predicted.long() == self.target.long()).flatten()

    def same_cases(self, other: Decisions) -> bool:
        """Whether both hold the same targets in the same order."""
        return torch.equal(self.target.long(), other.target.long())

    def same_decisions(self, other: Decisions) -> bool:
        """Whether both hold the same cases and the same decisions."""
        return self.same_cases(other) and torch.equal(self.predicted.long(), other.predicted.long())

    def pairs(self, dense: Decisions, name: str) -> tuple[Evidence, Evidence]:
        """Misses among the class' cases, and false alarms among the others, against the dense network.

        Raises:
            ValueError: The two do not hold the same cases, so pairs would be meaningless.
        """
        self._require_same_cases(dense)
        index = self.names.index(name) if self.names else int(name)
        positive, before = dense.found(index)
        _, now = self.found(index)
        return paired(positive, before, now), paired(~positive, ~before, ~now)

    def mistakes(self, dense: Decisions) -> Evidence:
        """Wrong decisions of whatever class, against the dense network; as `pairs` otherwise."""
        self._require_same_cases(dense)
        before = dense.right()
        return paired(torch.ones_like(before), before, self.right())

    def remarks(self) -> list[str]:
        """Whether its accuracy is below that of always naming the most frequent class; of labels nothing."""
        if self.target.ndim == 2 or not len(self):
            return []
        majority = int(torch.bincount(self.target.long(), minlength=self.num_classes).max())
        right = int(self.right().sum())
        if right >= majority:
            return []
        return [
            f"its accuracy, {right / len(self):.3g}, is below that of always naming the most frequent class, "
            f"{majority / len(self):.3g}"
        ]

    def _require_same_cases(self, dense: Decisions) -> None:
        if not self.same_cases(dense):
            raise ValueError(
                "the guard data changed between the dense network and this round: "
                f"{len(dense)} samples then, {len(self)} now, or other targets; every reading must give the same cases "
                "in the same order"
            )

    def state_dict(self) -> dict[str, Any]:
        """Plain tensors and primitives, small: two bytes a decision."""
        return {
            "target": self.target.to(torch.int16),
            "predicted": self.predicted.to(torch.int16),
            "num_classes": self.num_classes,
            "names": list(self.names),
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Decisions:
        """The outcomes that `state_dict` stored."""
        target, predicted = state["target"].long(), state["predicted"].long()
        return cls(target, predicted, int(state["num_classes"]), tuple(state["names"]))
