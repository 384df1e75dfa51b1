"""Class-aware iterative pruning with weight rewinding for PyTorch Lightning."""

from lightning_classprune.callback import ClassAwarePruningCallback
from lightning_classprune.guard import FNTolerance
from lightning_classprune.live import LiveView
from lightning_classprune.loading import load_ticket
from lightning_classprune.losses import ClassBalancedCrossEntropy, ClassDependentLoss, PairwiseRankingLoss
from lightning_classprune.thresholds import certify_threshold
from lightning_classprune.ticket_file import save_ticket

__all__ = [
    "ClassAwarePruningCallback",
    "ClassBalancedCrossEntropy",
    "ClassDependentLoss",
    "FNTolerance",
    "LiveView",
    "PairwiseRankingLoss",
    "certify_threshold",
    "load_ticket",
    "save_ticket",
]
