"""Counts of the test split, each sample once, however many processes share it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torchmetrics.functional.classification import multiclass_stat_scores

from lightning_classprune.job.classifier import decide
from lightning_classprune.job.data.base import Batch


class ClassCounts(Callback):
    """Collects the decisions of `trainer.test`; afterwards `results` holds the counts of every class.

    `results` is `{"samples": n, "accuracy": a, "classes": {name: {support, fn, fp, recall}}}`, the same on all ranks;
    recall is None for a class without samples. Expects one unshuffled loader of batches `(x, y)`.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        self.class_names = list(class_names)
        self.results: dict[str, Any] = {"samples": 0, "accuracy": None, "classes": {}}

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start from nothing."""
        self._pairs: list[Batch] = []

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Decide the batch."""
        with trainer.precision_plugin.forward_context():
            self._pairs.append((decide(pl_module(batch[0])), batch[1]))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count over all processes."""
        if not self._pairs:
            return
        predicted, target = (torch.cat(part) for part in zip(*self._pairs, strict=True))
        # Lightning's sampler gives rank r the samples r, r + world_size, ... and repeats some to make shards even.
        loaders = trainer.test_dataloaders
        loader = loaders[0] if isinstance(loaders, list) else loaders
        position = torch.arange(len(target), device=target.device) * trainer.world_size + trainer.global_rank
        real = position < len(loader.dataset)  # type: ignore[union-attr]
        counts = _counts(predicted[real], target[real], len(self.class_names))
        self.results = _results(trainer.strategy.reduce(counts, reduce_op="sum").cpu(), self.class_names)


def _counts(predicted: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """Return `(num_classes, 5)` integers: tp, fp, tn, fn, support."""
    if not len(target):
        return torch.zeros(num_classes, 5, dtype=torch.int64, device=target.device)
    return multiclass_stat_scores(predicted, target, num_classes, average=None).reshape(num_classes, 5)


def _results(counts: Tensor, class_names: Sequence[str]) -> dict[str, Any]:
    classes = {}
    for name, (tp, fp, _, fn, support) in zip(class_names, counts.tolist(), strict=True):
        recall = tp / support if support else None
        classes[name] = {"support": support, "fn": fn, "fp": fp, "recall": recall}
    samples = int(counts[:, 4].sum())
    return {
        "samples": samples,
        "accuracy": int(counts[:, 0].sum()) / samples if samples else None,
        "classes": classes,
    }
