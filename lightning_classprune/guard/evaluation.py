"""Evaluation: the exact pass over the guard data, on all ranks, that leaves nothing behind in the trainer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_classprune.guard.conditions import Change
from lightning_classprune.guard.data import PADDING, GuardData, Places
from lightning_classprune.guard.task import Columns, OfUnits, Task
from lightning_classprune.trainer.forward import Predict, as_in_validation, predicted, prepare
from lightning_classprune.trainer.processes import Processes, forget_locals


def evaluate(
    trainer: Any,
    pl_module: Any,
    data: GuardData,
    predict: Predict,
    task: Task,
    processes: Processes,
    limit: int | None = None,
    change: Change | None = None,
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
        change: What is done to every batch as its loader gives it.

    Raises:
        ValueError: What `predict` returned makes no sense; see the task's `columns`.
        Exception: Whatever `predict` or a loader raised, on all ranks.
    """
    prepare(predict, trainer, pl_module, processes)
    share = _Share([], [], [])
    error: Exception | None = None
    with as_in_validation(trainer, pl_module), torch.no_grad():
        try:
            for batch, places in data.batches(limit):
                if change is not None and error is None:
                    try:
                        batch = change(batch)
                    except Exception as caught:
                        if processes.world_size == 1:
                            raise
                        error = caught  # the forward pass of this batch is made all the same
                try:
                    share.add(places, task, task.columns(*predicted(trainer, pl_module, predict, batch)))
                except Exception as caught:
                    if processes.world_size == 1:
                        raise
                    # Go on: a sharded model's next forward pass waits for this process.
                    forget_locals(caught)
                    error = error or caught
        except Exception as caught:
            error = error or caught
    processes.raise_together(error)
    merged = _merged(processes.gather_objects(share.real()))
    if merged and isinstance(task, OfUnits):
        return task.numbered(merged[1:], merged[0])
    return merged[1:]


@dataclass(frozen=True)
class _Share:
    """What one process decided: by batch, the places of the rows' samples in the split, and the columns."""

    places: list[Tensor]
    columns: list[Columns]
    counts: list[int]

    def add(self, places: Places, task: Task, columns: Columns) -> None:
        rows = task.samples(columns) if isinstance(task, OfUnits) else None
        count = len(columns[0]) if rows is None else int(rows.max()) + 1 if len(rows) else 0
        if places is None:
            seen = sum(self.counts)
            places = list(range(seen, seen + count))
        elif isinstance(places, int):
            places = [places] * count
        if len(places) != count:
            raise ValueError(
                f"guard_dataloader: {len(places)} items of the data set became a batch of {count} samples, which "
                "cannot be counted exactly once on several processes; its collate_fn must keep one sample an item"
            )
        _require_alike([self.columns[-1], columns] if self.columns else [])
        of_samples = torch.tensor(places, dtype=torch.int64)
        self.counts.append(count)
        self.places.append(of_samples if rows is None else of_samples[rows])
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
    _require_alike(present)
    places, *columns = (torch.cat(parts) for parts in zip(*present, strict=True))
    order = places.argsort(stable=True)
    return places[order], *(column[order] for column in columns)


def _require_alike(batches: list[Columns]) -> None:
    if len({len(columns) for columns in batches}) > 1:
        raise ValueError(
            "predict returned case ids with some batches and none with others, or scores of another form; every batch "
            "must be alike"
        )
