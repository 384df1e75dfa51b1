"""Counts of the test split under a real Trainer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_classprune.job.final_test import ClassCounts


class Identity(LightningModule):
    def forward(self, x: Tensor) -> Tensor:
        return x

    def test_step(self, batch: Any, batch_idx: int) -> None:
        pass


SCORES = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 0.0], [3.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
TARGET = torch.tensor([0, 0, 1, 1, 1])


def test_every_class_by_hand() -> None:
    counts = ClassCounts(["a", "b", "c"])
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[counts])
    trainer.test(Identity(), DataLoader(TensorDataset(SCORES, TARGET), batch_size=2), verbose=False)
    assert counts.results == {
        "samples": 5,
        "accuracy": 3 / 5,
        "classes": {
            "a": {"support": 2, "fn": 1, "fp": 1, "recall": 0.5},
            "b": {"support": 3, "fn": 1, "fp": 1, "recall": pytest.approx(2 / 3)},
            "c": {"support": 0, "fn": 0, "fp": 0, "recall": None},
        },
    }


def test_before_any_test_nothing_is_known() -> None:
    assert ClassCounts(["a", "b"]).results == {"samples": 0, "accuracy": None, "classes": {}}
