"""What is said before training: parts, and rounds at most."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lightning_classprune import Adaptive, ClassAwarePruningCallback, Fixed, Gradual, Guard
from lightning_classprune.job.beginning import data_line, length_line
from lightning_classprune.job.data.base import SplitDataModule, Splits, tensor_splits
from lightning_classprune.job.data.splits import FRACTIONS, split_indices


class Toy(SplitDataModule):
    def load(self) -> Splits:
        y = (torch.arange(2000) % 5 == 0).long()
        return tensor_splits(torch.zeros(2000, 2), y, ["fine", "crack"], split_indices(y, FRACTIONS, 0))


def test_parts_are_told_with_their_protected_samples() -> None:
    data = Toy()
    data.setup()
    assert data_line(data, [1]) == (
        "data: train 1,000 (200 crack), val 200 (40 crack), guard 500 (100 crack), test 300 (60 crack)"
    )
    assert "val 200 (40 crack, 160 fine)" in data_line(data, [1, 0])


def told(
    search: Any, *, judging: Any = "round", epochs: int | None = 8, steps: int = -1, target: float = 0.9
) -> str:
    guard = Guard(judging=judging, max_fp_rise=0.1)
    pruning = ClassAwarePruningCallback(2, {1: 0.1}, search=search, guard=guard, target_sparsity=target)
    return length_line(pruning.settings, SimpleNamespace(max_epochs=epochs, max_steps=steps), 41)


@pytest.mark.parametrize(
    ("search", "expected"),
    [
        (Adaptive(), "then at most 5 rounds of 4: at most 28 epochs"),
        (Adaptive(max_rounds=1), "then at most 1 round of 4: at most 12 epochs"),
        (Adaptive(max_total_epochs=20), "then at most 5 rounds of 4: at most 20 epochs"),
        # One may be given up, be followed by one half-way, and be tried again.
        (Gradual(densities=(0.3, 0.1)), "then at most 4 rounds of 16: at most 72 epochs"),
        (Gradual(densities=(0.1,), round_epochs=8), "then at most 3 rounds of 8: at most 32 epochs"),
        (Fixed(fraction=0.5), "then at most 4 rounds of 8: at most 40 epochs"),  # .5 .75 .875 .9
        (Fixed(fraction=0.5, rewind="epoch:2"), "then at most 4 rounds of 6: at most 32 epochs"),
        (Fixed(fraction=0.5, rewind="lr", round_epochs=3), "then at most 4 rounds of 3: at most 20 epochs"),
        (Fixed(fraction=0.5, max_rounds=2), "then at most 2 rounds of 8: at most 24 epochs"),
    ],
)
def test_the_length_is_told_in_rounds_and_epochs(search: Any, expected: str) -> None:
    assert told(search) == f"length: 8 epochs of 41 batches for the dense network, {expected}"


def test_what_validation_gives_up_counts_as_well() -> None:
    assert "then at most 7 rounds of 8" in told(Fixed(fraction=0.5), judging="end")


def test_other_limits() -> None:
    assert told(Fixed(fraction=0.5), epochs=-1, steps=1000) == "length: 1,000 steps a round, at most 4 rounds"
    assert told(Fixed(fraction=0.5), steps=100) == "length: 100 steps a round, at most 4 rounds"
    assert told(Fixed(fraction=0.5), epochs=-1) == "length: no limit"
    trainer = SimpleNamespace(max_epochs=1, max_steps=-1)
    assert length_line(None, trainer, 1) == "length: 1 epoch of 1 batch"
