"""Compatibility: which trainers a run can work in; everything else is refused before the first batch."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning_utilities.core.rank_zero import rank_zero_warn

from lightning_classprune.trainer.horizon import Horizon
from lightning_classprune.trainer.versions import callbacks_module, check_version, of_type, package_of


def check_trainer(trainer: Any, owner: Any) -> None:
    """Refuse what cannot work.

    Raises:
        MisconfigurationException: An older Lightning, another such callback, a callback that swaps schedulers or
            limits, several that average weights, a strategy that is not supported, or rounds that nothing ends.
    """
    check_version(trainer)
    if sum(isinstance(c, type(owner)) for c in trainer.callbacks) > 1:
        raise MisconfigurationException(
            f"the Trainer has more than one {type(owner).__name__}; their masks would fight: "
            "protect several classes with one, protect={0: ..., 1: ...}"
        )
    if of_type(trainer, "StochasticWeightAveraging"):
        raise MisconfigurationException(
            "StochasticWeightAveraging replaces the learning-rate scheduler and sets max_epochs itself, so rounds "
            "cannot be rewound; use WeightAveraging (EMA) beside ClassAwarePruningCallback instead"
        )
    if of_type(trainer, "ModelPruning"):
        raise MisconfigurationException(
            "ModelPruning reparametrizes the weights that ClassAwarePruningCallback masks; remove one of the two"
        )
    if len(of_type(trainer, "WeightAveraging")) > 1:
        raise MisconfigurationException(
            "the Trainer has more than one WeightAveraging callback: Lightning takes them out after a validation in "
            "the order in which it put them in, so that training goes on with weights of an average; keep one"
        )
    _check_strategy(trainer)
    if (
        trainer.fit_loop.max_epochs == -1
        and trainer.fit_loop.max_steps == -1
        and not of_type(trainer, "EarlyStopping")
    ):
        raise MisconfigurationException(
            "max_epochs=-1 without max_steps or EarlyStopping: nothing ends a round, so nothing would ever be judged; "
            "set max_epochs or max_steps to the length of one training"
        )


def refuse_optimizers(optimizers: Sequence[Any]) -> None:
    """Refuse optimizers that hold a part of the training state on each process.

    Raises:
        MisconfigurationException: There is one; it would fail, or be rewound in part, after the dense training.
    """
    for optimizer in optimizers:
        if "ZeroRedundancyOptimizer" in {kind.__name__ for kind in type(optimizer).__mro__}:
            raise MisconfigurationException(
                "ZeroRedundancyOptimizer spreads the optimizer's state over the processes, which cannot be rewound; "
                "use the plain optimizer with strategy='ddp', or shard the model too (ModelParallelStrategy with "
                "fully_shard)"
            )


def refuse_finders(trainer: Any) -> None:
    """Refuse callbacks that train before the first batch, where a checkpoint is gone on with.

    Lightning then forgets the checkpoint: its weights stay, its epochs, optimizers and schedulers do not.

    Raises:
        MisconfigurationException: There is one.
    """
    for name in ("LearningRateFinder", "BatchSizeFinder"):
        for callback in of_type(trainer, name):
            if type(callback).on_fit_start is getattr(callbacks_module(trainer), name).on_fit_start:
                raise MisconfigurationException(
                    f"{type(callback).__name__} with ckpt_path: it trains before the first batch, and Lightning then "
                    "forgets the checkpoint's epochs and optimizers; go on without it, what it found is in the "
                    "checkpoint (a batch size, and a rate that the module sets itself, are to be given again)"
                )


def _check_strategy(trainer: Any) -> None:
    strategies = importlib.import_module(f"{package_of(trainer)}.strategies")
    check_strategy(trainer.strategy, strategies)
    sharded = isinstance(trainer.strategy, strategies.ModelParallelStrategy)
    if sharded and trainer.strategy.device_mesh["tensor_parallel"].size() > 1:
        raise MisconfigurationException(
            "ModelParallelStrategy(tensor_parallel_size=...) above 1 is not supported: weights are cut along several "
            "dimensions; use tensor_parallel_size=1 with data_parallel_size for FSDP2"
        )


def check_strategy(strategy: Any, strategies: Any) -> None:
    """Refuse strategies under which pruned weights could not be held or samples not be counted.

    Args:
        strategy: The trainer's.
        strategies: The module `strategies` of the trainer's package.

    Raises:
        MisconfigurationException: Names the strategy and what to use instead.
    """
    works = (strategies.SingleDeviceStrategy, strategies.DDPStrategy, strategies.ModelParallelStrategy)
    fails = (strategies.DeepSpeedStrategy, strategies.XLAStrategy, strategies.SingleDeviceXLAStrategy)
    if not isinstance(strategy, works) or isinstance(strategy, fails):
        sharded = (
            "; for a sharded model use ModelParallelStrategy with fully_shard in configure_model (FSDP2)"
        )
        raise MisconfigurationException(
            f"strategy {type(strategy).__name__} is not supported: masks could not be held on its weights; "
            f"use strategy='auto' (one device) or 'ddp'{sharded}"
        )


def warn_where_global_epochs_count(trainer: Any, horizon: Horizon) -> None:
    """Say so when something that counts over all rounds is out of step with the round's own epochs."""
    by_epoch = {
        f"scheduler frequency={c.frequency}": c.frequency
        for c in trainer.lr_scheduler_configs
        if c.interval == "epoch" and c.frequency > 1
    }
    for name in ("check_val_every_n_epoch", "reload_dataloaders_every_n_epochs"):
        if (n := getattr(trainer, name) or 1) > 1:
            by_epoch[f"{name}={n}"] = n
    out_of_step = [what for what, n in by_epoch.items() if horizon.start_epoch % n]
    every = trainer.val_check_batch
    batches = trainer.fit_loop.epoch_loop.batch_progress.total.ready
    if trainer.check_val_every_n_epoch is None and isinstance(every, int) and batches % every:
        out_of_step.append(f"val_check_interval={every} with check_val_every_n_epoch=None")
    for what in out_of_step:
        rank_zero_warn(
            f"{what} counts over all rounds, and this round starts at epoch {horizon.start_epoch}: "
            "it will not train exactly as a fresh run would; a round length that is a multiple avoids this"
        )


def warn_of_selection(trainer: Any, source: str, *, same: bool) -> None:
    """Say so where the data that judges also chooses weights.

    Args:
        trainer: The trainer at the start of training.
        source: Where the guard data come from: `"argument"`, `"datamodule"` or `"validation"`.
        same: A validation loader reads the same data set.
    """
    monitors = {type(c).__name__ for c in of_type(trainer, "ModelCheckpoint") if c.monitor}
    monitors |= {"EarlyStopping" for c in of_type(trainer, "EarlyStopping") if c.monitor}
    monitors |= {"ReduceLROnPlateau" for c in trainer.lr_scheduler_configs if c.reduce_on_plateau}
    if source != "validation" and not (same and monitors):
        return
    why = (
        "is not given, so the validation data is the guard"
        if source == "validation"
        else "is validation data"
    )
    drives = f" and drives {', '.join(sorted(monitors))}" if monitors else ""
    rank_zero_warn(
        f"guard_dataloader {why}{drives}. Data that chooses the weights must not judge them: the verdict's error "
        "level no longer holds. Give the guard a split of its own."
    )
