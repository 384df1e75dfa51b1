"""Evaluation: the exact pass over the guard data, on all ranks, that leaves nothing behind in the trainer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lightning_classprune.guard_data import GuardData, Predict
from lightning_classprune.outcomes import Outcomes, decide
from lightning_classprune.processes import Processes
from lightning_classprune.randomness import seed_process, untouched_randomness


@contextmanager
def judging(trainer: Any, pl_module: Any) -> Iterator[None]:
    """Evaluation mode without gradients, in the user's precision; everything is put back afterwards.

    The random state is fixed inside, so that a data set with random transforms yields the same samples each time.
    """
    modes = {module: module.training for module in pl_module.modules()}
    stage = trainer.state.stage
    trainer.validating = True  # `on_after_batch_transfer` commonly augments only while training
    try:
        pl_module.eval()
        with torch.no_grad(), untouched_randomness(), trainer.precision_plugin.forward_context():
            seed_process(0)
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
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
    """
    predicted: list[Tensor] = []
    targets: list[Tensor] = []
    error: ValueError | None = None
    with judging(trainer, pl_module):
        try:
            for batch in data.batches(limit):
                scores, target = _predict(trainer, pl_module, predict, batch)
                decided, target = decide(scores, target, num_classes, threshold)
                predicted.append(decided.cpu())
                targets.append(target.cpu())
        except ValueError as caught:
            error = caught  # raised by all ranks together: one that raises alone leaves the others waiting
    for failed in processes.gather_objects(error):
        if failed is not None:
            raise failed
    positions = data.positions()
    if positions is None or limit is not None:
        positions = list(range(sum(len(t) for t in targets)))
    share = (positions, torch.cat(targets) if targets else None, torch.cat(predicted) if predicted else None)
    return _merge(processes.gather_objects(share), num_classes)


def _predict(trainer: Any, pl_module: Any, predict: Predict, batch: Any) -> tuple[Tensor, Tensor]:
    batch = trainer.precision_plugin.convert_input(batch)
    batch = pl_module._on_before_batch_transfer(batch, dataloader_idx=0)
    batch = trainer.strategy.batch_to_device(batch)
    result = predict(pl_module, batch)
    if not (isinstance(result, tuple | list) and len(result) == 2):
        raise ValueError(f"predict must return (scores, target), got {type(result).__name__}")
    return result[0], result[1]


def _merge(shares: list[tuple[list[int], Tensor | None, Tensor | None]], num_classes: int) -> Outcomes:
    order = torch.tensor([p for positions, *_ in shares for p in positions], dtype=torch.int64).argsort(
        stable=True
    )
    targets = [t for _, t, _ in shares if t is not None]
    predicted = [p for *_, p in shares if p is not None]
    if not targets:
        empty = torch.zeros(0, dtype=torch.int64)
        return Outcomes(empty, empty, num_classes)
    return Outcomes(torch.cat(targets)[order], torch.cat(predicted)[order], num_classes)
