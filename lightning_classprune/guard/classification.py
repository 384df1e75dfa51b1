"""Classes and labels: the two tasks whose cases are decided by one score a class.

Scores become decisions before any metric sees them. Of the scores only those that an offset can change are kept: the
protected classes', and the best of the others. Where samples have ids of a unit, these are the last column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_classprune.guard import units
from lightning_classprune.guard.offset import Counted, Sweep, counted
from lightning_classprune.guard.outcomes import Decisions
from lightning_classprune.guard.task import Columns, NaNScoresError
from lightning_classprune.guard.units import Cluster

#: From so many cases on, one label each is no chance.
ENOUGH_ROWS = 10


class Classes:
    """Every case belongs to one class: the one with the largest score, or, of one score, by a threshold.

    Args:
        names: Of all classes, two or more.
        protected: Indices of those whose scores an offset may change.
        threshold: On raw one-logit scores; a score at it is positive.
    """

    def __init__(self, names: Sequence[str], protected: Sequence[int], threshold: float) -> None:
        self.names = tuple(names)
        self.protected, self._threshold = sorted(protected), threshold
        self._others = [i for i in range(len(self.names)) if i not in set(protected)]

    def columns(self, scores: Tensor, target: Tensor, case: Any = None) -> Columns:
        """Of scores `(n, classes)`: targets, the best class that is not protected, and the scores that compete.

        Of one score `(n,)` or `(n, 1)` for two classes: targets and scores.
        """
        classes = len(self.names)
        if target.ndim == 2 and target.shape[1] == 1:
            target = target[:, 0]
        if scores.ndim == 2 and scores.shape[1] == 1 and classes == 2:
            scores = scores[:, 0]
        scores = _of_decisions(scores, self._threshold)
        if target.ndim != 1 or not scores.ndim or len(scores) != len(target):
            raise ValueError(
                f"predict returned {_shapes(scores, target, classes)}; one target a sample is needed, or multi-label "
                f"targets of the scores' shape{_task_for(scores, target)}"
            )
        _check_values(scores, target, classes)
        if scores.ndim == 1 and classes == 2:
            return target.long(), scores
        if scores.ndim != 2 or scores.shape[1] != classes:
            also = ", (n,) or (n, 1)" if classes == 2 else ""
            raise ValueError(
                f"predict returned {_shapes(scores, target, classes)}; scores must be (n, {classes}){also}"
                f"{_task_for(scores, target)}"
            )
        if not self._others:
            return target.long(), torch.full_like(target.long(), classes), scores
        others = scores[:, self._others]
        best = others.argmax(1)
        competing = torch.cat((scores[:, self.protected], others.gather(1, best.unsqueeze(1))), dim=1)
        return target.long(), torch.tensor(self._others, device=best.device)[best], competing

    def outcomes(self, columns: Columns, offsets: Mapping[str, float]) -> Decisions:
        """Of several classes with the same score, the first is decided."""
        classes = len(self.names)
        if not columns:
            empty = torch.zeros(0, dtype=torch.int64)
            return Decisions(empty, empty, classes, self.names)
        if len(columns) == 2:
            target, score = columns
            bias = offsets.get(self.names[1], 0.0) - offsets.get(self.names[0], 0.0)
            shifted = score.double() + bias if bias else score
            return Decisions(target, (shifted >= self._threshold).long(), classes, self.names)
        target, owners, shifted = self._competition(columns, offsets)
        return Decisions(target, _first_largest(owners, shifted, classes), classes, self.names)

    def sweep(self, columns: Columns, offsets: Mapping[str, float], name: str, dense: Decisions) -> Sweep:
        """Margin: how far the class' score is above the best of the others."""
        index = self.names.index(name)
        if len(columns) == 2:
            target, score = columns
            margin = score.double() - self._threshold
            other = 1 - index
            shift = offsets.get(self.names[other], 0.0)
            return _sweep(
                self,
                (margin if index else -margin) - shift,
                target,
                dense,
                index,
                torch.full_like(target, other),
            )
        target, owners, shifted = self._competition(columns, {**offsets, name: 0.0})
        own = self.protected.index(index)
        others = [i for i in range(shifted.shape[1]) if i != own]
        rest = _first_largest(owners[:, others], shifted[:, others], len(self.names))
        margin = shifted[:, own].double() - shifted[:, others].max(1).values.double()
        # Two infinite scores are equal with any offset, and of equal ones the first is decided.
        always = _first_largest(owners, shifted, len(self.names)) == index
        margin = torch.where(margin.isnan(), torch.where(always, torch.inf, -torch.inf).double(), margin)
        return _sweep(self, margin, target, dense, index, rest)

    def _competition(self, columns: Columns, offsets: Mapping[str, float]) -> Columns:
        """Targets, and for the scores that compete the class that each is of, and its shifted value."""
        target, best, competing = columns
        biases = [offsets.get(self.names[i], 0.0) for i in self.protected]
        biases += [0.0] * (competing.shape[1] - len(biases))
        if any(biases):
            competing = competing.double() + torch.tensor(biases, dtype=torch.float64)
        owners = torch.tensor(self.protected, dtype=torch.int64).expand(len(target), -1)
        return target, torch.cat((owners, best.unsqueeze(1)), dim=1)[:, : competing.shape[1]], competing

    def wrong_targets(self, columns: Columns) -> str | None:
        """Every target that can be is one of a class."""
        return None

    def wrong_scores(self, columns: Columns) -> str | None:
        """Whether the scores of one output are probabilities, and the threshold is not one."""
        return _probabilities(columns[1], self._threshold) if len(columns) == 2 else None

    def exclusive(self, columns: Columns) -> bool:
        """They compete."""
        return True

    def restored(self, state: Mapping[str, Any]) -> Decisions:
        """See `Decisions.from_state_dict`."""
        return Decisions.from_state_dict(state)


class Labels:
    """Every case has any number of labels, each decided by its own score and a threshold.

    Args:
        names: Of all labels, two or more.
        protected: Indices of those whose scores an offset may change.
        threshold: On raw scores; a score at it is positive.
    """

    def __init__(self, names: Sequence[str], protected: Sequence[int], threshold: float) -> None:
        self.names = tuple(names)
        self._protected, self._threshold = sorted(protected), threshold

    def fits(self, scores: Tensor, target: Tensor) -> bool:
        """Whether shapes are those of a multi-label task: scores and targets both `(n, labels)`."""
        return scores.ndim == 2 and scores.shape == target.shape and scores.shape[1] == len(self.names)

    def columns(self, scores: Tensor, target: Tensor, case: Any = None) -> Columns:
        """Targets, decisions without offsets, and the scores of the protected labels."""
        scores = _of_decisions(scores, self._threshold, of_labels=True)
        _check_values(scores, target, 2)
        return target.long(), (scores >= self._threshold).long(), scores[:, self._protected]

    def outcomes(self, columns: Columns, offsets: Mapping[str, float]) -> Decisions:
        """The decisions of every label."""
        if not columns:
            empty = torch.zeros(0, len(self.names), dtype=torch.int64)
            return Decisions(empty, empty, len(self.names), self.names)
        target, predicted, scores = columns
        predicted = predicted.clone()
        for column, index in enumerate(self._protected):
            if bias := offsets.get(self.names[index], 0.0):
                predicted[:, index] = (scores[:, column].double() + bias >= self._threshold).long()
        return Decisions(target, predicted, len(self.names), self.names)

    def sweep(self, columns: Columns, offsets: Mapping[str, float], name: str, dense: Decisions) -> Sweep:
        """Margin: how far the label's score is above the threshold; the other labels are decided alike."""
        decided = self.outcomes(columns, offsets)
        margin = columns[2][:, self._protected.index(self.names.index(name))].double() - self._threshold
        said = {self.names[i]: _numbers(decided.found(i)[1]) for i in self._protected}
        everywhere = np.ones(len(margin), dtype=bool)
        return Sweep(
            _numbers(margin),
            {self.names[i]: _numbers(decided.found(i)[0]) for i in self._protected},
            {self.names[i]: _numbers(dense.found(i)[1]) for i in self._protected},
            said | {name: everywhere},
            said | {name: ~everywhere},
        )

    def wrong_targets(self, columns: Columns) -> str | None:
        """Whether every case has just one label, so that these are classes."""
        target = columns[0]
        if len(target) < ENOUGH_ROWS or not bool((target.sum(1) == 1).all()):
            return None
        labels = len(self.names)
        return (
            f"every target has exactly one of {labels} labels, so these are classes, of which the largest score is "
            f"decided; let predict return target.argmax(1), with num_classes={labels}"
        )

    def wrong_scores(self, columns: Columns) -> str | None:
        """Whether the scores of the protected labels are probabilities, and the threshold is not one."""
        return _probabilities(columns[2], self._threshold)

    def exclusive(self, columns: Columns) -> bool:
        """They do not compete."""
        return False

    def restored(self, state: Mapping[str, Any]) -> Decisions:
        """See `Decisions.from_state_dict`."""
        return Decisions.from_state_dict(state)


class ClassesOrLabels:
    """The task of a network of which only scores and targets tell whether it has classes or labels.

    Args:
        names: Of all classes or labels, two or more.
        protected: Indices of the protected ones.
        threshold: On raw one-logit and multi-label scores; a score at it is positive.
        cluster: How a unit's samples become its evidence, where they have ids of one.
    """

    measure, adding, folds = "accuracy", "DecisionOffset does it", True

    def __init__(
        self, names: Sequence[str], protected: Sequence[int], threshold: float, cluster: Cluster = "one"
    ) -> None:
        self.names = tuple(names)
        self._protected, self._cluster = [self.names[i] for i in protected], cluster
        self._classes = Classes(names, protected, threshold)
        self._labels = Labels(names, protected, threshold)

    def columns(self, scores: Any, target: Any, case: Any = None) -> Columns:
        """Those of the task that the shapes tell, and ids of units where there are any.

        Raises:
            ValueError: Shapes, class counts, targets or scores that make no sense together; names `predict`.
        """
        if not (isinstance(scores, Tensor) and isinstance(target, Tensor)):
            raise ValueError(
                "predict must return two tensors (scores, target), got "
                f"{type(scores).__name__} and {type(target).__name__}; take them out of what the module and the loader "
                "give, for example with predict=lambda module, batch: (module(batch[0])[0], batch[1])"
                f"{_task_for(scores, target)}"
            )
        if not scores.is_floating_point() and scores.dtype != torch.bool:
            raise ValueError(
                f"predict returned scores of dtype {scores.dtype}; real scores are needed, not decisions, "
                "unless of dtype bool"
            )
        task = self._labels if self._labels.fits(scores, target) else self._classes
        columns = task.columns(scores, target)
        return columns if case is None else (*columns, units.read_ids(case, len(target)))

    def samples(self, columns: Columns) -> None:
        """Every row is a sample."""

    def numbered(self, columns: Columns, places: Tensor) -> Columns:
        """A row knows its sample."""
        return columns

    def ids(self, columns: Columns) -> Tensor | None:
        """Those of the last column, if that has them."""
        return _without_ids(columns)[1]

    def outcomes(self, columns: Columns, offsets: Mapping[str, float]) -> Decisions:
        """Those of the task whose columns these are."""
        columns, ids = _without_ids(columns)
        decided = self._of(columns).outcomes(columns, offsets)
        if ids is None:
            return decided
        return replace(decided, unit=ids[:, 0], order=units.draw(len(ids)), cluster=self._cluster)

    def sweep(
        self, columns: Columns, offsets: Mapping[str, float], name: str, dense: Decisions
    ) -> Sweep | Counted:
        """That of the task whose columns these are; of units what they say at some thresholds."""
        plain, ids = _without_ids(columns)
        sweep = self._of(plain).sweep(plain, offsets, name, dense)
        if ids is None:
            return sweep
        return counted(
            sweep.some(),
            lambda threshold: self.outcomes(columns, {**offsets, name: -threshold}),
            dense,
            self._protected,
        )

    def wrong_targets(self, columns: Columns) -> str | None:
        """As in the task whose columns these are; or what is wrong with ids of units."""
        columns, ids = _without_ids(columns)
        wrong = None if ids is None else units.wrong_ids(ids[:, 1])
        return wrong or (self._of(columns).wrong_targets(columns) if columns else None)

    def wrong_scores(self, columns: Columns) -> str | None:
        """As in the task whose columns these are."""
        columns, _ = _without_ids(columns)
        return self._of(columns).wrong_scores(columns) if columns else None

    def exclusive(self, columns: Columns) -> bool:
        """As in the task whose columns these are."""
        return self._of(columns).exclusive(columns)

    def _of(self, columns: Columns) -> Classes | Labels:
        return self._labels if columns and columns[0].ndim == 2 else self._classes

    def restored(self, state: Mapping[str, Any]) -> Decisions:
        """See `Decisions.from_state_dict`."""
        return Decisions.from_state_dict(state)


def _without_ids(columns: Columns) -> tuple[Columns, Tensor | None]:
    """Columns without ids of units, and these: scores are real numbers, so that a last column of others are ids."""
    if not columns or columns[-1].is_floating_point():
        return columns, None
    return columns[:-1], columns[-1]


def _of_decisions(scores: Tensor, threshold: float, *, of_labels: bool = False) -> Tensor:
    """Scores that decide as booleans say; real ones as they are."""
    if scores.dtype != torch.bool:
        return scores
    if of_labels or scores.ndim == 1:
        return scores.float() * 2 - 1 + threshold
    if scores.ndim == 2 and len(scores) and not bool((scores.sum(1) == 1).all()):
        raise ValueError(
            "predict returned decisions of dtype bool, of which a sample has none or several; exactly one class is "
            "to be decided, or let predict return multi-label targets of the same shape"
        )
    return scores.float()


def _task_for(scores: Any, target: Any) -> str:
    """Which task the shapes are those of, with a line to paste; nothing if of none."""
    kind, listed = "", target if isinstance(target, list | tuple) else None
    if isinstance(scores, Tensor) and isinstance(target, Tensor):
        if scores.ndim >= 4 or (scores.ndim == 3 and target.ndim == 3):
            kind = "Segmentation"
        elif scores.ndim == 3 and target.ndim == 2:
            kind = "Tokens"
    elif listed and all(isinstance(one, Mapping) for one in listed):
        kind = "InstanceSegmentation" if {"masks", "map"} & {*listed[0]} else "Detection"
    if not kind:
        return ""
    return (
        f". For {_PLAINLY[kind]}: from lightning_classprune.tasks import {kind}; "
        f"ClassAwarePruningCallback(..., task={kind}())"
    )


_PLAINLY = {
    "Segmentation": "masks",
    "InstanceSegmentation": "masks of single objects",
    "Detection": "boxes",
    "Tokens": "tokens",
}


def _shapes(scores: Tensor, target: Tensor, classes: int) -> str:
    return f"scores {tuple(scores.shape)}, target {tuple(target.shape)} for num_classes={classes}"


def _check_values(scores: Tensor, target: Tensor, num_classes: int) -> None:
    if not torch.isfinite(scores).all() and torch.isnan(scores).any():
        raise NaNScoresError("predict returned NaN scores; nothing can be decided from them")
    if len(target) and (target.min() < 0 or target.max() >= num_classes or (target != target.long()).any()):
        raise ValueError(
            f"predict returned targets from {target.min()} to {target.max()}; "
            f"whole numbers from 0 to {num_classes - 1} are allowed"
        )


def _probabilities(scores: Tensor, threshold: float) -> str | None:
    """Why a threshold decides nothing where all scores are from 0 to 1, if that is so."""
    if not scores.numel() or bool((scores < 0).any() or (scores > 1).any()) or 0 < threshold < 1:
        return None
    return (
        f"all scores lie between 0 and 1, like probabilities, and threshold={threshold:g} does not; give "
        "threshold=0.5, or let predict return raw scores (before the sigmoid)"
    )


def _first_largest(owners: Tensor, values: Tensor, classes: int) -> Tensor:
    """By row, the smallest of the classes whose value is the largest."""
    winning = values == values.max(1, keepdim=True).values
    return owners.masked_fill(~winning, classes).min(1).values


def _sweep(
    task: Classes, margin: Tensor, target: Tensor, dense: Decisions, index: int, rest: Tensor
) -> Sweep:
    """A sweep over the offset of one class, where `rest` is decided of the cases that it does not claim."""
    names = task.names
    shown = [i for i in range(len(names)) if i in task.protected]
    return Sweep(
        _numbers(margin),
        {names[i]: _numbers(target == i) for i in shown},
        {names[i]: _numbers(dense.found(i)[1]) for i in shown},
        {names[i]: np.full(len(margin), i == index) for i in shown},
        {names[i]: _numbers(rest == i) & (i != index) for i in shown},
    )


def _numbers(tensor: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = tensor.cpu().numpy()
    return array
