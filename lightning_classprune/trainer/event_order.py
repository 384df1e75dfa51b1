"""Order of events: two private callbacks that give the pruning callback its places in Lightning's order of events.

At the end of an epoch Lightning runs ordinary callbacks, then EarlyStopping and Checkpoint ones in list order. The
verdict must come after the user's EarlyStopping and before any ModelCheckpoint, and what ModelCheckpoint tracked can be
put right only after it. So one gate is an EarlyStopping before the first Checkpoint, the other a Checkpoint at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning_classprune.trainer.versions import callbacks_module

Event = Callable[[Any, Any], None]


def insert_gates(
    trainer: Any, owner: Any, *, judge: Event, seal: Event, deliver: Event, interrupted: Event
) -> list[Any]:
    """Put the owner first and the gates in place; returns the callbacks as they were, for `trainer.callbacks`.

    Args:
        trainer: The trainer in `setup`.
        owner: The pruning callback.
        judge: End of an epoch, after EarlyStopping and before ModelCheckpoint.
        seal: End of an epoch, after ModelCheckpoint.
        deliver: End of training, after weight averaging and before ModelCheckpoint.
        interrupted: An exception, after everyone else has saved what they wanted.
    """
    module = callbacks_module(trainer)

    class Gate(module.EarlyStopping):  # type: ignore[misc, name-defined]
        state_key = "ClassAwarePruningCallback.gate"

        def __init__(self) -> None:
            super().__init__(monitor="")

        def setup(self, *_: Any, **__: Any) -> None:
            pass

        def on_validation_end(self, *_: Any) -> None:
            pass

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            judge(trainer, pl_module)

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            deliver(trainer, pl_module)

        def state_dict(self) -> dict[str, Any]:
            return {}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            pass

    class Seal(module.Checkpoint):  # type: ignore[misc, name-defined]
        state_key = "ClassAwarePruningCallback.seal"

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            seal(trainer, pl_module)

        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            interrupted(trainer, pl_module)

    before: list[Any] = trainer.callbacks
    others = [c for c in before if c is not owner]
    first = next((i for i, c in enumerate(others) if isinstance(c, module.Checkpoint)), len(others))
    # A new list: Lightning is iterating over the old one while it calls `setup`.
    trainer.callbacks = [owner, *others[:first], Gate(), *others[first:], Seal()]
    return before
