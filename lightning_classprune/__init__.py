"""Class-aware iterative pruning with weight rewinding for PyTorch Lightning."""

from lightning_classprune.callback import ClassAwarePruningCallback
from lightning_classprune.compact_files import load_compact, save_compact
from lightning_classprune.compacting import compact
from lightning_classprune.exporting import export
from lightning_classprune.live import LiveView
from lightning_classprune.loading import load_ticket
from lightning_classprune.losses import ClassBalancedCrossEntropy, ClassDependentLoss, PairwiseRankingLoss
from lightning_classprune.onnx_export import export_onnx
from lightning_classprune.sparse_inference import sparsify_for_inference
from lightning_classprune.thresholds import certify_threshold
from lightning_classprune.ticket_file import save_ticket
from lightning_classprune.tolerance import FNTolerance

__all__ = [
    "ClassAwarePruningCallback",
    "ClassBalancedCrossEntropy",
    "ClassDependentLoss",
    "FNTolerance",
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
