"""Versions: what differs between versions of Lightning and torch, and between Lightning's two packages, all of it here.

A class comes from the package of the trainer at hand: those of `lightning.pytorch` and of `pytorch_lightning` are not
each other's, and an older version lacks some.
"""

from __future__ import annotations

import importlib
import inspect
import re
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning_utilities.core.rank_zero import rank_zero_warn

try:
    from torch.distributed.tensor import DTensor, Shard
except ImportError:  # torch 2.4
    from torch.distributed._tensor import DTensor, Shard  # type: ignore[attr-defined]
try:
    from torch.distributed.fsdp import FSDPModule
except ImportError:  # torch 2.5 and older
    from torch.distributed._composable.fsdp import FSDPModule  # type: ignore[attr-defined]

__all__ = [
    "DTensor",
    "FSDPModule",
    "Shard",
    "callbacks_module",
    "check_onnx_exporter",
    "check_version",
    "has_stopped",
    "makes_iterator",
    "mark_stopped",
    "of_type",
    "package_of",
    "safe_loading",
    "uncompiled",
    "warn_of_checkpoint",
]

OLDEST, NEWEST = (2, 4), (2, 6)  # that the tests were run with, see benchmarks/results/versions.md

_NEVER = -1  # as the epoch of a stop: 0 is the first


def package_of(trainer: Any) -> str:
    """`"lightning.pytorch"` or `"pytorch_lightning"`, whichever the trainer comes from."""
    return type(trainer.fit_loop).__module__.split(".loops")[0]


def callbacks_module(trainer: Any) -> Any:
    """The module `callbacks` of the trainer's package."""
    return importlib.import_module(f"{package_of(trainer)}.callbacks")


def of_type(trainer: Any, name: str) -> list[Any]:
    """The trainer's callbacks of a class, by the class' name in its package; none where its version lacks the class."""
    kind = getattr(callbacks_module(trainer), name, None)
    return [one for one in trainer.callbacks if kind is not None and isinstance(one, kind)]


def makes_iterator(trainer: Any) -> bool:
    """Whether the epoch about to start will make its iterator itself: Lightning's own condition."""
    loop = trainer.fit_loop
    resuming = getattr(loop, "is_resuming", False)  # 2.5.3 and older know `restarting` alone
    return trainer.current_epoch > 0 and not resuming and not loop.epoch_loop.restarting


def has_stopped(stopping: Any) -> bool:
    """Whether an EarlyStopping callback has ended a training since it was marked as one that has not."""
    if (reason := _reason(stopping)) is not None:
        return reason is not type(reason).NOT_STOPPED
    return bool(stopping.stopped_epoch != _NEVER)


def mark_stopped(stopping: Any, stopped: bool) -> None:
    """Let an EarlyStopping callback say that it has ended a training, or that it has not."""
    if (reason := _reason(stopping)) is not None:
        kind = type(reason)
        stopping.stopping_reason = kind.PATIENCE_EXHAUSTED if stopped else kind.NOT_STOPPED
        if not stopped:
            stopping.stopping_reason_message = None
    elif has_stopped(stopping) != stopped:
        stopping.stopped_epoch = 0 if stopped else _NEVER


def _reason(stopping: Any) -> Any:
    return getattr(stopping, "stopping_reason", None)  # 2.5 and older know the epoch alone


def safe_loading(trainer: Any) -> dict[str, Any]:
    """Arguments with which `fit` and `test` read a checkpoint as tensors and primitives, and run no code of it.

    A Lightning whose `fit` does not know them (2.5 and older) is made to read so.
    """
    if "weights_only" in inspect.signature(trainer.fit).parameters:
        return {"weights_only": True}
    trainer.strategy.checkpoint_io.load_checkpoint = _load_safely
    return {}


def _load_safely(path: Any, map_location: Any = "cpu", **_: Any) -> Any:
    return torch.load(path, map_location=map_location, weights_only=True)


def uncompiled() -> AbstractContextManager[Any]:
    """Inside, networks that were compiled run as they are written, where torch can do so (2.6 and newer)."""
    set_stance = getattr(torch.compiler, "set_stance", None)
    return set_stance("force_eager") if set_stance is not None else nullcontext()


def check_version(trainer: Any) -> None:
    """Refuse a Lightning that is too old, and warn of one that nobody tried.

    Raises:
        MisconfigurationException: It is too old.
    """
    package, version, told = _version(trainer)
    oldest, newest = (".".join(map(str, one)) for one in (OLDEST, NEWEST))
    project = package.replace("_", "-")
    if told < OLDEST:
        raise MisconfigurationException(
            f"{package} {version} is too old: rounds in one `fit` need {oldest} or newer; "
            f"pip install '{project}>={oldest}'"
        )
    if told > NEWEST:
        rank_zero_warn(
            f"{package} {version} is newer than what ClassAwarePruningCallback was tried with ({oldest} to {newest}); "
            f"if something fails, pip install '{project}~={newest}.0'"
        )


def check_onnx_exporter() -> None:
    """Refuse a torch whose exporter cannot leave the batch size of an ONNX file free: 2.4.

    Raises:
        ValueError: It cannot.
    """
    if "dynamic_shapes" not in inspect.signature(torch.onnx.export).parameters:
        raise ValueError(
            f"torch {torch.__version__} cannot write ONNX files with a free batch size; pip install 'torch>=2.5', "
            "or use the ticket, which needs no ONNX"
        )


def warn_of_checkpoint(trainer: Any, checkpoint: dict[str, Any]) -> None:
    """Say so where Lightning will not go on with a checkpoint as it was: 2.4, inside an epoch."""
    package, version, told = _version(trainer)
    epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]
    if told < (2, 5) and epochs["ready"] != epochs["processed"]:
        rank_zero_warn(
            f"the checkpoint is from inside an epoch or from the end of a validation, and {package} {version} does not "
            "go on with such a one as it was (schedulers step again): take one from the end of an epoch, or update to "
            "2.5 or newer"
        )


def _version(trainer: Any) -> tuple[str, str, tuple[int, ...]]:
    package = package_of(trainer).split(".")[0]
    version = str(importlib.import_module(package).__version__)
    return package, version, tuple(map(int, re.findall(r"\d+", version)[:2]))
