"""Resuming: what Lightning leaves out when it goes on from a checkpoint, and a run needs to go on as it would have.

Lightning saves no logged metrics, so that whatever looks at them at an epoch's end (EarlyStopping, plateau schedulers)
fails or is skipped in the epoch that is resumed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lightning_classprune.horizon import epochs_done
from lightning_classprune.rewinding import copy_state


def logged_metrics(trainer: Any) -> dict[str, Tensor]:
    """What callbacks and plateau schedulers can see now."""
    metrics: dict[str, Tensor] = copy_state(dict(trainer.callback_metrics))
    return metrics


def restore_metrics(trainer: Any, metrics: Mapping[str, Tensor]) -> None:
    """Let callbacks and plateau schedulers see what they could when the checkpoint was written."""
    device = trainer.strategy.root_device
    trainer._logger_connector._callback_metrics.update({k: v.to(device) for k, v in metrics.items()})


def inside_epoch_end(trainer: Any) -> bool:
    """Whether the hooks of an epoch's end are running: the plateau schedulers' turn is still to come."""
    progress = trainer.fit_loop.epoch_progress.current
    return bool(progress.completed < progress.processed)


def step_plateau_schedulers(trainer: Any) -> None:
    """Lightning's own step at the end of an epoch, which it skips where that epoch was resumed."""
    if not trainer.lightning_module.automatic_optimization:
        return
    for config in trainer.lr_scheduler_configs:
        due = config.interval == "epoch" and epochs_done(trainer) % config.frequency == 0
        if config.reduce_on_plateau and due and config.monitor in trainer.callback_metrics:
            value = trainer.callback_metrics[config.monitor]
            trainer.lightning_module.lr_scheduler_step(config.scheduler, value)


def finish_epoch(trainer: Any) -> None:
    """Count the epoch that was resumed as done, as Lightning itself does for a checkpoint of an epoch's last batch.

    For a round whose steps were all taken inside it: the loop would see nothing left to do, or train on.
    """
    loop = trainer.fit_loop
    loop.epoch_progress.increment_processed()
    loop.epoch_progress.increment_completed()
    loop.epoch_loop._batches_that_stepped += 1
    for part in (loop, loop.epoch_loop, loop.epoch_loop.val_loop):
        part.on_iteration_done()
