"""Class-aware iterative pruning with weight rewinding for PyTorch Lightning."""

from lightning_classprune.callback import ClassAwarePruningCallback
from lightning_classprune.export.compact import compact
from lightning_classprune.export.compact_files import load_compact, save_compact
from lightning_classprune.export.export import export
from lightning_classprune.export.onnx_export import export_onnx
from lightning_classprune.export.sparse_inference import sparsify_for_inference
from lightning_classprune.guard.options import Guard
from lightning_classprune.guard.thresholds import certify_threshold
from lightning_classprune.guard.tolerance import FNTolerance
from lightning_classprune.live import LiveView
from lightning_classprune.losses import ClassBalancedCrossEntropy, ClassDependentLoss, PairwiseRankingLoss
from lightning_classprune.pruning.options import Cut
from lightning_classprune.rounds.options import Adaptive, Fixed
from lightning_classprune.tickets.loading import load_ticket
from lightning_classprune.tickets.options import Files
from lightning_classprune.tickets.ticket_file import save_ticket

__all__ = [
    "Adaptive",
    "ClassAwarePruningCallback",
    "ClassBalancedCrossEntropy",
    "ClassDependentLoss",
    "Cut",
    "FNTolerance",
    "Files",
    "Fixed",
    "Guard",
    "LiveView",
    "PairwiseRankingLoss",
    "certify_threshold",
    "compact",
    "export",
    "export_onnx",
    "load_compact",
    "load_ticket",
    "save_compact",
    "save_ticket",
    "sparsify_for_inference",
]
