"""Hashes beside checkpoints: written with them, removed with them, and a flipped bit is refused."""

from __future__ import annotations

import subprocess
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lightning_classprune.trainer.checkpoint_hashes import (
    HashedCheckpointIO,
    check_hash,
    hash_checkpoints,
    release_checkpoints,
    write_hash,
)
from tests.support.kit import fit, pruner, tiny

OURS = {"callbacks": {"ClassAwarePruningCallback": {}}, "x": torch.ones(3)}


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def test_a_hash_is_that_of_sha256sum(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    path.write_bytes(b"abc")
    assert not check_hash(path)
    write_hash(path)
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert (tmp_path / "a.ckpt.sha256").read_text() == f"{known}  a.ckpt\n"
    assert check_hash(path)
    flipped(path)
    with pytest.raises(ValueError, match=r"a\.ckpt was changed or damaged.*remove a\.ckpt\.sha256"):
        check_hash(path)


def test_a_file_is_written_read_and_removed_with_its_hash(tmp_path: Path) -> None:
    io, path = HashedCheckpointIO(TorchCheckpointIO()), tmp_path / "a.ckpt"
    for value in (1.0, 2.0):
        io.save_checkpoint(OURS | {"x": torch.tensor(value)}, path)
        assert check_hash(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert io.load_checkpoint(path)["x"] == 2
    flipped(path)
    with pytest.raises(MisconfigurationException, match="was changed or damaged"):
        io.load_checkpoint(path)
    (tmp_path / "a.ckpt.sha256").unlink()
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(MisconfigurationException, match=r"a\.ckpt cannot be read"):
        io.load_checkpoint(path)
    io.remove_checkpoint(path)
    assert not list(tmp_path.iterdir())


def test_a_kill_between_the_two_leaves_no_wrong_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    io, path = HashedCheckpointIO(TorchCheckpointIO()), tmp_path / "a.ckpt"
    io.save_checkpoint(OURS, path)
    with monkeypatch.context() as patch:
        patch.setattr(io, "before", Dying())
        with pytest.raises(KeyboardInterrupt):
            io.save_checkpoint(OURS | {"y": 1}, path)
    with pytest.warns(UserWarning, match=r"a\.ckpt has no \.sha256 file beside it"):
        assert set(io.load_checkpoint(path)) == {"callbacks", "x"}


class Dying:
    """Writes nothing."""

    def save_checkpoint(self, *_: Any) -> None:
        """As a process that is killed."""
        raise KeyboardInterrupt


def test_a_checkpoint_of_another_training_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "pretrained.ckpt"
    torch.save({"state_dict": {}}, path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        HashedCheckpointIO(TorchCheckpointIO()).load_checkpoint(path)


def test_a_link_has_the_hash_of_its_file(tmp_path: Path) -> None:
    path, link = tmp_path / "a.ckpt", tmp_path / "last.ckpt"
    path.write_bytes(b"abc")
    write_hash(path)
    link.symlink_to(path)
    assert check_hash(link)


def test_a_trainer_gets_its_own_way_back_and_another_way_is_let_alone() -> None:
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    before = trainer.strategy.checkpoint_io
    hash_checkpoints(trainer)
    assert isinstance(trainer.strategy.checkpoint_io, HashedCheckpointIO)
    release_checkpoints(trainer)
    assert trainer.strategy.checkpoint_io is before

    class Own(TorchCheckpointIO):
        pass

    trainer.strategy.checkpoint_io = own = Own()
    hash_checkpoints(trainer)
    assert trainer.strategy.checkpoint_io is own
    release_checkpoints(trainer)


@pytest.mark.fit
def test_a_run_refuses_a_checkpoint_with_a_flipped_bit(tmp_path: Path) -> None:
    saving = pl.callbacks.ModelCheckpoint(dirpath=tmp_path, save_last=True)
    callback = pruner(max_rounds=1)
    trainer = fit(tiny(), saving, callback)
    assert not isinstance(trainer.strategy.checkpoint_io, HashedCheckpointIO)
    last = tmp_path / "last.ckpt"
    made = sorted(path.name for path in tmp_path.glob("*.ckpt"))
    assert sorted(path.name for path in tmp_path.glob("*.sha256")) == [f"{name}.sha256" for name in made]
    subprocess.run(["sha256sum", "--check", "--quiet", "last.ckpt.sha256"], cwd=tmp_path, check=True)
    flipped(last)
    with pytest.raises(MisconfigurationException, match=r"last\.ckpt was changed or damaged"):
        fit(tiny(), pruner(max_rounds=1), ckpt_path=str(last))
