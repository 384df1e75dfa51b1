"""An interrupted run of `judging="end"` is closed as it stands, by its callback or by another one from a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from lightning_classprune import ClassAwarePruningCallback
from tests.support.kit import Tiny, pruner, train_loader, trainer, val_loader, verdicts


class Stop(Callback):
    """Asks the trainer to stop at the end of an epoch."""

    def on_train_epoch_end(self, trainer: object, pl_module: object) -> None:
        if trainer.current_epoch == 4:  # type: ignore[attr-defined]
            trainer.should_stop = True  # type: ignore[attr-defined]


def candidate() -> ClassAwarePruningCallback:
    return pruner(confidence=0.95, judging="end", max_fp_rise=1.0)


def interrupted(folder: Path) -> ClassAwarePruningCallback:
    pruning = candidate()
    stopped = trainer(pruning, ModelCheckpoint(dirpath=folder, save_last=True), Stop())
    stopped.fit(Tiny(), train_loader(), val_loader())
    assert verdicts(pruning) == ["baseline", "kept"]
    assert pruning.awaits_judgement
    return pruning


def test_another_callback_closes_a_run_from_its_checkpoint(tmp_path: Path) -> None:
    interrupted(tmp_path)
    pruning = candidate()
    new = trainer(pruning, ModelCheckpoint(dirpath=tmp_path, save_last=True))
    pruning.judge(new, Tiny(), train_loader(), val_loader(), ckpt_path=tmp_path / "last.ckpt")
    assert not pruning.awaits_judgement
    assert verdicts(pruning) == ["baseline", "accepted"]
    assert new.current_epoch == 5


def test_a_callback_without_a_run_has_nothing_to_close() -> None:
    pruning = candidate()
    with pytest.raises(MisconfigurationException, match="knows of no run"):
        pruning.judge(trainer(pruning), Tiny(), train_loader(), val_loader())
