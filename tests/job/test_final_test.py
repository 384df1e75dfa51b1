"""Counts of the test split under a real Trainer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_classprune.job.final_test import Answers, FinalTest, counted


class Identity(LightningModule):
    def forward(self, x: Tensor) -> Tensor:
        return x

    def test_step(self, batch: Any, batch_idx: int) -> None:
        pass


SCORES = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 0.0], [3.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
TARGET = torch.tensor([0, 0, 1, 1, 1])


def looked(test: FinalTest, scores: Tensor) -> Answers:
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[test])
    trainer.test(Identity(), DataLoader(TensorDataset(scores, TARGET), batch_size=2), verbose=False)
    assert test.tested is not None
    return test.tested


def test_every_class_by_hand() -> None:
    found = looked(FinalTest(["a", "b", "c"], [1]), SCORES)
    assert found.decisions.predicted.tolist() == [0, 1, 0, 1, 1]
    assert counted(found.decisions) == {
        "samples": 5,
        "accuracy": 3 / 5,
        "classes": {
            "a": {"support": 2, "fn": 1, "fp": 1, "recall": 0.5},
            "b": {"support": 3, "fn": 1, "fp": 1, "recall": pytest.approx(2 / 3)},
            "c": {"support": 0, "fn": 0, "fp": 0, "recall": None},
        },
    }
    assert found.margins.keys() == {"b"}
    assert found.margins["b"].tolist() == [-1.0, 1.0, -2.0, 1.0, 1.0]


def test_an_offset_moves_decisions_and_margins_alike() -> None:
    test = FinalTest(["a", "b", "c"], [1])
    test.offsets = {"b": 1.5}
    found = looked(test, SCORES)
    assert found.decisions.predicted.tolist() == [1, 1, 0, 1, 1]
    assert found.margins["b"].tolist() == [0.5, 2.5, -0.5, 2.5, 2.5]


@pytest.mark.parametrize("shape", [(5,), (5, 1)])
def test_one_logit_is_decided_at_the_threshold(shape: tuple[int, ...]) -> None:
    scores = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0]).reshape(shape)
    found = looked(FinalTest(["a", "b"], [1], threshold=1.5), scores)
    assert found.decisions.predicted.tolist() == [0, 0, 1, 1, 1]
    assert found.margins["b"].tolist() == [-1.5, -0.5, 0.5, 1.5, 2.5]


def test_scores_of_nan_are_told_and_nothing_is_known() -> None:
    test = FinalTest(["a", "b", "c"], [1])
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[test])
    with pytest.warns(UserWarning, match="final test: .*NaN"):
        trainer.test(Identity(), DataLoader(TensorDataset(SCORES * float("nan"), TARGET)), verbose=False)
    assert test.tested is None


def test_before_any_test_nothing_is_known() -> None:
    assert FinalTest(["a", "b"], [1]).tested is None
