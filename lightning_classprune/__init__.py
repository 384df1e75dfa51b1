"""Class-aware iterative pruning with weight rewinding for PyTorch Lightning."""

from lightning_classprune.callback import ClassAwarePruningCallback
from lightning_classprune.guard import FNTolerance
from lightning_classprune.losses import ClassBalancedCrossEntropy, ClassDependentLoss, PairwiseRankingLoss

__all__ = [
    "ClassAwarePruningCallback",
    "ClassBalancedCrossEntropy",
    "ClassDependentLoss",
    "FNTolerance",
    "PairwiseRankingLoss",
]
