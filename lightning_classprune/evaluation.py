"""Evaluation: the exact pass over the guard data, on all ranks, that leaves nothing behind in the trainer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_classprune.guard_data import PADDING, GuardData, Places, Predict
from lightning_classprune.modes import in_eval_mode
from lightning_classprune.outcomes import Outcomes, decide, scores_and_target
from lightning_classprune.processes import Processes
from lightning_classprune.randomness import seed_process, untouched_randomness
from lightning_classprune.sharding import reshard


@contextmanager
def judging(trainer: Any, pl_module: Any) -> Iterator[None]:
    """Evaluation mode without gradients; everything is put back afterwards.

    The random state is fixed inside, so that a data set with random transforms yields the same samples each time.
    """
    stage = trainer.state.stage
    trainer.validating = True  # `on_after_batch_transfer` commonly augments only while training
    try:
        with in_eval_mode(pl_module), torch.no_grad(), untouched_randomness():
            seed_process(0)
            yield
    finally:
        reshard(pl_module)
        trainer.state.stage = stage


def evaluate(
    trainer: Any,
    pl_module: Any,
    data: GuardData,
    predict: Predict,
    *,
    num_classes: int,
    threshold: float,
    processes: Processes,
    limit: int | None = None,
) -> Outcomes:
    """Decide every guard sample once and return the outcomes of all ranks, the same on each.

    Args:
        trainer: The running trainer.
        pl_module: The network to judge.
        data: This process' share of the guard split.
        predict: `(pl_module, batch) -> (scores, target)`.
        num_classes: Number of classes or labels.
        threshold: For one-logit and multi-label scores.
        processes: The processes that share the work.
        limit: Look at this many batches only (a first check, `fast_dev_run`).

    Raises:
        ValueError: What `predict` returned makes no sense; see `decide`.
        Exception: Whatever `predict` or a loader raised, on all ranks.
    """
    share = _Share([], [], [])
    error: Exception | None = None
    with judging(trainer, pl_module):
        try:
            for batch, places in data.batches(limit):
                try:
                    scores, target = _predict(trainer, pl_module, predict, batch)
                    share.add(places, *decide(scores, target, num_classes, threshold))
                except Exception as caught:
                    if processes.world_size == 1:
                        raise
                    # Go on: a sharded model's next forward pass waits for this process.
                    error = error or caught
        except Exception as caught:
            error = error or caught
    processes.raise_together(error)
    return _merge(processes.gather_objects(share.real()), num_classes)


def _predict(trainer: Any, pl_module: Any, predict: Predict, batch: Any) -> tuple[Tensor, Tensor]:
    batch = trainer.precision_plugin.convert_input(batch)
    batch = pl_module._on_before_batch_transfer(batch, dataloader_idx=0)
    batch = trainer.strategy.batch_to_device(batch)
    # Samples are made outside, as Lightning makes them: half precision is for the network, not for the data set.
    with trainer.precision_plugin.forward_context():
        return scores_and_target(predict(pl_module, batch))


@dataclass(frozen=True)
class _Share:
    """What one process decided: by batch, the places of the samples in the split, targets and decisions."""

    places: list[Tensor]
    target: list[Tensor]
    predicted: list[Tensor]

    def add(self, places: Places, predicted: Tensor, target: Tensor) -> None:
        count = len(target)
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
        self.target.append(target.cpu())
        self.predicted.append(predicted.cpu())

    def real(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """Places, targets and decisions without padding; None if there was no batch."""
        if not self.places:
            return None
        places = torch.cat(self.places)
        real = places != PADDING
        return places[real], torch.cat(self.target)[real], torch.cat(self.predicted)[real]


def _merge(shares: list[tuple[Tensor, Tensor, Tensor] | None], num_classes: int) -> Outcomes:
    present = [share for share in shares if share is not None]
    if not present:
        empty = torch.zeros(0, dtype=torch.int64)
        return Outcomes(empty, empty, num_classes)
    places, target, predicted = (torch.cat(column) for column in zip(*present, strict=True))
    order = places.argsort(stable=True)
    return Outcomes(target[order], predicted[order], num_classes)
