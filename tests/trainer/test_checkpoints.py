"""ModelCheckpoint beside rounds: what it tracks, and which file an accepted round is saved as."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from lightning_classprune.trainer.checkpoints import Checkpoints
from tests.support.kit import fit, tiny


class Rounds(pl.callbacks.Checkpoint):
    """Every epoch is a round, with the verdict that was written down for it; last among the checkpoint callbacks."""

    def __init__(self, saving: list[Any], stands: list[bool]) -> None:
        self.checkpoints, self.stands = Checkpoints(saving), stands
        self.best: list[str] = []

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        epoch = trainer.current_epoch
        self.checkpoints.sealed = False
        self.checkpoints.seal(trainer, epoch, stands=self.stands[epoch])
        self.best = [Path(callback.best_model_path).name for callback in self.checkpoints._callbacks]
        self.checkpoints.reset()


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


@pytest.mark.fit
def test_an_accepted_round_is_the_best_and_a_refused_one_leaves_no_file(tmp_path: Path) -> None:
    saving = pl.callbacks.ModelCheckpoint(dirpath=tmp_path, monitor="val_loss", filename="{epoch}")
    rounds = Rounds([saving], [True, True, False])
    fit(tiny(), saving, rounds, max_epochs=3)
    assert rounds.best == ["accepted-round=01.ckpt"]
    assert names(tmp_path) == {"accepted-round=01.ckpt"}
    assert rounds.checkpoints.state_dict()[0]["best_model_path"] == str(tmp_path / "accepted-round=01.ckpt")


@pytest.mark.fit
def test_two_in_one_folder_have_files_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "accepted-round=00.ckpt").write_text("another job's")
    saving = [
        pl.callbacks.ModelCheckpoint(dirpath=tmp_path, monitor=monitor, filename=f"{monitor}-{{epoch}}", save_last=True)
        for monitor in ("val_loss", "train_loss")
    ]  # fmt: skip
    rounds = Rounds(saving, [True])
    fit(tiny(), *saving, rounds, max_epochs=1)
    assert rounds.best == ["accepted-round=00-v1.ckpt", "accepted-round=00-v2.ckpt"]
    assert (tmp_path / "accepted-round=00.ckpt").read_text() == "another job's"
    for callback in saving:
        assert torch.load(callback.last_model_path, weights_only=True)["epoch"] == 0


def test_what_another_set_of_callbacks_knew_is_left_alone() -> None:
    checkpoints = Checkpoints([pl.callbacks.ModelCheckpoint()])
    checkpoints.load_state_dict([{"best_model_path": "a"}, {"best_model_path": "b"}])
    assert checkpoints.state_dict() == []
    checkpoints.load_state_dict([{"best_model_path": "a"}])
    assert checkpoints.state_dict() == [{"best_model_path": "a"}]


def test_what_a_checkpoint_names_outside_of_the_folder_is_not_removed(tmp_path: Path) -> None:
    """As a stranger's may, that was written to be resumed from."""
    (tmp_path / "files").mkdir()
    (tmp_path / "mine.ckpt").write_text("mine")
    saving = pl.callbacks.ModelCheckpoint(dirpath=tmp_path / "files")
    trainer = pl.Trainer(callbacks=[saving], accelerator="cpu", logger=False)
    for name in ("../mine.ckpt", "own.ckpt"):
        (tmp_path / "files" / "own.ckpt").write_text("own")
        Checkpoints._remove(trainer, saving, {f"{tmp_path}/files/{name}"})
    assert (tmp_path / "mine.ckpt").exists()
    assert not (tmp_path / "files" / "own.ckpt").exists()
