"""Gradients: what an optimizer is about to use, by name, whatever precision and sharding did to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_classprune.trainer.sharding import local


def loss_scale(trainer: Any) -> float:
    """The factor by which mixed precision multiplies losses before their backward pass; 1 without one."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return 1.0 if scaler is None else float(scaler.get_scale())


def are_finite(gradients: list[Tensor]) -> bool:
    """Whether no gradient has an infinite or NaN element; waits for the device."""
    if not gradients:
        return True
    # Never in half precision, in which norms of large tensors overflow.
    wide = torch.float64 if any(one.dtype == torch.float64 for one in gradients) else torch.float32
    norms = torch._foreach_norm(gradients, 2, dtype=wide)
    return bool(torch.stack(norms).isfinite().all())


def upcoming_gradients(
    trainer: Any, optimizer: Optimizer, names: Mapping[int, str], places: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Gradients of the next step of an optimizer, for `on_before_optimizer_step`: this process' pieces.

    Empty where one of them is not finite, as after an overflow in half precision, whose step is skipped.

    Args:
        trainer: The running trainer.
        optimizer: Whose step it is.
        names: Of the parameters that are looked at, by their `id`.
        places: Flat indices of what is looked at of a parameter, by name; everything where there are none.
    """
    found: dict[str, Tensor] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names.get(id(parameter))
            if name is not None and parameter.grad is not None:
                gradient = local(parameter.grad)
                gradient = gradient.to_dense() if gradient.is_sparse else gradient
                if (few := places.get(name)) is not None:
                    gradient = gradient.reshape(-1).index_select(0, few.to(gradient.device))
                found[name] = gradient
    if not are_finite(list(found.values())):
        return {}
    # A fused optimizer takes the scale away within its step; for all others Lightning has done so by now.
    if getattr(optimizer, "_step_supports_amp_scaling", False) and (scale := loss_scale(trainer)) != 1:
        return {name: gradient.float() / scale for name, gradient in found.items()}
    return found
