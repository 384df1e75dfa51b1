"""Metrics: numbers put where Lightning's callbacks, and whoever asks after a fit, look for what was logged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def publish(trainer: Any, metrics: Mapping[str, float | Tensor]) -> None:
    """Add numbers to `trainer.callback_metrics`; all processes call this with the same ones."""
    device = trainer.strategy.root_device
    # `log` is for hooks of one kind only, and its results are gone with their epoch.
    trainer._logger_connector._callback_metrics.update(
        {name: torch.as_tensor(value, device=device) for name, value in metrics.items()}
    )
