"""Evaluation: the exact pass over the guard data, on all ranks, that leaves nothing behind in the trainer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_classprune.guard.data import PADDING, GuardData, Places
from lightning_classprune.guard.task import Columns, Task
from lightning_classprune.trainer.forward import Predict, as_in_validation, predicted
from lightning_classprune.trainer.processes import Processes


def evaluate(
    trainer: Any,
    pl_module: Any,
    data: GuardData,
    predict: Predict,
    task: Task,
    processes: Processes,
    limit: int | None = None,
) -> Columns:
    """Look at every case once and return the columns of all ranks, the same on each.

    Args:
        trainer: The running trainer.
        pl_module: The network to judge.
        data: This process' share of the data.
        predict: `(pl_module, batch) -> (scores, target)`.
        task: What a decision is.
        processes: The processes that share the work.
        limit: Look at this many batches only (a first check, `fast_dev_run`).

    Raises:
        ValueError: What `predict` returned makes no sense; see the task's `columns`.
        Exception: Whatever `predict` or a loader raised, on all ranks.
    """
    share = _Share([], [])
    error: Exception | None = None
    with as_in_validation(trainer, pl_module), torch.no_grad():
        try:
            for batch, places in data.batches(limit):
                try:
                    scores, target = predicted(trainer, pl_module, predict, batch)
                    share.add(places, task.columns(scores, target))
                except Exception as caught:
                    if processes.world_size == 1:
                        raise
                    # Go on: a sharded model's next forward pass waits for this process.
                    error = error or caught
        except Exception as caught:
            error = error or caught
    processes.raise_together(error)
    return _merged(processes.gather_objects(share.real()))


@dataclass(frozen=True)
class _Share:
    """What one process decided: by batch, the places of the cases in the split, and their columns."""

    places: list[Tensor]
    columns: list[Columns]

    def add(self, places: Places, columns: Columns) -> None:
        count = len(columns[0])
        if places is None:
            seen = sum(len(p) for p in self.places)
            places = list(range(seen, seen + count))
        elif isinstance(places, int):
            places = [places] * count
        if len(places) != count:
            raise ValueError(
                f"guard_dataloader: {len(places)} items of the data set became a batch of {count} samples, which "
                "cannot be counted exactly once on several processes; its collate_fn must keep one sample an item"
            )
        self.places.append(torch.tensor(places, dtype=torch.int64))
        self.columns.append(tuple(column.cpu() for column in columns))

    def real(self) -> Columns:
        """Places and columns without padding; none if there was no batch."""
        if not self.places:
            return ()
        places = torch.cat(self.places)
        real = places != PADDING
        whole = (torch.cat(parts) for parts in zip(*self.columns, strict=True))
        return places[real], *(column[real] for column in whole)


def _merged(shares: list[Columns]) -> Columns:
    present = [share for share in shares if share]
    if not present:
        return ()
    places, *columns = (torch.cat(parts) for parts in zip(*present, strict=True))
    order = places.argsort(stable=True)
    return tuple(column[order] for column in columns)
