"""Decisions: what was predicted for every case of classes or labels, and the counts that follow from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassStatScores, MultilabelStatScores

from lightning_classprune.guard.evidence import Evidence, paired
from lightning_classprune.guard.units import Cluster, unit_evidence


@dataclass(frozen=True)
class Decisions:
    """Targets and decisions on the same cases in the same order; the outcomes of classes and of labels.

    Attributes:
        target: `(n,)` class indices, or `(n, labels)` booleans for multi-label tasks.
        predicted: Same shape and kind.
        num_classes: Number of classes (labels).
        names: One a class; indices where there are none.
        unit: `(n,)` ids of the independent unit that each case belongs to; None where each is one.
        order: `(n,)`, with units: the order in which cases are drawn.
        cluster: How a unit's cases become its evidence.
    """

    target: Tensor
    predicted: Tensor
    num_classes: int
    names: tuple[str, ...] = ()
    unit: Tensor | None = None
    order: Tensor | None = None
    cluster: Cluster = "one"

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
        same = torch.equal(self.target.long(), other.target.long())
        if self.unit is None or other.unit is None:
            return same and self.unit is other.unit
        return same and torch.equal(self.unit, other.unit)

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
        if dense.unit is None:
            return paired(positive, before, now), paired(~positive, ~before, ~now)
        # Whether any of a unit's many negatives is called positive says nothing of how many are.
        others: Cluster = "betting" if dense.cluster == "betting" else "one"
        return (
            dense.of_units(dense.cluster, positive, before, now),
            dense.of_units(others, ~positive, ~before, ~now),
        )

    def of_units(self, cluster: Cluster, cases: Tensor, before: Tensor, now: Tensor) -> Evidence:
        """Evidence of the units of some cases, by the draw of these outcomes; see `unit_evidence`."""
        assert self.unit is not None
        assert self.order is not None
        return unit_evidence(cluster, self.unit, cases, before, now, self.order, "samples")

    def mistakes(self, dense: Decisions) -> Evidence:
        """Wrong decisions of whatever class, against the dense network; as `pairs` otherwise."""
        self._require_same_cases(dense)
        before = dense.right()
        if dense.unit is None or dense.target.ndim == 2:
            return paired(torch.ones_like(before), before, self.right())
        return dense.of_units("one", torch.ones_like(before), before, self.right())

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
        saved: dict[str, Any] = {
            "target": self.target.to(torch.int16),
            "predicted": self.predicted.to(torch.int16),
            "num_classes": self.num_classes,
            "names": list(self.names),
        }
        if self.unit is None:
            return saved
        return saved | {"unit": self.unit, "order": self.order, "cluster": self.cluster}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Decisions:
        """The outcomes that `state_dict` stored."""
        target, predicted = state["target"].long(), state["predicted"].long()
        known = {key: state[key] for key in ("unit", "order", "cluster") if key in state}
        return cls(target, predicted, int(state["num_classes"]), tuple(state["names"]), **known)
