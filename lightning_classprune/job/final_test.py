"""The last look at a split: what a network decides there, each sample once, however many processes share it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor

from lightning_classprune.guard.classification import Classes
from lightning_classprune.guard.outcomes import Decisions
from lightning_classprune.guard.task import Columns, NaNScoresError
from lightning_classprune.job.data.base import Batch


@dataclass(frozen=True)
class Answers:
    """What one network says of one split.

    Attributes:
        decisions: Of every sample, in the split's order.
        margins: By protected class, `(n,)` float64: how far its score is above the best of the others, the decision
            offset included.
    """

    decisions: Decisions
    margins: Mapping[str, Tensor]

    def counted(self) -> dict[str, Any]:
        """What `test.json` says; see `counted`."""
        return counted(self.decisions)


class FinalTest(Callback):
    """Decides the samples of `trainer.test` as the guard does; afterwards `tested` holds them, the same on all ranks.

    Expects one unshuffled loader of batches `(x, y)`. None before, and of a network whose scores are NaN.

    Args:
        class_names: Of all classes.
        protected: Indices of the protected ones.
        threshold: On raw one-logit scores.

    Attributes:
        offsets: Bias to add to a class' score that the network does not contain, by name.
    """

    def __init__(self, class_names: Sequence[str], protected: Sequence[int], threshold: float = 0.0) -> None:
        self._task = Classes(class_names, protected, threshold)
        self.offsets: Mapping[str, float] = {}
        self.tested: Answers | None = None

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start from nothing."""
        self.tested = None
        self._batches: list[tuple[Tensor, Tensor]] = []

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the scores of the batch."""
        with trainer.precision_plugin.forward_context():
            self._batches.append((pl_module(batch[0]).float(), batch[1]))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Decide, over all processes."""
        if not self._batches:
            return
        loaders = trainer.test_dataloaders
        loader = loaders[0] if isinstance(loaders, list) else loaders
        size = len(loader.dataset)  # type: ignore[union-attr]
        scores, target = (_whole(trainer, torch.cat(part), size) for part in zip(*self._batches, strict=True))
        self._batches = []
        try:
            columns = self._task.columns(scores, target)
        except NaNScoresError as error:
            rank_zero_warn(f"final test: {error}")
            return
        self.tested = self._decided(columns)

    def _decided(self, columns: Columns) -> Answers:
        decisions = self._task.outcomes(columns, self.offsets)
        margins = {}
        for index in self._task.protected:
            name = self._task.names[index]
            sweep = self._task.sweep(columns, self.offsets, name, decisions)
            margins[name] = torch.from_numpy(sweep.margin) + self.offsets.get(name, 0.0)
        return Answers(decisions, margins)


def _whole(trainer: Trainer, share: Tensor, size: int) -> Tensor:
    """The samples of all processes in the split's order, on the CPU.

    Lightning's sampler gives rank r the samples r, r + world_size, ... and repeats some to make shards even.
    """
    if trainer.world_size > 1:
        gathered: Tensor = trainer.strategy.all_gather(share)
        share = gathered.transpose(0, 1).flatten(0, 1)
    return share[:size].detach().cpu()


def counted(decisions: Decisions) -> dict[str, Any]:
    """`{"samples": n, "accuracy": a, "classes": {name: {support, fn, fp, recall}}}`, recall None without samples."""
    counts = decisions.counts()
    classes = {
        name: {"support": support, "fn": fn, "fp": fp, "recall": tp / support if support else None}
        for name, (tp, fp, _, fn, support) in zip(decisions.names, counts.tolist(), strict=True)
    }
    samples = len(decisions)
    accuracy = int(counts[:, 0].sum()) / samples if samples else None
    return {"samples": samples, "accuracy": accuracy, "classes": classes}
