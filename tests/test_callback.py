"""The callback itself: what it tells before, during and after a fit, and what a copy carries."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import lightning.pytorch as pl
import pytest
import pytorch_lightning

from lightning_classprune.callback import ClassAwarePruningCallback
from tests.support.compare import assert_same
from tests.support.kit import fit, pruner, tiny


def test_it_is_a_callback_of_both_packages() -> None:
    made = ClassAwarePruningCallback(2, {1: 0.1})
    assert isinstance(made, pl.Callback)
    assert isinstance(made, pytorch_lightning.Callback)


def test_before_a_fit_there_is_nothing_to_tell() -> None:
    made = ClassAwarePruningCallback(2, {1: 0.1})
    assert (made.masks, made.sparsity, made.ledger) == ({}, 0.0, [])
    assert (made.status(), made.round_epoch, made.guard_outcomes, made.state_dict()) == (None, 0, {}, {})
    made.load_state_dict({"version": 0})  # outside of a fit nothing is continued


@pytest.mark.fit
def test_during_and_after_a_fit() -> None:
    class Look(pl.Callback):
        def __init__(self) -> None:
            self.seen: list[tuple[int, int]] = []

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            status = made.status()
            assert status is not None
            self.seen.append((status.round, made.round_epoch))

    look, made = Look(), pruner(max_rounds=1)
    fit(tiny(), made, look)
    assert look.seen == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert made.status() is None
    assert made.sparsity == 48 / 120
    assert [row["verdict"] for row in made.ledger] == ["baseline", "accepted"]
    dense, delivered = (made.guard_outcomes[name] for name in ("dense", "delivered"))
    assert dense.same_cases(delivered)
    misses, _ = delivered.pairs(dense, "1")
    assert misses.support == made.ledger[0]["classes"]["1"]["support"]
    assert made.state_dict()["rounds"]["finished"] is not None


@pytest.mark.fit
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))])
def test_a_copy_has_the_results_and_no_trainer(copied: Any) -> None:
    made = pruner(max_rounds=1)
    fit(tiny(), made, max_epochs=1)
    again = copied(made)
    assert_same(again.masks, made.masks)
    assert again.ledger == made.ledger
    assert "log" not in vars(again)
    assert again._run is None
