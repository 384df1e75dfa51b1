"""The small LightningModule of the ready-made job: a network, a loss, an optimizer and a scheduler."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from lightning_classprune.job.optimization import Optimized

Batch = tuple[Tensor, Tensor]


class Classifier(Optimized):
    """Train `network` with `loss` on batches `(x, y)`, y of shape `(N,)` with integers in [0, num_classes).

    `network` returns logits `(N, num_classes)`, or one logit `(N,)` or `(N, 1)` with `num_classes=2`; `loss`
    takes (logits, y). Accuracy is the share of correct samples in [0, 1], one logit being decided at 0.
    Logged per epoch: `train_loss`, `val_loss`, `val_accuracy`, `test_loss`, `test_accuracy`.

    Other arguments are those of `Optimized`. Raises ValueError for fewer than two classes.
    """

    def __init__(self, network: nn.Module, loss: nn.Module, num_classes: int, **optimization: Any) -> None:
        super().__init__(network, **optimization)
        if num_classes < 2:
            raise ValueError(
                f"num_classes={num_classes} must be at least 2, also for a network with one logit."
            )
        self.loss = loss
        self.val_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.test_accuracy = MulticlassAccuracy(num_classes, average="micro")

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of the batch."""
        x, y = batch
        loss: Tensor = self.loss(self(x), y)
        self.log("train_loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(y))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log `val_loss` and `val_accuracy`."""
        self._evaluate("val", batch, self.val_accuracy)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Log `test_loss` and `test_accuracy`."""
        self._evaluate("test", batch, self.test_accuracy)

    def _evaluate(self, stage: str, batch: Batch, accuracy: MulticlassAccuracy) -> None:
        x, y = batch
        logits = self(x)
        accuracy(decide(logits), y)
        self.log(f"{stage}_loss", self.loss(logits, y), prog_bar=True, sync_dist=True, batch_size=len(y))
        self.log(f"{stage}_accuracy", accuracy, prog_bar=True, batch_size=len(y))


def decide(logits: Tensor) -> Tensor:
    """Return the predicted classes `(N,)` of logits `(N, C)`; of one logit `(N,)` or `(N, 1)`, by sign."""
    if logits.ndim == 1 or logits.shape[1] == 1:
        return (logits.reshape(-1) > 0).long()
    return logits.argmax(dim=1)
