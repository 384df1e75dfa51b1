"""What all LightningModules of the job have in common: a network, an optimizer and a scheduler."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, Literal

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import LRSchedulerConfigType, OptimizerLRScheduler
from torch import nn
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau


class Optimized(LightningModule):
    """A network with its optimizer and scheduler; what is trained is a subclass' matter.

    `optimizer` and `scheduler` are called with the parameters and with the optimizer: partials, in Hydra
    `_partial_: true`. A scheduler steps per `scheduler_interval`; when its callable leaves `total_steps` or
    `T_max` open, the number of those steps in `trainer.fit` is passed. `ReduceLROnPlateau` watches `monitor`.

    Raises ValueError for an unknown `scheduler_interval`.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Callable[[Iterable[Parameter]], Optimizer],
        scheduler: Callable[..., LRScheduler] | None = None,
        scheduler_interval: Literal["epoch", "step"] = "epoch",
        monitor: str = "val_loss",
    ) -> None:
        super().__init__()
        if scheduler_interval not in ("epoch", "step"):
            raise ValueError(f"scheduler_interval={scheduler_interval!r} must be 'epoch' or 'step'.")
        self.network = network
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        self.scheduler_interval = scheduler_interval
        self.monitor = monitor

    def forward(self, x: Any) -> Any:
        """Return what the network gives for `x`."""
        return self.network(x)

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
