"""Round length: rounds shorter than round 0, with schedules made for their own length, and a limit to all of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException

from lightning_classprune.horizon import Limits, steps_per_epoch
from lightning_classprune.rewinding import TrainingState, copy_state, restore_trainable


def rebuild_training(trainer: Any, fresh: TrainingState, user: Limits, epochs: int) -> None:
    """Make optimizers and schedulers anew, as a fresh Trainer(max_epochs=epochs) would.

    The module's `configure_optimizers` sees the round's length in `max_epochs` and `estimated_stepping_batches`; the
    limits of the loop are left as they were found. A schedule in fixed epochs or steps is not stretched by this.

    Args:
        trainer: The running trainer.
        fresh: Training state at the start of round 0: what is frozen, and the precision plugin's.
        user: The user's limits; `max_steps` stays.
        epochs: Length of the round.
    """
    restore_trainable(trainer.lightning_module, fresh["trainable"])
    present = Limits.of(trainer)
    replace(user, max_epochs=epochs).apply(trainer)
    try:
        trainer.strategy.setup_optimizers(trainer)
    finally:
        present.apply(trainer)
    if fresh["precision"]:
        trainer.precision_plugin.load_state_dict(copy_state(fresh["precision"]))


def check_total_epochs(user: Limits, max_total_epochs: int | None) -> None:
    """Refuse a limit to all rounds that round 0 alone exceeds.

    Raises:
        MisconfigurationException: Names both.
    """
    if max_total_epochs is not None and max_total_epochs < user.max_epochs:
        raise MisconfigurationException(
            f"max_total_epochs={max_total_epochs} is less than round 0 alone, which has max_epochs={user.max_epochs}; "
            "raise the one or lower the other"
        )


def does_not_fit(
    trainer: Any, done: int, length: tuple[int, int], max_total_epochs: int | None
) -> str | None:
    """Why a round is not started, if the limit to all rounds leaves too little for it.

    Args:
        trainer: The running trainer.
        done: Epochs of all rounds so far.
        length: Of the round, in epochs and in steps, -1 for no limit. A round of unknown length takes one or more.
        max_total_epochs: The limit, if there is one.
    """
    if max_total_epochs is None:
        return None
    epochs, steps = length
    per_epoch = steps_per_epoch(trainer)
    if steps != -1 and per_epoch:
        by_steps = -(-steps // per_epoch)
        epochs = by_steps if epochs == -1 else min(epochs, by_steps)
    left = max_total_epochs - done
    if left >= max(epochs, 1):
        return None
    needed = f"needs {epochs}" if epochs != -1 else "needs at least 1"
    return f"max_total_epochs={max_total_epochs}: the next round {needed}, {max(left, 0)} are left"
