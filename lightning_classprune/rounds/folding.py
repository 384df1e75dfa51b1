"""Folding: a decision offset inside the network, in the bias of its last layer, so that a plain decision takes it.

Whether a layer's bias moves the scores, and those alone, is not read off the network but tried: the network with the
bias must decide every validation and guard case as the network with the offset does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from lightning_classprune.trainer.names import canonical
from lightning_classprune.trainer.snapshots import Tensors

T = TypeVar("T")


def fold(
    module: nn.Module, offsets: Mapping[str, float], names: Sequence[str], same: Callable[[], bool]
) -> str | None:
    """Put the offsets into the bias of a layer, if some layer takes them exactly; its name, or None.

    Args:
        module: The network; where no layer takes them it is left as it was.
        offsets: Bias to add to a class' score, by name; the others' is 0.
        names: Of all classes.
        same: Whether the module as it is decides as it is to decide with the offsets. All processes call this alike.
    """
    for name, bias in _biases(module, len(names)):
        before = bias.detach().clone()
        with torch.no_grad():
            bias.add_(shift(offsets, names, bias))
        if same():
            return name
        with torch.no_grad():
            bias.copy_(before)
    return None


def folded(tensors: Tensors, place: str, offsets: Mapping[str, float], names: Sequence[str]) -> Tensors:
    """Captured tensors with the offsets in the bias of that name."""
    bias = tensors[place]
    return tensors | {place: bias + shift(offsets, names, bias)}


def shift(offsets: Mapping[str, float], names: Sequence[str], bias: Tensor) -> Tensor:
    """What to add to a bias: one value a class, or, of one logit, that of the second class."""
    if len(bias) == 1:
        values = [offsets.get(names[1], 0.0) - offsets.get(names[0], 0.0)]
    else:
        values = [offsets.get(name, 0.0) for name in names]
    return torch.tensor(values, dtype=bias.dtype, device=bias.device)


def _biases(module: nn.Module, classes: int) -> Iterator[tuple[str, Tensor]]:
    """Biases that could be the scores', the last of the module first."""
    outputs = {classes, 1} if classes == 2 else {classes}
    found = [
        (f"{canonical(name)}.bias" if name else "bias", layer.bias)
        for name, layer in module.named_modules()
        if isinstance(getattr(layer, "bias", None), nn.Parameter)
        and layer.bias.ndim == 1
        and len(layer.bias) in outputs
    ]
    yield from reversed(found)
