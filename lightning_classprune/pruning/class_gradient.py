"""Class gradients: what the protected classes would lose with a weight, by their own gradients at a cut."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from lightning_classprune.pruning.masks import at
from lightning_classprune.pruning.moments import sensitivity
from lightning_classprune.pruning.scoring import Scoring
from lightning_classprune.trainer.gradients import are_finite, loss_scale

#: Training batches of each process at every cut, of which the protected samples count.
BATCHES = 16


def class_loss(scores: Tensor, target: Tensor, protected: Collection[int]) -> Tensor:
    """Mean cross-entropy of raw scores; of a single score, and of the protected ones of several labels, the binary one.

    Args:
        scores: `(n, classes)`, `(n, labels)`, `(n, 1)` or `(n,)`.
        target: `(n,)` or `(n, 1)` classes, or `(n, labels)` booleans.
        protected: The labels that count.
    """
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if target.ndim == 2 and target.shape[1] > 1:
        columns = list(protected)
        return binary_cross_entropy_with_logits(scores[:, columns], target[:, columns].to(scores.dtype))
    target = target.flatten()
    if scores.ndim == 1 or scores.shape[1] == 1:
        return binary_cross_entropy_with_logits(scores.flatten(), target.to(scores.dtype))
    return cross_entropy(scores, target.long())


class ClassGradient:
    """|w| sqrt(E[g^2]) with the gradients of the loss on protected training samples, batch by batch, in eval mode.

    Looks anew at every cut: some forward and backward passes of its own, but none of the training's gradients.
    """

    def __init__(self) -> None:
        self._mean_squares: dict[str, Tensor] = {}

    def prepare(self, scoring: Scoring) -> None:
        """Look at the network that is cut."""
        # In half precision the gradients of what is learned already would vanish without the training's own factor.
        scale = loss_scale(scoring.trainer)
        total: dict[str, Tensor] = {}
        looks = scoring.gradients(
            lambda scores, target: scale * class_loss(scores, target, scoring.protected),
            scoring.batches(BATCHES, only=scoring.protected),
        )
        for gradients in looks:
            finite = are_finite(list(gradients.values()))
            if scoring.sharding:
                finite = not scoring.sharding.processes.any(not finite)
            if finite:
                squares = {name: gradient.float().square() for name, gradient in gradients.items()}
                total = {name: square + total.get(name, 0) for name, square in squares.items()}
        nothing = not any(bool(one.any()) for one in total.values())
        if scoring.sharding:
            nothing = not scoring.sharding.processes.any(not nothing)
        if nothing:
            rank_zero_warn(
                f"the criterion found no gradient of the protected classes in {BATCHES} training batches, so weights "
                "are scored by their size alone"
            )
            total = {}
        self._mean_squares = total

    def score(self, name: str, weight: Tensor, rewind_point: Tensor) -> Tensor:
        """See `PreparedCriterion.score`."""
        if not self._mean_squares:
            return weight.abs()
        return sensitivity(weight, self._mean_squares[name])

    def score_at(self, name: str, weight: Tensor, places: Tensor) -> Tensor:
        """See `GradientMoments.score_at`."""
        if not self._mean_squares:
            return weight.abs()
        return sensitivity(weight, at(self._mean_squares[name], places))

    def state_dict(self) -> dict[str, Any]:
        """Nothing: it looks before every cut."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Forget what it saw."""
        self._mean_squares = {}
