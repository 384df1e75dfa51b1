"""What people do without this package: three ways to prune to a known sparsity, by magnitude and unjudged, in place.

All prune the weights of convolutions and linear layers over the whole network at once.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, prune

from benchmarks.search.runs import layers, model_pruning, trainer
from lightning_classprune.job.data.base import SplitDataModule

PARTS = 12  # of a training by AC/DC, which has at least as many epochs
DENSE = frozenset({0, 1, 3, 5, 7})  # those in which all its weights are trained


def by_hand(module: LightningModule, data: SplitDataModule, sparsity: float, epochs: int) -> None:
    """Prune the smallest weights of the trained network once, and train the rest."""
    weights = [(layer, "weight") for layer in layers(module)]
    prune.global_unstructured(weights, prune.L1Unstructured, amount=sparsity)
    trainer(epochs).fit(module, datamodule=data)
    for layer, name in weights:
        prune.remove(layer, name)


def little_by_little(module: LightningModule, data: SplitDataModule, sparsity: float, epochs: int) -> None:
    """Prune the trained network by Lightning's ModelPruning after each of the first three fifths of the epochs."""
    last = max(1, round(0.6 * epochs)) - 1
    trainer(epochs, model_pruning(module, sparsity, last)).fit(module, datamodule=data)


def alternately(module: LightningModule, data: SplitDataModule, sparsity: float, epochs: int) -> None:
    """Train an untrained network sparse and dense by turns (AC/DC: Peste et al. 2021, arXiv 2106.12379)."""
    trainer(epochs, ByTurns(sparsity, epochs)).fit(module, datamodule=data)


class ByTurns(Callback):
    """Keeps pruned weights at zero in the sparse parts of a training; each begins with a new choice by magnitude.

    Of twelve parts the first two are dense, then sparse and dense ones take turns, and the last four are sparse.
    """

    def __init__(self, sparsity: float, epochs: int) -> None:
        self.sparsity, self.epochs = sparsity, epochs
        self.masks: list[Tensor] = []

    def on_train_epoch_start(self, trainer: Any, pl_module: LightningModule) -> None:
        if PARTS * trainer.current_epoch // self.epochs in DENSE:
            self.masks = []
        elif not self.masks:
            self.masks = kept(pl_module, self.sparsity)
            self._prune(pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: LightningModule, *_: Any) -> None:
        self._prune(pl_module)

    @torch.no_grad()
    def _prune(self, module: nn.Module) -> None:
        for layer, mask in zip(layers(module), self.masks, strict=False):  # no masks, nothing to do
            layer.weight.mul_(mask)


@torch.no_grad()
def kept(module: nn.Module, sparsity: float) -> list[Tensor]:
    """For each layer, which weights are not among the `sparsity` smallest of all, as bool tensors."""
    weights = [layer.weight for layer in layers(module)]
    sizes = parameters_to_vector(weights).abs()
    mask = torch.zeros_like(sizes, dtype=torch.bool)
    mask[sizes.topk(len(sizes) - round(sparsity * len(sizes))).indices] = True
    parts = mask.split([weight.numel() for weight in weights])
    return [part.view_as(weight) for part, weight in zip(parts, weights, strict=True)]
