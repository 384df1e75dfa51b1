"""The clock of a round: how far it is in epochs, steps and seconds, and where the loop ends it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException

from lightning_classprune.rounds.rewind import Rewind
from lightning_classprune.trainer.horizon import Horizon, Limits, epochs_done, reaches, steps_per_epoch


class RoundClock:
    """Counts the round in training; the loop counts all rounds.

    Args:
        trainer: Its limits are still the user's, which are those of a round.

    Attributes:
        user: These limits.
        horizon: Where the present round started and how long it may be.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self.user = Limits.of(trainer)
        self.horizon = Horizon(0, 0, self.user.max_epochs, self.user.max_steps)
        self._seconds_before = 0.0
        self._started = time.monotonic()

    @property
    def start(self) -> tuple[int, int]:
        """Epoch and step of the loop at which the round started."""
        return self.horizon.start_epoch, self.horizon.start_step

    @property
    def epochs(self) -> int:
        """Epochs that the loop has processed, over all rounds."""
        return epochs_done(self._trainer)

    @property
    def round_epoch(self) -> int:
        """Epochs that the present round has processed."""
        return self.epochs - self.horizon.start_epoch

    @property
    def round_step(self) -> int:
        """Optimizer steps that the present round has taken."""
        steps: int = self._trainer.global_step - self.horizon.start_step
        return steps

    @property
    def share(self) -> float:
        """How much of an epoch that has begun is trained, in [0, 1]; 0 between epochs."""
        progress, batches = self._trainer.fit_loop.epoch_progress.current, self._trainer.num_training_batches
        done: int = self._trainer.fit_loop.epoch_loop.batch_progress.current.processed
        return done / batches if progress.ready > progress.processed and batches else 0.0

    @property
    def progress(self) -> float:
        """Share of the round that is done, 0..1; 0 where its length is not known."""
        return self.horizon.progress(self.epochs + self.share, self._trainer.global_step)

    @property
    def steps_a_round(self) -> int | None:
        """Optimizer steps of the present round, as far as that can be known."""
        per_epoch, epochs, steps = steps_per_epoch(self._trainer), self.horizon.epochs, self.horizon.steps
        by_epochs = per_epoch * epochs if per_epoch is not None and epochs != -1 else None
        known = [count for count in (by_epochs, steps if steps != -1 else None) if count is not None]
        return min(known, default=None)

    @property
    def seconds(self) -> float:
        """Since the round began, without the time between an interrupted job and the one that goes on."""
        return self._seconds_before + time.monotonic() - self._started

    def is_over(self) -> bool:
        """Whether the round has had its length."""
        return self.horizon.is_over(self.epochs, self._trainer.global_step)

    def begin_round_zero(self, foreign_epochs: int | None, *, ahead: bool) -> None:
        """Let the loop's own counts be those of round 0.

        Args:
            foreign_epochs: Epochs behind a checkpoint without our state from which the run starts, or None.
            ahead: They are no part of round 0, which judges the weights as they come.
        """
        start = self.epochs if foreign_epochs is None else foreign_epochs if ahead else 0
        self.horizon = replace(self.horizon, start_epoch=start)

    def count_steps_from_here(self) -> None:
        """The round starts at the loop's present step."""
        self.horizon = replace(self.horizon, start_step=self._trainer.global_step)

    def set_round(self, epochs: int, steps: int) -> None:
        """Let a round of that length start here, -1 for no limit; its seconds count from `restart_seconds`."""
        self.horizon = Horizon(self.epochs, self._trainer.global_step, epochs, steps)

    def restart_seconds(self) -> None:
        """The round begins to train."""
        self._seconds_before, self._started = 0.0, time.monotonic()

    def apply(self, **instead: int) -> None:
        """Let the loop end where the round does.

        Args:
            instead: Limits to write other values for.
        """
        replace(self.horizon.limits(self.user), **instead).apply(self._trainer)

    def release(self) -> None:
        """Give the loop the user's limits back."""
        self.user.apply(self._trainer)

    def state_dict(self) -> dict[str, Any]:
        """Primitives only."""
        return {"horizon": self.horizon.state_dict(), "seconds": self.seconds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.horizon = Horizon.from_state_dict(state["horizon"])
        self._seconds_before = state["seconds"]


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


def check_length_left(limits: Limits, horizon: Horizon, epochs: int, steps: int) -> None:
    """Refuse a checkpoint after which round 0 has nothing to train."""
    if horizon.is_over(epochs, steps):
        raise MisconfigurationException(
            f"the checkpoint has finished max_epochs={limits.max_epochs}, max_steps={limits.max_steps}, so round 0 has "
            "nothing left to train; judge its weights as the dense network with baseline='current' (and rewind='lr' or "
            "'none'), or raise the limit"
        )


def check_rewind_point(trainer: Any, rewind: Rewind, limits: Limits, foreign_epochs: int | None) -> None:
    """Refuse a rewind point that round 0 never passes.

    Args:
        trainer: The trainer at the start of training.
        rewind: The setting.
        limits: The limits of one round.
        foreign_epochs: Epochs behind a checkpoint without our state from which the run starts, or None.
    """
    kind, at = rewind.kind, rewind.at
    if foreign_epochs is not None:
        behind = {"epoch": foreign_epochs, "step": trainer.global_step}.get(kind, 0)
        if at < behind:
            raise MisconfigurationException(
                f"rewind='{kind}:{at}' lies before the checkpoint, which is at {kind} {behind}; use rewind='init' "
                "to rewind to the checkpoint"
            )
    if kind in ("epoch", "step") and not reaches(trainer, limits, kind, at):
        raise MisconfigurationException(
            f"rewind='{kind}:{at}' is not inside a round, which ends at max_epochs={limits.max_epochs}, "
            f"max_steps={limits.max_steps}; use a smaller number"
        )
