"""Compatibility: which trainers a run can work in; everything else is refused before the first batch."""

from __future__ import annotations

import importlib
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning_utilities.core.rank_zero import rank_zero_warn

from lightning_classprune.companions import of_type, package_of
from lightning_classprune.horizon import Horizon


def check_trainer(trainer: Any, owner: Any) -> None:
    """Refuse what cannot work.

    Raises:
        MisconfigurationException: Another such callback, a callback that swaps schedulers or limits, a strategy that
            is not supported, or rounds that nothing ends.
    """
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


def _check_strategy(trainer: Any) -> None:
    strategies = importlib.import_module(f"{package_of(trainer)}.strategies")
    strategy = trainer.strategy
    supported = isinstance(strategy, (strategies.SingleDeviceStrategy, strategies.DDPStrategy))
    if not supported or isinstance(strategy, strategies.DeepSpeedStrategy):
        raise MisconfigurationException(
            f"strategy {type(strategy).__name__} is not supported: masks could not be held on its weights; "
            "use strategy='auto' (one device) or 'ddp'"
        )


def warn_where_global_epochs_count(trainer: Any, horizon: Horizon) -> None:
    """Say so when something that counts epochs over all rounds is out of step with the round's own epochs."""
    every = {
        f"scheduler frequency={c.frequency}": c.frequency
        for c in trainer.lr_scheduler_configs
        if c.interval == "epoch" and c.frequency > 1
    }
    if (trainer.check_val_every_n_epoch or 1) > 1:
        every[f"check_val_every_n_epoch={trainer.check_val_every_n_epoch}"] = trainer.check_val_every_n_epoch
    for what, n in every.items():
        if horizon.start_epoch % n:
            rank_zero_warn(
                f"{what} counts the epochs of all rounds, and this round starts at epoch {horizon.start_epoch}: "
                "it will not train exactly as a fresh run would; a round length that is a multiple avoids this"
            )
