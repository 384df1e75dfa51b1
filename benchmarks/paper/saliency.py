"""A criterion that looks at the protected classes: what it would cost them to lose a weight."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional as F

from lightning_classprune.pruning.scoring import Scoring


class ProtectedSaliency:
    """|w| times the mean |dL/dw| over batches of protected training samples, L being their mean cross-entropy.

    To first order, what pruning the weight costs these classes (Molchanov et al. 2017, arXiv 1611.06440; Lee et al.
    2019, arXiv 1810.02340).

    Args:
        batches: Training batches to look at, at most; of each only the protected samples count.
    """

    def __init__(self, batches: int = 60) -> None:
        self.batches = batches
        self.gradients: Mapping[str, Tensor] = {}

    def prepare(self, scoring: Scoring) -> None:
        found = scoring.gradients(F.cross_entropy, scoring.batches(self.batches, only=scoring.protected))
        first = next(found)
        totals, count = {name: gradient.abs() for name, gradient in first.items()}, 1
        for gradients in found:
            for name, gradient in gradients.items():
                totals[name] += gradient.abs()
            count += 1
        self.gradients = {name: total / count for name, total in totals.items()}

    def score(self, name: str, weight: Tensor, rewind_point: Tensor) -> Tensor:
        return weight.abs() * self.gradients[name]
