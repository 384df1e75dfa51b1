"""Versions: what differs between Lightning's packages and versions, all of it here.

A class comes from the package of the trainer at hand: those of `lightning.pytorch` and of `pytorch_lightning` are not
each other's, and an older version lacks some.
"""

from __future__ import annotations

import importlib
import re
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning_utilities.core.rank_zero import rank_zero_warn

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
    return stopping.stopped_epoch != _NEVER


def mark_stopped(stopping: Any, stopped: bool) -> None:
    """Let an EarlyStopping callback say that it has ended a training, or that it has not."""
    if (reason := _reason(stopping)) is not None:
        kind = type(reason)
        stopping.stopping_reason = kind.PATIENCE_EXHAUSTED if stopped else kind.NOT_STOPPED
        stopping.stopping_reason_message = None
    elif has_stopped(stopping) != stopped:
        stopping.stopped_epoch = 0 if stopped else _NEVER


def _reason(stopping: Any) -> Any:
    return getattr(stopping, "stopping_reason", None)  # 2.5 and older know the epoch alone


def check_version(trainer: Any) -> None:
    """Refuse a Lightning that is too old, and warn of one that nobody tried.

    Raises:
        MisconfigurationException: It is too old.
    """
    package = package_of(trainer).split(".")[0]
    version = str(importlib.import_module(package).__version__)
    oldest, newest = (".".join(map(str, one)) for one in (OLDEST, NEWEST))
    told = tuple(map(int, re.findall(r"\d+", version)[:2]))
    if told < OLDEST:
        raise MisconfigurationException(
            f"{package} {version} is too old: rounds in one `fit` need {oldest} or newer; "
            f"pip install '{package.replace('_', '-')}>={oldest}'"
        )
    if told > NEWEST:
        rank_zero_warn(
            f"{package} {version} is newer than what ClassAwarePruningCallback was tried with ({oldest} to {newest}); "
            f"if something fails, pip install '{package.replace('_', '-')}~={newest}.0'"
        )
