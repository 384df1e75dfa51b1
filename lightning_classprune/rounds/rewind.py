"""Rewinding: capture and restore everything that training mutates.

A snapshot is plain dicts of CPU tensors and primitives. It never aliases live state: what `state_dict()` of an
optimizer or a scheduler returns is live, so everything is copied when captured and again when restored.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lightning_classprune import files
from lightning_classprune.trainer.processes import Processes
from lightning_classprune.trainer.sharding import Sharding
from lightning_classprune.trainer.snapshots import Tensors, TrainingState


@dataclass(frozen=True)
class Rewind:
    """To which point a round goes back.

    Attributes:
        kind: `init` (start of round 0), `epoch` or `step` (that far into round 0), `lr` (keep the accepted weights,
            learning-rate rewinding, Renda et al. 2020), `none` (keep weights and optimizer: fine-tuning).
        at: The epoch or step, 0 for the other kinds.
    """

    kind: Literal["init", "epoch", "step", "lr", "none"]
    at: int = 0

    @classmethod
    def parse(cls, text: str, name: str = "rewind") -> Rewind:
        """Read `"init"`, `"epoch:K"`, `"step:K"`, `"lr"` or `"none"`.

        Args:
            text: What was given.
            name: Of the argument.

        Raises:
            ValueError: Anything else.
        """
        match = re.fullmatch(r"(init|lr|none)|(epoch|step):(\d+)", text) if isinstance(text, str) else None
        if match is None:
            raise ValueError(
                f"{name}={text!r} is unknown; allowed are 'init', 'epoch:K', 'step:K' (K a whole number), 'lr', 'none'"
            )
        if match[1]:
            return cls(match[1])  # type: ignore[arg-type]
        return cls(match[2], int(match[3]))  # type: ignore[arg-type]

    @property
    def keeps_weights(self) -> bool:
        """Whether a round starts from the accepted weights instead of an earlier point."""
        return self.kind in ("lr", "none")

    @property
    def trains_whole_schedules(self) -> bool:
        """Whether a round trains by a schedule from its start to its end, which may then be of another length."""
        return self.kind in ("init", "lr")


class HeldScheduler:
    """Stands for a scheduler while fine-tuning: the learning rate stays, whoever steps it.

    Everything but stepping goes to the real one, so that checkpoints and monitors see what they know.
    """

    def __init__(self, scheduler: Any) -> None:
        self.held = scheduler

    def step(self, *_: Any, **__: Any) -> None:
        """Do nothing."""

    def __getattr__(self, name: str) -> Any:
        if name == "held":  # not there yet while a copy is being made
            raise AttributeError(name)
        return getattr(self.held, name)


def hold_schedulers(trainer: Any) -> None:
    """Keep all learning rates as they are from now on."""
    for config in trainer.lr_scheduler_configs:
        if not isinstance(config.scheduler, HeldScheduler):
            config.scheduler = HeldScheduler(config.scheduler)


def release_schedulers(trainer: Any) -> None:
    """Undo `hold_schedulers`."""
    for config in trainer.lr_scheduler_configs:
        if isinstance(config.scheduler, HeldScheduler):
            config.scheduler = config.scheduler.held


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


def check_point_file(path: str | os.PathLike[str]) -> None:
    """Find out, before there is a rewind point, whether it can be written to a file of its own.

    Raises:
        ValueError: It cannot, or the file is somebody else's.
    """
    file = Path(path)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=file.parent):
            pass
    except OSError as error:
        raise ValueError(
            f"Files.rewind_file={os.fspath(path)!r} cannot be written ({error}); give a file that can"
        ) from error
    if os.path.lexists(file) and not _is_point(file):
        raise ValueError(
            f"Files.rewind_file={os.fspath(path)!r} is there and is no rewind point of an earlier run, so it would "
            "be overwritten; give a file that is not"
        )


def _is_point(file: Path) -> bool:
    try:
        held = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # a file of another kind makes its readers raise what they like
        return False
    return isinstance(held, dict) and held.keys() == {"tensors", "training", "length"}


def write_point(
    saved: Mapping[str, Any], path: str | os.PathLike[str], processes: Processes
) -> dict[str, str]:
    """Put a saved rewind point into a file of its own, once; what checkpoints hold instead. All processes call this.

    Args:
        saved: What `save_point` returned.
        path: The file, which the first process writes.
        processes: Of the job.

    Raises:
        OSError: It cannot be written; on all processes, for the others would wait for the first.
    """

    def write() -> None:
        with files.replacing(path) as part:
            torch.save(dict(saved), part)

    processes.on_first(write)
    return {"file": os.path.abspath(path), "sha256": files.sha256(path) if processes.rank == 0 else ""}


def _read(path: str, sha256: str) -> dict[str, Any]:
    if not os.path.exists(path):
        raise MisconfigurationException(
            f"rewind_file: the checkpoint's rewind point is in {path}, which does not exist; put it back there"
        )
    if files.sha256(path) != sha256:
        raise MisconfigurationException(
            f"rewind_file: {path} is not the file that the checkpoint was written with (its SHA-256 differs); "
            "give every run a file of its own"
        )
    state: dict[str, Any] = torch.load(path, weights_only=True)
    return state
