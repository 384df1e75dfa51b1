"""Constants: which inputs of layers are the same number whatever the network is fed, by running it on NaN.

A NaN spreads through every operation that depends on it. Layers let it through only where a weight is not zero, so
what is a number at the end cannot depend on the input: filters that are all zero, and all that follows from them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from lightning_classprune.pruning.slicing import Example, mapped, run
from lightning_classprune.trainer.names import canonical

_NAN = float("nan")


@torch.no_grad()
def constant_inputs(model: nn.Module, example: Example) -> dict[str, Tensor]:
    """For every convolution and linear layer that is reached: its inputs' values, by input channel.

    NaN where an input depends on the example, or is not one number at all places and in all calls.

    Args:
        model: A network in eval mode that computes in float64; it is not changed.
        example: Input of the forward; only the shapes matter.
    """
    seen: dict[str, Tensor] = {}
    if any(isinstance(t, Tensor) and not t.is_floating_point() for t in _parts(example)):
        return seen  # a whole number cannot be NaN
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | _ConvNd):
            handles.append(module.register_forward_hook(_layer(canonical(name), seen)))
        elif isinstance(module, _BatchNorm) and module.affine:
            handles.append(module.register_forward_hook(_norm))
        elif isinstance(module, nn.Embedding):
            handles.append(module.register_forward_hook(lambda m, args, output: output * _NAN))
    try:
        run(model, mapped(example, lambda t: torch.full_like(t, _NAN, dtype=torch.float64)))
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _layer(name: str, seen: dict[str, Tensor]) -> Any:
    def hook(module: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        given, dim = args[0], -1 if isinstance(module, nn.Linear) else 1
        flat = given.movedim(dim, 0).flatten(1)
        low, high = flat.amin(1), flat.amax(1)
        value = torch.where(low == high, low, torch.full_like(low, _NAN))
        seen[name] = torch.where(seen[name] == value, value, _NAN) if name in seen else value
        depends = flat.isnan().any(1)
        clean = given.movedim(dim, 0).clone()
        clean[depends] = 0
        result: Tensor = module.forward(clean.movedim(0, dim))
        if getattr(module, "transposed", False):
            return result * _NAN
        groups = getattr(module, "groups", 1)
        reads = (module.weight != 0).flatten(2).any(2) if module.weight.ndim > 2 else module.weight != 0
        by_group = depends.view(groups, 1, -1)
        reached = (reads.view(groups, -1, reads.shape[1]) & by_group).any(2).flatten()
        result = result.movedim(dim, 0).clone()
        result[reached] = _NAN
        return result.movedim(0, dim)

    return hook


def _norm(module: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    off = module.weight == 0
    result = output.movedim(1, 0).clone()
    result[off] = module.bias[off].view(-1, *[1] * (result.ndim - 1))
    return result.movedim(0, 1)


def _parts(example: Example) -> list[Any]:
    if isinstance(example, dict):
        return list(example.values())
    return list(example) if isinstance(example, tuple | list) else [example]
