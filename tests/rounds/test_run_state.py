"""A run's state: plain values, which a run takes back whole."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
import torch

from lightning_classprune import ClassAwarePruningCallback
from lightning_classprune.rounds.run_state import put_back, state_of
from tests.support.compare import assert_same
from tests.support.kit import fit, pruner, tiny, verdicts


class SavesAndTakesBack(pl.Callback):
    """Saves the run's state while round 1 trains, through a file that unpickles nothing, and puts it back."""

    def __init__(self, callback: ClassAwarePruningCallback) -> None:
        self.callback = callback
        self.times = 0

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        run = self.callback._run
        assert run is not None
        if run.state.round != 1:
            return
        file = io.BytesIO()
        torch.save(state_of(run), file)
        file.seek(0)
        taken = torch.load(file, weights_only=True)
        state, masks, accepted = run.state, run.masks, run.delivery.accepted
        run.state = replace(state, round=7)
        run.masks = {name: torch.ones_like(mask) for name, mask in masks.items()}
        run.delivery.accepted, run.recorder.rows[:] = None, []
        put_back(run, taken, extended=False)
        assert run.state == state
        assert_same(run.masks, masks)
        assert run.delivery.accepted is not None
        assert_same(run.delivery.accepted.tensors, accepted.tensors)
        assert_same(state_of(run) | {"seconds": 0}, taken | {"seconds": 0})  # time goes on
        self.times += 1


def test_what_is_put_back_is_what_was_taken() -> None:
    """Twelve times, at each step of a round."""
    cb = pruner(max_rounds=2)
    saves = SavesAndTakesBack(cb)
    fit(tiny(), cb, saves)
    assert saves.times == 12
    assert verdicts(cb) == ["baseline", "accepted", "accepted"]
