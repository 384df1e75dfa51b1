"""Listening: which of the training's gradients a criterion hears, so that the others cost nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lightning_classprune.pruning.cutter import Cutter
from lightning_classprune.rounds.clock import RoundClock
from lightning_classprune.rounds.gradual import GradualMask
from lightning_classprune.trainer.horizon import steps_left
from lightning_classprune.trainer.other_callbacks import EarlyStoppings


@dataclass(frozen=True, kw_only=True)
class Listening:
    """Passes on the gradients that may count at a cut: those near the end of a round, where that is known.

    Attributes:
        trainer: The running trainer.
        module: In training.
        cutter: Its criterion hears them.
        gradual: Cuts inside the round, if anything does.
        clock: The round's.
        early_stopping: It may end the round at any epoch.
    """

    trainer: Any
    module: Any
    cutter: Cutter
    gradual: GradualMask
    clock: RoundClock
    early_stopping: EarlyStoppings

    def hear(self, optimizer: Any) -> None:
        """An optimizer is about to step with gradients that are reduced, accumulated and unscaled, but not clipped."""
        criterion = self.cutter.criterion
        if criterion.listens and self._counts_at_a_cut(criterion.memory):
            self.cutter.observe(self.trainer, optimizer)

    def _counts_at_a_cut(self, memory: int | None) -> bool:
        if self.gradual.is_on:
            return self.gradual.pruned is not None
        known = self.module.automatic_optimization and not self.early_stopping
        left = steps_left(self.trainer, self.clock.horizon) if known else None
        return left is None or memory is None or left <= memory
