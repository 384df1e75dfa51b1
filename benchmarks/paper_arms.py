"""What single arms of the paper's experiment need beyond the package."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelPruning
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_classprune import ClassAwarePruningCallback
from lightning_classprune.losses import class_balanced_weights, log_odds


class LaterClassWeights(Callback):
    """Put these class weights into the loss once the dense round is over."""

    def __init__(self, class_weights: Sequence[float]) -> None:
        self.class_weights = torch.tensor([float(weight) for weight in class_weights])

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if pruning_of(trainer).ledger:
            pl_module.loss.cross_entropy.class_weights = self.class_weights


def pruning_of(trainer: Trainer) -> ClassAwarePruningCallback:
    return next(c for c in trainer.callbacks if isinstance(c, ClassAwarePruningCallback))


def lottery_ticket_pruning(epochs: int, amount: float) -> ModelPruning:
    """Lightning's ModelPruning with its defaults: after every `epochs` epochs, prune `amount` and rewind."""
    return ModelPruning(
        "l1_unstructured",
        amount=amount,
        apply_pruning=lambda epoch: (epoch + 1) % epochs == 0,
        use_lottery_ticket_hypothesis=lambda epoch: (epoch + 1) % epochs == 0,
    )


class SearchedLoss(nn.Module):
    """Cross-entropy on logits shifted by `tau` times the log class shares (Menon et al. 2021), plus ranking.

    `hardest` in (0, 1] is the share of the batch's negatives, highest scores first, that the squared hinge looks at:
    1 is all pairs, less is a one-way partial AUC. Only for one protected class.
    """

    prior: Tensor

    def __init__(
        self,
        class_counts: Sequence[int],
        protect: Sequence[int],
        tau: float = 0.0,
        balanced: bool = False,
        rank_weight: float = 0.0,
        margin: float = 1.0,
        hardest: float = 1.0,
    ) -> None:
        super().__init__()
        counts = torch.tensor([float(count) for count in class_counts])
        self.register_buffer("prior", tau * (counts / counts.sum()).log(), persistent=False)
        weights = class_balanced_weights(list(class_counts)) if balanced else torch.ones(len(counts))
        self.register_buffer("weights", weights, persistent=False)
        (self.protected,) = protect
        self.rank_weight, self.margin, self.hardest = rank_weight, margin, hardest

    def forward(self, scores: Tensor, target: Tensor) -> Tensor:
        loss = F.cross_entropy(scores + self.prior, target, self.weights)
        score, positive = log_odds(scores, self.protected), target == self.protected
        high, low = score[positive], score[~positive]
        if not len(high) or not len(low):
            return loss
        low = low.topk(max(1, round(self.hardest * len(low)))).values
        shortfall = (self.margin - (high.unsqueeze(1) - low.unsqueeze(0))).clamp(min=0)
        return loss + self.rank_weight * shortfall.square().mean()
