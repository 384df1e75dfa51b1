"""The small LightningModule of the ready-made job: a network, a loss, an optimizer and a scheduler."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, Literal

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import LRSchedulerConfigType, OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torchmetrics.classification import MulticlassAccuracy

Batch = tuple[Tensor, Tensor]


class Classifier(LightningModule):
    """Train `network` with `loss` on batches `(x, y)`, y of shape `(N,)` with integers in [0, num_classes).

    `network` returns logits `(N, num_classes)`, or one logit `(N,)` or `(N, 1)` with `num_classes=2`; `loss`
    takes (logits, y). Accuracy is the share of correct samples in [0, 1], one logit being decided at 0.
    Logged per epoch: `train_loss`, `val_loss`, `val_accuracy`, `test_loss`, `test_accuracy`.

    `optimizer` and `scheduler` are called with the parameters and with the optimizer: partials, in Hydra
    `_partial_: true`. A scheduler steps per `scheduler_interval`; when its callable leaves `total_steps` or
    `T_max` open, the number of those steps in `trainer.fit` is passed. `ReduceLROnPlateau` watches `monitor`.

    Raises ValueError for an unknown `scheduler_interval` or fewer than two classes.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: nn.Module,
        num_classes: int,
        optimizer: Callable[[Iterable[Parameter]], Optimizer],
        scheduler: Callable[..., LRScheduler] | None = None,
        scheduler_interval: Literal["epoch", "step"] = "epoch",
        monitor: str = "val_loss",
    ) -> None:
        super().__init__()
        if scheduler_interval not in ("epoch", "step"):
            raise ValueError(f"scheduler_interval={scheduler_interval!r} must be 'epoch' or 'step'.")
        if num_classes < 2:
            raise ValueError(
                f"num_classes={num_classes} must be at least 2, also for a network with one logit."
            )
        self.network = network
        self.loss = loss
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        self.scheduler_interval = scheduler_interval
        self.monitor = monitor
        # Targets are looked at where the data are read; a check here would wait for a GPU at every batch.
        self.val_accuracy = MulticlassAccuracy(num_classes, average="micro", validate_args=False)
        self.test_accuracy = MulticlassAccuracy(num_classes, average="micro", validate_args=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of `x`."""
        logits: Tensor = self.network(x)
        return logits

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

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the optimizer and, if there is one, the scheduler with its interval and monitor."""
        optimizer = self.make_optimizer(self.parameters())
        if self.make_scheduler is None:
            return {"optimizer": optimizer}
        horizon = open_horizon(self.make_scheduler)
        arguments = {horizon: self._scheduler_steps(horizon)} if horizon else {}
        scheduler = self.make_scheduler(optimizer, **arguments)
        config: LRSchedulerConfigType = {"scheduler": scheduler, "interval": self.scheduler_interval}
        if isinstance(scheduler, ReduceLROnPlateau):
            config["monitor"] = self.monitor
        return {"optimizer": optimizer, "lr_scheduler": config}

    def _scheduler_steps(self, argument: str) -> int:
        if self.scheduler_interval == "step":
            steps = self.trainer.estimated_stepping_batches
        else:
            steps = self.trainer.max_epochs or -1
        if not 0 < steps < float("inf"):
            raise ValueError(
                f"the scheduler's {argument} is open, but the trainer's max_epochs={self.trainer.max_epochs} "
                f"does not give the number of its steps; set max_epochs, or give {argument}."
            )
        return int(steps)


def decide(logits: Tensor) -> Tensor:
    """Return the predicted classes `(N,)` of logits `(N, C)`; of one logit `(N,)` or `(N, 1)`, by sign."""
    if logits.ndim == 1 or logits.shape[1] == 1:
        return (logits.reshape(-1) > 0).long()
    return logits.argmax(dim=1)


def open_horizon(scheduler: Callable[..., Any]) -> str | None:
    """Name the parameter of `scheduler` that asks for the length of training and has no value yet.

    That is `T_max` without a value, or `total_steps` left at None (OneCycleLR; there `epochs` together with
    `steps_per_epoch` also settles it). None when nothing is open.
    """
    parameters = inspect.signature(scheduler).parameters
    unset = {name for name, p in parameters.items() if p.default in (inspect.Parameter.empty, None)}
    if "T_max" in unset:
        return "T_max"
    settled_by_epochs = "epochs" in parameters and "epochs" not in unset
    return "total_steps" if "total_steps" in unset and not settled_by_epochs else None
