"""What single arms of the paper's experiment need beyond the package."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelPruning
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_classprune import ClassAwarePruningCallback
from lightning_classprune.losses import ClassDependentLoss, class_balanced_weights, log_odds


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


class SoftTargetLoss(nn.Module):
    """Half a loss of the labels, half the divergence from the teacher's softened probabilities (Hinton et al. 2015).

    `teacher` `(N, C)` are the scores that `DenseTeacher` gives the batch; without them all is of the labels. The
    divergence is multiplied by the square of the temperature, which keeps its gradients of one size.

    Args:
        temperature: Softens both.
        **paper: Of the paper's loss; without any, the labels' is cross-entropy.
    """

    def __init__(self, temperature: float = 2.0, **paper: Any) -> None:
        super().__init__()
        self.of_labels = ClassDependentLoss(**paper) if paper else nn.CrossEntropyLoss()
        self.temperature = temperature
        self.teacher: Tensor | None = None

    def forward(self, scores: Tensor, target: Tensor) -> Tensor:
        loss: Tensor = self.of_labels(scores, target)
        if self.teacher is None:
            return loss
        t = self.temperature
        ours, theirs = (scores.float() / t).log_softmax(1), (self.teacher / t).log_softmax(1)
        divergence = F.kl_div(ours, theirs, reduction="batchmean", log_target=True)
        return (loss + t * t * divergence) / 2


class DistilledLoss(ClassDependentLoss):
    """The paper's loss plus `distill` times the mean squared distance to the teacher's log-odds of the protected class.

    `teacher` `(N, C)` are the scores that `DenseTeacher` gives the batch; without them the term is left out. Only for
    one protected class. Squared log-odds instead of a cross-entropy to the teacher's probability: that says nothing
    more than the label where the teacher is sure, and the order of the sure samples is what AUC measures.
    """

    def __init__(self, distill: float = 1.0, **paper: Any) -> None:
        super().__init__(**paper)
        (self.protected,) = self.ranking.protect
        self.distill = distill
        self.teacher: Tensor | None = None

    def forward(self, scores: Tensor, target: Tensor) -> Tensor:
        loss = super().forward(scores, target)
        if self.teacher is None:
            return loss
        return loss + self.distill * F.mse_loss(
            *(log_odds(s.float(), self.protected) for s in (scores, self.teacher))
        )


class DenseTeacher(Checkpoint):
    """Gives a loss with a `teacher` the dense network's scores of every batch, once the dense round is over.

    A Checkpoint: those run between the verdict and the next round's mask, when the network is the dense one still.
    """

    def __init__(self) -> None:
        self.dense: nn.Module | None = None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.dense is None and pruning_of(trainer).ledger:
            self.dense = copy.deepcopy(pl_module.network).eval().requires_grad_(False)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.dense is not None:
            with torch.no_grad():
                pl_module.loss.teacher = self.dense(batch[0]).float()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        pl_module.loss.teacher = None  # of this batch alone


class DualWeightLoss(nn.Module):
    """Cross-entropy in which samples of the protected class count 1 + `multiplier`, which `DualAscent` moves.

    `found` of `seen` training samples of the class were decided for it since the counts were last taken.
    """

    def __init__(self, protect: Sequence[int]) -> None:
        super().__init__()
        (self.protected,) = protect
        self.multiplier = 0.0
        self.found = self.seen = 0

    def forward(self, scores: Tensor, target: Tensor) -> Tensor:
        if self.training:
            positive = target == self.protected
            self.seen += int(positive.sum())
            self.found += int((scores[positive].argmax(1) == self.protected).sum())
        weights = torch.ones(scores.shape[1], device=scores.device)
        weights[self.protected] += self.multiplier
        return F.cross_entropy(scores, target, weights)


class DualAscent(Callback):
    """Raises a `DualWeightLoss`'s multiplier while less of the protected class is found than the dense network found.

    After Hashemizadeh et al. 2024 (Balancing Act), for one class. Found is what the network decided while it trained on
    an epoch's samples; the multiplier moves by `rate` times the shortfall each epoch, and never below 0.
    """

    def __init__(self, rate: float = 5.0) -> None:
        self.rate = rate
        self.target = 0.0
        self.pruned = False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.pruned = bool(pruning_of(trainer).ledger)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loss = pl_module.loss
        recall, loss.found, loss.seen = loss.found / loss.seen, 0, 0
        if self.pruned:
            loss.multiplier = max(0.0, loss.multiplier + self.rate * (self.target - recall))
        else:
            self.target = recall
