"""Startup: what is read before a run is prepared, and what is left behind where none comes about."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lightning_classprune.rounds.resuming import STATE_VERSION, run_settings
from lightning_classprune.rounds.startup import Startup
from lightning_classprune.trainer.horizon import Limits
from tests.support.kit import fit, plain_pruner, pruner, tiny, trainer
from tests.support.witness import log_messages

SETTINGS = plain_pruner().settings


def test_closing_before_anything_began_leaves_the_trainer_as_it_was() -> None:
    scheduler = pl.callbacks.GradientAccumulationScheduler({0: 1, 2: 4})
    made = trainer(scheduler, max_epochs=5)
    limits, of_class = Limits.of(made), scheduler.get_accumulate_grad_batches
    startup = Startup(SETTINGS, made, {})
    assert scheduler.get_accumulate_grad_batches != of_class  # it is told a round's epoch
    startup.close()
    assert scheduler.get_accumulate_grad_batches == of_class
    assert Limits.of(made) == limits


def test_only_the_same_run_is_continued() -> None:
    made = trainer(max_epochs=5)
    mine = run_settings(SETTINGS, Limits.of(made))
    assert (mine["max_epochs"], mine["max_steps"]) == (5, -1)
    Startup(SETTINGS, made, {}).continue_from({"version": STATE_VERSION, "settings": mine})
    for changed in ({"max_epochs": 6}, {"Guard.confidence": 0.9}):
        with pytest.raises(MisconfigurationException, match=next(iter(changed))):
            Startup(SETTINGS, made, {}).continue_from({"version": STATE_VERSION, "settings": mine | changed})


def test_a_checkpoint_of_another_training_is_said_to_be_one() -> None:
    with log_messages() as said:
        Startup(SETTINGS, trainer(), {}).note_checkpoint(3, None)
        Startup(SETTINGS, trainer(), {}).note_checkpoint(3, {"version": STATE_VERSION})
    assert [message for message in said if "pruning state" in message] == [
        "the checkpoint has no pruning state: its weights are where round 0 starts"
    ]


@pytest.mark.fit
def test_a_run_is_prepared_with_the_budget_of_all_its_rounds() -> None:
    class Look(pl.Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            run = callback._run
            self.limits = Limits.of(trainer)
            self.budget, self.total = run.judge.budget, run.plan.total

    look, callback = Look(), pruner(confidence=0.9, protect={1: 0.5})
    fit(tiny(), callback, look, max_epochs=1)
    # 40% a round: 72, 43 and 30 of 120 weights, so three tests at most
    assert (look.total, look.budget.alpha, look.budget.retries, look.budget.max_tests) == (120, 0.1, 0, 3)
    assert look.limits.max_epochs == 1
