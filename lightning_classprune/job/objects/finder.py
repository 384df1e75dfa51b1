"""The LightningModule of jobs that find objects, and how the callback reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from lightning_classprune.job.data.objects import ObjectBatch, Target
from lightning_classprune.job.optimization import Optimized


@runtime_checkable
class ObjectNetwork(Protocol):
    """A network that finds objects.

    Attributes:
        told_by: What tells the objects in its targets: `"map"` or `"boxes"`.
    """

    told_by: str

    def __call__(self, x: Tensor) -> Any:
        """What it gives for pictures `(n, C, H, W)`: scores, or a list."""
        ...

    def loss(self, x: Tensor, targets: Sequence[Target]) -> Tensor:
        """The loss of a batch."""
        ...

    def read(self, scores: Any) -> list[dict[str, Tensor]]:
        """What it gives, as objects: a dict a picture, as the tasks of `guard` read them."""
        ...


class Finder(Optimized):
    """Train a network that finds objects on batches `(x, targets, units)`.

    Logged per epoch: `train_loss`, `val_loss`, `test_loss`. Arguments but for `network` are those of `Optimized`.

    Args:
        network: An `ObjectNetwork`.
        told_by: What tells the objects in the data's targets.

    Raises:
        ValueError: The network is none, or its targets are others than the data's.
    """

    def __init__(self, network: nn.Module, told_by: str, **optimization: Any) -> None:
        if not isinstance(network, ObjectNetwork):
            raise ValueError(
                f"model: a {type(network).__name__} finds no objects; with data of objects use model=unet or "
                "model=deeplab (masks), model=centre_detector, model=faster_rcnn or model=retinanet (boxes), or a "
                "module with told_by, loss(x, targets) and read(scores)"
            )
        if network.told_by != told_by:
            raise ValueError(
                f"model: a {type(network).__name__} learns from {_WORDS.get(network.told_by, network.told_by)}, and "
                f"the data have {_WORDS.get(told_by, told_by)}; {_FITTING.get(told_by, 'use another model')}"
            )
        super().__init__(network, **optimization)

    def training_step(self, batch: ObjectBatch, batch_idx: int) -> Tensor:
        """Return the loss of the batch."""
        return self._logged("train", batch, prog_bar=True, on_step=False, on_epoch=True)

    def validation_step(self, batch: ObjectBatch, batch_idx: int) -> None:
        """Log `val_loss`."""
        self._logged("val", batch, prog_bar=True, sync_dist=True)

    def test_step(self, batch: ObjectBatch, batch_idx: int) -> None:
        """Log `test_loss`."""
        self._logged("test", batch, sync_dist=True)

    def _logged(self, stage: str, batch: ObjectBatch, **options: Any) -> Tensor:
        x, targets, _ = batch
        network: Any = self.network
        loss: Tensor = network.loss(x, targets)
        self.log(f"{stage}_loss", loss, batch_size=len(x), **options)
        return loss


#: What is in targets, in words, and which networks read it.
_WORDS = {"map": "masks", "boxes": "boxes"}
_FITTING = {
    "map": "use model=unet or model=deeplab",
    "boxes": "use model=centre_detector, model=faster_rcnn or model=retinanet",
}


@dataclass(frozen=True)
class ReadObjects:
    """The callback's `predict` for a `Finder`: the objects that it finds, those that there are, and their units."""

    def __call__(self, module: Any, batch: ObjectBatch) -> tuple[list[Target], list[Target], Tensor]:
        """Look at one batch."""
        x, targets, units = batch
        return module.network.read(module(x)), targets, units
