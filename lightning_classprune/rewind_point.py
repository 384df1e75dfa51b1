"""The rewind point: a moment of round 0 from which rounds start, and how a checkpoint or a file of its own holds it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lightning_classprune.rewinding import Tensors, TrainingState
from lightning_classprune.sharding import Sharding


@dataclass(frozen=True)
class RewindPoint:
    """Where rounds start from: tensors, training state, and the length (epochs, steps) that is left from there."""

    tensors: Tensors
    training: TrainingState | None
    length: tuple[int, int]


def save_point(point: RewindPoint, sharding: Sharding) -> dict[str, Any]:
    """A rewind point as plain dicts."""
    return {
        "tensors": sharding.saved(point.tensors),
        "training": sharding.saved_state(point.training),
        "length": list(point.length),
    }


def load_point(saved: Mapping[str, Any] | None, sharding: Sharding) -> RewindPoint | None:
    """The rewind point that `save_point` stored, in the checkpoint or in a file beside it.

    Raises:
        MisconfigurationException: The file is missing or is not the one that the checkpoint means.
    """
    if saved is None:
        return None
    if "file" in saved:
        saved = _read(saved["file"], saved["sha256"])
    epochs, steps = saved["length"]
    return RewindPoint(
        sharding.pieces(saved["tensors"]), sharding.loaded_state(saved["training"]), (epochs, steps)
    )


def write_point(saved: Mapping[str, Any], path: str, write: bool) -> dict[str, str]:
    """Put a saved rewind point into a file of its own, once; what checkpoints hold instead.

    Args:
        saved: What `save_point` returned.
        path: The file.
        write: Whether this process writes it (one of all).
    """
    if write:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        torch.save(dict(saved), f"{path}.part")
        os.replace(f"{path}.part", path)
    return {"file": os.path.abspath(path), "sha256": _sha256(path) if write else ""}


def _read(path: str, sha256: str) -> dict[str, Any]:
    if not os.path.exists(path):
        raise MisconfigurationException(
            f"rewind_file: the checkpoint's rewind point is in {path}, which does not exist; put it back there"
        )
    if _sha256(path) != sha256:
        raise MisconfigurationException(
            f"rewind_file: {path} is not the file that the checkpoint was written with (its SHA-256 differs); "
            "give every run a file of its own"
        )
    state: dict[str, Any] = torch.load(path, weights_only=True)
    return state


def _sha256(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
