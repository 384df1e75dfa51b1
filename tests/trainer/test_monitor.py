"""The user's own monitor: one, or a refusal that says which there are."""

from __future__ import annotations

from math import inf, nan

import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from lightning_classprune.trainer.metrics import publish
from lightning_classprune.trainer.monitor import Monitor, find_monitor
from tests.support.kit import trainer


def test_better_is_strictly_better_in_its_direction() -> None:
    low, high = Monitor("loss", "min"), Monitor("f1", "max")
    assert low.is_better(1.0, None)
    assert low.is_better(1.0, 1.5)
    assert not low.is_better(1.5, 1.5)
    assert high.is_better(1.5, 1.0)
    assert not high.is_better(1.0, 1.0)
    assert high.is_better(-inf, None)
    assert not any(one.is_better(nan, than) for one in (low, high) for than in (None, 1.0))


def test_a_score_is_what_was_logged() -> None:
    made = trainer()
    assert Monitor("f1", "max").score(made) is None
    publish(made, {"f1": 0.5})
    assert Monitor("f1", "max").score(made) == 0.5


def test_checkpoints_go_before_early_stopping_and_agree() -> None:
    def found(*callbacks: object) -> Monitor:
        return find_monitor(trainer(*callbacks), "best=True")

    f1 = ModelCheckpoint(monitor="f1", mode="max")
    assert found(f1, ModelCheckpoint(filename="other"), EarlyStopping("val_loss")) == Monitor("f1", "max")
    assert found(EarlyStopping("val_loss")) == Monitor("val_loss", "min")
    assert found(ModelCheckpoint(filename="a"), EarlyStopping("val_loss")) == Monitor("val_loss", "min")
    assert found(f1, ModelCheckpoint(monitor="f1", mode="max", every_n_epochs=2)) == Monitor("f1", "max")
    with pytest.raises(
        MisconfigurationException, match=r"best=True .* no callback has one; add ModelCheckpoint"
    ):
        found(ModelCheckpoint())
    with pytest.raises(MisconfigurationException, match=r"several: acc \(max\), f1 \(max\); let all"):
        found(f1, ModelCheckpoint(monitor="acc", mode="max"))
