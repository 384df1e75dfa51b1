"""Listening: a criterion hears the gradients near a cut, and no others."""

from __future__ import annotations

from typing import Any

import pytest
from lightning.pytorch.callbacks import EarlyStopping
from torch import Tensor

from lightning_classprune import Gradual
from lightning_classprune.rounds.listening import Listening
from tests.support.kit import fit, pruner, tiny


class Counts:
    """Weights by magnitude; counts what it hears in each attempt."""

    def __init__(self, memory: int | None) -> None:
        self.memory = memory
        self.heard: list[int] = []

    def __deepcopy__(self, memo: Any) -> Counts:
        return self

    def observe(self, gradients: Any) -> None:
        self.heard.append(len(gradients))

    def prepare(self, scoring: Any) -> None:
        pass

    def score(self, name: str, weight: Tensor, rewind_point: Tensor) -> Tensor:
        return weight.abs()

    def state_dict(self) -> dict[str, Any]:
        return {"memory": self.memory}

    def load_state_dict(self, state: Any) -> None:
        pass


@pytest.mark.parametrize(
    ("memory", "stops", "search", "heard"),
    [
        (4, False, "fixed", 8),  # the last four of twelve steps, of rounds 0 and 1
        (None, False, "fixed", 24),
        (4, True, "fixed", 24),  # any epoch may be the last
        (
            4,
            False,
            Gradual(share=0.5, densities=(0.6,), round_epochs=2),
            6,
        ),  # while the mask shrinks, half a round
    ],
)
def test_how_many_steps_are_heard(memory: int | None, stops: bool, search: Any, heard: int) -> None:
    criterion = Counts(memory)
    limits: dict[str, Any] = {"max_rounds": 1} if search == "fixed" else {"target_sparsity": 0.4}
    cb = pruner(search=search, criterion=criterion, **limits)
    callbacks = [EarlyStopping("train_loss", patience=99)] if stops else []
    fit(tiny(), cb, *callbacks)
    assert cb._run is None or isinstance(cb._run.listening, Listening)
    assert criterion.heard == [2] * heard
