"""Horizon: all rounds live in one `fit`, by moving the limits of Lightning's loop.

The user's `max_epochs`/`max_steps` means one round; Lightning counts epochs and steps over all rounds. Loop progress,
`global_step` and the epoch number are never set back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import ceil, inf
from typing import Any


@dataclass(frozen=True)
class Limits:
    """The trainer's own limits; -1 for none, as in Lightning."""

    max_epochs: int
    max_steps: int
    min_epochs: int
    min_steps: int | None

    @classmethod
    def of(cls, trainer: Any) -> Limits:
        """Read the limits that the user set."""
        loop = trainer.fit_loop
        return cls(
            loop.max_epochs, loop.epoch_loop.max_steps, loop.min_epochs or 0, loop.epoch_loop.min_steps
        )

    def apply(self, trainer: Any) -> None:
        """Write these limits into the loop."""
        loop = trainer.fit_loop
        loop.max_epochs, loop.min_epochs = self.max_epochs, self.min_epochs
        loop.epoch_loop.max_steps, loop.epoch_loop.min_steps = self.max_steps, self.min_steps


@dataclass(frozen=True)
class Horizon:
    """One round: where it started and how long it may be.

    Attributes:
        start_epoch: Epochs processed by the loop when the round started.
        start_step: Optimizer steps taken by then.
        epochs: Length in epochs, -1 for no limit.
        steps: Length in optimizer steps, -1 for no limit.
    """

    start_epoch: int
    start_step: int
    epochs: int
    steps: int

    def is_over(self, epochs: int, steps: int) -> bool:
        """Whether the round has had its length, given the loop's counts."""
        enough_epochs = self.epochs != -1 and epochs - self.start_epoch >= self.epochs
        return enough_epochs or (self.steps != -1 and steps - self.start_step >= self.steps)

    def progress(self, epochs: float, steps: int) -> float:
        """Share of the round that is done, 0..1: of its epochs or its steps, whichever ends it first.

        Args:
            epochs: That the loop has processed, with the share of the one that has begun.
            steps: Optimizer steps that it has taken.
        """
        shares = [0.0]
        if self.epochs > 0:
            shares.append((epochs - self.start_epoch) / self.epochs)
        if self.steps > 0:
            shares.append((steps - self.start_step) / self.steps)
        return min(max(shares), 1.0)

    def limits(self, user: Limits) -> Limits:
        """The loop limits under which Lightning itself ends this round where the user's would have."""
        return Limits(
            max_epochs=self.start_epoch + self.epochs if self.epochs != -1 else -1,
            max_steps=self.start_step + self.steps if self.steps != -1 else -1,
            min_epochs=self.start_epoch + user.min_epochs if user.min_epochs else 0,
            min_steps=self.start_step + user.min_steps if user.min_steps else None,
        )

    def state_dict(self) -> dict[str, int]:
        """Primitives only."""
        return asdict(self)

    @classmethod
    def from_state_dict(cls, state: Mapping[str, int]) -> Horizon:
        """The horizon that `state_dict` stored."""
        return cls(**state)


def epochs_done(trainer: Any) -> int:
    """Epochs that the loop has processed, over all rounds."""
    return int(trainer.fit_loop.epoch_progress.current.processed)


def remaining_after(trainer: Any, user: Limits, epoch: int, step: int, whole_epochs: bool) -> tuple[int, int]:
    """Length (epochs, steps) of a round that rewinds to a point inside round 0, -1 for no limit.

    Args:
        trainer: The running trainer.
        user: The limits of a full round.
        epoch: Epochs of round 0 before the point.
        step: Optimizer steps of round 0 before the point.
        whole_epochs: The point is the end of an epoch, so that epochs count on; else only steps can.
    """
    steps = user.max_steps - step if user.max_steps != -1 else -1
    if whole_epochs:
        return (user.max_epochs - epoch if user.max_epochs != -1 else -1), steps
    per_epoch = steps_per_epoch(trainer)
    if user.max_epochs == -1 or per_epoch is None:
        return -1, steps
    by_epochs = user.max_epochs * per_epoch - step
    return -1, by_epochs if steps == -1 else min(steps, by_epochs)


def reaches(trainer: Any, user: Limits, kind: str, at: int) -> bool:
    """Whether a round gets beyond a point (an `epoch` or a `step`), as far as that can be known before it."""
    per_epoch = steps_per_epoch(trainer)
    limits = {"epoch": user.max_epochs, "step": user.max_steps}
    if limits[kind] != -1 and at >= limits[kind]:
        return False
    if per_epoch is None:
        return True
    if kind == "epoch":
        return user.max_steps == -1 or at * per_epoch < user.max_steps
    return user.max_epochs == -1 or at < user.max_epochs * per_epoch


def steps_per_epoch(trainer: Any) -> int | None:
    """Optimizer steps of an epoch, as far as that can be known."""
    if trainer.num_training_batches == inf:
        return None
    steps: int = ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
    return steps


def steps_left(trainer: Any, horizon: Horizon) -> int | None:
    """Optimizer steps of a round from here on, the one that is about to be taken included, as far as can be known."""
    known: list[int] = []
    batches = trainer.num_training_batches
    if horizon.epochs != -1 and batches != inf:
        whole = horizon.start_epoch + horizon.epochs - epochs_done(trainer)
        begun: int = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        known.append(1 + max(whole * batches - begun, 0) // trainer.accumulate_grad_batches)
    if horizon.steps != -1:
        known.append(horizon.start_step + horizon.steps - trainer.global_step)
    return min(known, default=None)
