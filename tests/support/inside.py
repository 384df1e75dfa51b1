"""The inside of a fit: for tests of what needs a running trainer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl

from tests.support.kit import fit, tiny


def inside_fit(
    action: Callable[[pl.Trainer, pl.LightningModule], Any],
    module: pl.LightningModule | None = None,
    *callbacks: Any,
    hook: str = "on_train_start",
    **options: Any,
) -> Any:
    """What an action returned at the first call of a hook of a real fit, by default when training starts.

    Args:
        action: `(trainer, module) -> anything`.
        module: A `Tiny` by default.
        *callbacks: After whose hooks the action comes.
        hook: Of a callback.
        **options: See `fit`; one epoch by default.
    """
    results: list[Any] = []

    def act(_: Any, trainer: pl.Trainer, pl_module: pl.LightningModule, *more: Any) -> None:
        if not results:
            results.append(action(trainer, pl_module))

    acting = type("Acting", (pl.Callback,), {hook: act})()
    fit(tiny() if module is None else module, *callbacks, acting, **({"max_epochs": 1} | options))
    return results[0]
