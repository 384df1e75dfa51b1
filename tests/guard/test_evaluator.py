"""The evaluator in a real fit: whose fault NaN is, and that it keeps nothing that it decided."""

from __future__ import annotations

import dataclasses
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lightning_classprune.guard.classification import ClassesOrLabels
from lightning_classprune.guard.data import GuardData, shard_guard_data
from lightning_classprune.guard.evaluator import Evaluator
from lightning_classprune.trainer.forward import default_predict
from lightning_classprune.trainer.processes import Processes
from tests.support.inside import inside_fit
from tests.support.kit import dataset, guard_loader

pytestmark = pytest.mark.fit


def evaluator(predict: Any = default_predict) -> Evaluator:
    return Evaluator(ClassesOrLabels(("0", "1"), [1], 0.0), predict, Processes())


def guard_data() -> GuardData:
    return shard_guard_data([guard_loader()], "argument", 0, 1)


def nan(module: Any, batch: Any) -> Any:
    return module(batch[0]) * float("nan"), batch[1]


def test_outcomes_of_a_network_in_training() -> None:
    def action(trainer: pl.Trainer, module: pl.LightningModule) -> Any:
        made = evaluator()
        before = dict(vars(made))
        outcomes = (
            made.outcomes(trainer, module, guard_data(), {}),
            made.outcomes(trainer, module, guard_data(), {}, 1),
        )
        assert vars(made) == before, "it keeps nothing"
        return outcomes

    whole, first = inside_fit(action)
    assert torch.equal(whole.target, dataset(120, 3).tensors[1])
    assert (len(whole), len(first)) == (120, 50)


def test_scores_that_are_nan_before_training_are_a_fault_of_the_users() -> None:
    with pytest.raises(MisconfigurationException, match="predict returned NaN scores"):
        inside_fit(lambda trainer, module: evaluator(nan).outcomes(trainer, module, guard_data(), {}))


def test_scores_that_are_nan_after_training_are_no_outcomes() -> None:
    def action(trainer: pl.Trainer, module: pl.LightningModule) -> Any:
        assert trainer.global_step > 0
        return evaluator(nan).outcomes(trainer, module, guard_data(), {})

    assert inside_fit(action, hook="on_train_end") is None


@pytest.mark.parametrize("hook", ["on_train_start", "on_train_end"])
def test_what_predict_does_wrong_is_a_fault_of_the_users_at_any_time(hook: str) -> None:
    def predict(module: Any, batch: Any) -> Any:
        return module(batch[0]), batch[1] + 5

    with pytest.raises(MisconfigurationException, match="predict returned targets from 5 to 6"):
        inside_fit(
            lambda trainer, module: evaluator(predict).outcomes(trainer, module, guard_data(), {}), hook=hook
        )


def test_it_has_a_place_for_nothing_but_how_cases_are_decided() -> None:
    assert [field.name for field in dataclasses.fields(Evaluator)] == [
        "task",
        "predict",
        "processes",
        "conditions",
    ]
    with pytest.raises(dataclasses.FrozenInstanceError):
        evaluator().predict = nan  # type: ignore[misc]
