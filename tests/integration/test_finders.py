"""Callbacks that train before the first batch, and checkpoints from before it: a run that has not begun begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder

from tests.support.compare import assert_same, weights, without_seconds
from tests.support.kit import fit, pruner, tiny, train_loader, trainer, val_loader, verdicts
from tests.support.witness import Watch

OPTIONS: dict[str, Any] = {"max_rounds": 1, "rewind": "lr"}


class Finder(LearningRateFinder):
    """Tries five rates when it is told to, and takes one."""

    def __init__(self, epochs: tuple[int, ...]) -> None:
        super().__init__(num_training_steps=5, early_stop_threshold=None, update_attr=False)
        self.epochs = epochs

    def _find(self, trainer: Any, pl_module: Any) -> None:
        self.lr_find(trainer, pl_module)
        pl_module.rate = trainer.optimizers[0].param_groups[0]["lr"] = 0.03

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        if -1 in self.epochs:
            self._find(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch in self.epochs:
            self._find(trainer, pl_module)


@pytest.mark.parametrize("round_epochs", [None, 1])
def test_rounds_train_at_the_rate_that_was_found(round_epochs: int | None) -> None:
    callback, watch = pruner(**OPTIONS, round_epochs=round_epochs), Watch()
    fit(tiny(), callback, Finder((-1,)), watch, max_epochs=1)
    assert verdicts(callback) == ["baseline", "accepted"]
    assert watch.rates == [0.03] * 12


def test_a_finder_in_the_middle_leaves_the_run_as_it_was() -> None:
    callback, watch = pruner(**OPTIONS | {"rewind": "none"}), Watch()
    fit(tiny(), callback, Finder((1,)), watch, max_epochs=2)
    assert verdicts(callback) == ["baseline", "accepted"]
    assert watch.rates == [0.1] * 6 + [0.03] * 18
    assert [row["epochs"] for row in callback.ledger] == [2, 2]


def test_a_batch_size_is_found_before_the_run_begins() -> None:
    class Data(pl.LightningDataModule):
        batch_size = 2

        def train_dataloader(self) -> Any:
            return train_loader(batch_size=self.batch_size, n=32)

        def val_dataloader(self) -> Any:
            return val_loader()

    callback = pruner(**OPTIONS)
    finder = BatchSizeFinder(max_trials=2, steps_per_trial=1)
    trainer(callback, finder, max_epochs=1).fit(tiny(), datamodule=Data())
    assert verdicts(callback) == ["baseline", "accepted"]


def test_a_checkpoint_from_before_the_first_batch_begins_the_run(tmp_path: Path) -> None:
    class Early(pl.Callback):
        def on_sanity_check_end(self, trainer: Any, pl_module: Any) -> None:
            trainer.save_checkpoint(tmp_path / "early.ckpt")

    once, again = pruner(**OPTIONS), pruner(**OPTIONS)
    module = tiny()
    fit(module, once, Early(), max_epochs=1, num_sanity_val_steps=1)
    resumed = tiny(seed=5)
    fit(resumed, again, max_epochs=1, ckpt_path=tmp_path / "early.ckpt")
    assert_same(weights(resumed), weights(module))
    assert without_seconds(again.ledger) == without_seconds(once.ledger)
    with pytest.raises(MisconfigurationException, match="LearningRateFinder with ckpt_path"):
        fit(tiny(), pruner(), LearningRateFinder(), ckpt_path=_with_a_state(tmp_path), max_epochs=1)


def _with_a_state(folder: Path) -> Path:
    class Later(pl.Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            trainer.save_checkpoint(folder / "later.ckpt")

    fit(tiny(), pruner(), Later(), max_epochs=1, limit_train_batches=1)
    return folder / "later.ckpt"
