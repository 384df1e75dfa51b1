"""Hashes of checkpoints: the SHA-256 of each file that a run writes, beside it, so that no bit of it flips unseen.

`last.ckpt` has `last.ckpt.sha256` beside it, which `sha256sum -c` reads too. It is removed before a file is replaced
and written after that: a run that is killed between the two leaves a file without a hash, and never a wrong one.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning_utilities.core.rank_zero import rank_zero_warn

from lightning_classprune import files

SUFFIX = ".sha256"


def write_hash(path: str | os.PathLike[str]) -> None:
    """Write the hash of a file beside it."""
    real = _real(path)
    files.write_text(f"{real}{SUFFIX}", f"{files.sha256(real)}  {real.name}\n")


def check_hash(path: str | os.PathLike[str]) -> bool:
    """Compare a file with its hash; returns whether there is one.

    Raises:
        ValueError: The file is not the one that was written.
    """
    real = _real(path)
    beside = Path(f"{real}{SUFFIX}")
    if not real.is_file() or not beside.is_file():
        return False
    if beside.read_bytes()[:64] != files.sha256(real).encode():
        raise ValueError(
            f"{path} was changed or damaged: its SHA-256 is not the one in {beside.name} beside it; take another "
            f"checkpoint, or remove {beside.name} if you replaced the checkpoint yourself"
        )
    return True


class HashedCheckpointIO:
    """Lightning's own way of writing and reading checkpoints, with a hash beside every local file.

    Args:
        before: What the strategy had; either package's `TorchCheckpointIO`.
    """

    def __init__(self, before: Any) -> None:
        self.before = before

    def __getattr__(self, name: str) -> Any:
        if name == "before":  # not there yet while a copy is being made
            raise AttributeError(name)
        return getattr(self.before, name)

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write the file, then its hash."""
        _remove(path)
        self.before.save_checkpoint(checkpoint, path, storage_options)
        if os.path.isfile(path):
            write_hash(path)

    def load_checkpoint(self, path: Any, *arguments: Any, **named: Any) -> dict[str, Any]:
        """Check the hash, then read the file.

        Raises:
            MisconfigurationException: The file is not the one that was written.
        """
        try:
            known = check_hash(path)
        except ValueError as error:
            raise MisconfigurationException(str(error)) from error
        try:
            checkpoint: dict[str, Any] = self.before.load_checkpoint(path, *arguments, **named)
        except FileNotFoundError:
            raise
        except Exception as error:  # a damaged file makes its readers raise what they like
            raise MisconfigurationException(
                f"{path} cannot be read ({type(error).__name__}: {error}); if it was cut short, take another checkpoint"
            ) from error
        ours = any(
            str(key).startswith("ClassAwarePruningCallback") for key in checkpoint.get("callbacks", {})
        )
        if ours and not known and os.path.isfile(path):
            rank_zero_warn(
                f"{path} has no {SUFFIX} file beside it, so nothing says that it is as it was written"
            )
        return checkpoint

    def remove_checkpoint(self, path: Any) -> None:
        """Remove the file and its hash."""
        self.before.remove_checkpoint(path)
        _remove(path)


def hash_checkpoints(trainer: Any) -> None:
    """Let a trainer's checkpoints have hashes; one with its own way of writing them keeps it."""
    before = trainer.strategy.checkpoint_io
    if type(before).__name__ == "TorchCheckpointIO":
        trainer.strategy.checkpoint_io = HashedCheckpointIO(before)


def release_checkpoints(trainer: Any) -> None:
    """Undo `hash_checkpoints`."""
    now = trainer.strategy.checkpoint_io
    if isinstance(now, HashedCheckpointIO):
        trainer.strategy.checkpoint_io = now.before


def _real(path: str | os.PathLike[str]) -> Path:
    # `save_last="link"` makes a link of last.ckpt; a file has one hash.
    return Path(os.path.realpath(path))


def _remove(path: Any) -> None:
    if "://" not in str(path):
        Path(f"{path}{SUFFIX}").unlink(missing_ok=True)
