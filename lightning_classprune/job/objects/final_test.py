"""The last look at a split whose samples hold objects: what a network finds there, each sample once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor

from lightning_classprune.guard.objects import OBJECT, ObjectTask, Unmatched
from lightning_classprune.guard.task import Columns, NaNScoresError
from lightning_classprune.job.objects.answers import Alarms, ObjectAnswers
from lightning_classprune.trainer.forward import Predict, scores_and_target
from lightning_classprune.trainer.processes import Processes


class ObjectTest(Callback):
    """Reads the samples of `trainer.test` as the guard does; afterwards `tested` holds them, the same on all ranks.

    Expects one unshuffled loader. None before, and of a network whose scores are NaN.

    Args:
        task: What it is to find an object.
        predict: `(pl_module, batch) -> (scores, target, unit)`.
        others: The same of the classes that nobody protects, which are counted only; None for none.

    Attributes:
        offsets: Bias to add to a class' score that the network does not contain, by name.
    """

    def __init__(self, task: ObjectTask, predict: Predict, others: ObjectTask | None = None) -> None:
        self._task, self._predict, self._others = task, predict, others
        self.offsets: Mapping[str, float] = {}
        self.tested: ObjectAnswers | None = None

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start from nothing."""
        self.tested = None
        self._places: list[Tensor] = []
        self._columns: list[Columns] = []
        self._alarms: list[tuple[int, Unmatched]] = []
        self._of_others: list[Tensor] = []
        self._seen = 0
        self._diverged = False

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep what is found in the batch."""
        if self._diverged:
            return
        with trainer.precision_plugin.forward_context():
            scores, target, *case = scores_and_target(self._predict(pl_module, batch))
        try:
            columns = self._task.columns(scores, target, *case)
        except NaNScoresError as error:
            rank_zero_warn(f"final test: {error}")
            self._diverged = True
            return
        rows = self._task.samples(columns)
        count = int(rows.max()) + 1 if len(rows) else 0
        # Lightning's sampler gives rank r the samples r, r + world_size, ...
        places = trainer.global_rank + trainer.world_size * torch.arange(self._seen, self._seen + count)
        self._seen += count
        self._places.append(places[rows])
        self._columns.append(tuple(column.cpu() for column in columns))
        self._alarms += [
            (int(places[one.sample]), one) for one in self._task.unmatched(scores, target, self.offsets)
        ]
        if self._others is not None:
            sample, _, kind, values, *_ = self._others.columns(scores, target)
            objects = kind[:, 0] == OBJECT
            told = [places[sample[objects]], kind[objects, 1], values[objects, 0].long()]
            self._of_others.append(torch.stack(told, 1))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Decide, over all processes."""
        processes = Processes(trainer.global_rank, trainer.world_size)
        if processes.any(self._diverged):
            return
        shares = processes.gather_objects((self._places, self._columns, self._alarms, self._of_others))
        loaders = trainer.test_dataloaders
        loader = loaders[0] if isinstance(loaders, list) else loaders
        size = len(loader.dataset)  # type: ignore[union-attr]
        batches = [columns for _, its, *_ in shares for columns in its]
        if not batches:
            return
        places = torch.cat([place for its, *_ in shares for place in its])
        order = places.argsort(stable=True)
        order = order[places[order] < size]  # the sampler repeats samples to make shards even
        columns = tuple(torch.cat(column)[order] for column in zip(*batches, strict=True))
        found = self._task.outcomes(self._task.numbered(columns, places[order]), self.offsets)
        alarms = sorted(
            (place, one.label, one.box) for _, _, its, _ in shares for place, one in its if place < size
        )
        self.tested = ObjectAnswers(
            found,
            Alarms(
                torch.tensor([place for place, _, _ in alarms], dtype=torch.int64),
                torch.tensor([label for _, label, _ in alarms], dtype=torch.int64),
                torch.tensor([box for _, _, box in alarms], dtype=torch.float32).reshape(-1, 4),
            ),
            {}
            if self._others is None
            else self._counted(torch.cat([one for *_, its in shares for one in its]), size),
        )

    def _counted(self, objects: Tensor, size: int) -> dict[str, tuple[int, int]]:
        """By class, how many objects are missed, and how many there are; rows are of place, class and found."""
        assert self._others is not None
        objects = objects[objects[:, 0] < size]
        told = {}
        for index in self._others.protected:
            found = objects[objects[:, 1] == index, 2]
            told[self._others.names[index]] = (int((found == 0).sum()), len(found))
        return told
