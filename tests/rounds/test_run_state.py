"""A run's state: plain values, which a run takes back whole."""

from __future__ import annotations

import io
from typing import Any

import lightning.pytorch as pl
import torch

from lightning_classprune import ClassAwarePruningCallback
from lightning_classprune.rounds.run_state import put_back, state_of
from tests.support.compare import assert_same
from tests.support.kit import fit, pruner, tiny


class Leave(pl.Callback):
    """Saves the run's state while round 1 trains, through a file that may not unpickle, and puts it back later on."""

    def __init__(self, callback: ClassAwarePruningCallback) -> None:
        self.callback = callback
        self.taken: list[dict[str, Any]] = []

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
        self.taken.append(torch.load(file, weights_only=True))
        if len(self.taken) == 3:
            run.masks = {name: torch.ones_like(mask) for name, mask in run.masks.items()}
            put_back(run, self.taken[0], extended=False)
            # What is not counted anew is as it was; time goes on.
            assert_same(state_of(run) | {"seconds": 0}, self.taken[0] | {"seconds": 0})


def test_what_is_put_back_is_what_was_taken() -> None:
    cb = pruner(max_rounds=2)
    leave = Leave(cb)
    fit(tiny(), cb, leave)
    assert len(leave.taken) == 12
    assert leave.taken[0]["rounds"]["round"] == 1
