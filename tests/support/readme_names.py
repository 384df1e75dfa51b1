"""What a reader of the documents has before the first snippet, as the module `my_project`: a module and its data."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

__all__ = ["MyData", "MyModule", "guard_loader", "train_loader", "val_loader"]

torch.set_num_threads(1)


def _loader(seed: int) -> DataLoader[Any]:
    """Samples of their own for each seed: the guard refuses those that others have."""
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(seed))
    return DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), batch_size=32)


class MyModule(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, _: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, _: int) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]), sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class MyData(pl.LightningDataModule):
    def train_dataloader(self) -> DataLoader[Any]:
        return _loader(0)

    def val_dataloader(self) -> DataLoader[Any]:
        return _loader(1)

    def guard_dataloader(self) -> DataLoader[Any]:
        return _loader(2)


train_loader, val_loader, guard_loader = _loader(0), _loader(1), _loader(2)
