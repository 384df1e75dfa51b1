"""Slicing: take channels out of a network, layer by layer, so that what is left is a smaller plain network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from lightning_classprune.trainer.names import canonical

#: What a forward takes: one tensor, its positional arguments, or its keyword arguments.
Example: TypeAlias = Tensor | tuple[Any, ...] | list[Any] | dict[str, Any]


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that several layers share: one of them can only leave all layers at once.

    Attributes:
        name: The first layer that writes the channels.
        size: Number of channels.
        outputs: Parameter (weights and biases of convolutions and linear layers, gamma and beta of BatchNorm) -> the
            channel that each index of its first dimension writes, -1 for one of another group.
        inputs: Weight -> the channel that each index of its second dimension reads, -1 for one of another group.
    """

    name: str
    size: int
    outputs: dict[str, Tensor] = field(default_factory=dict)
    inputs: dict[str, Tensor] = field(default_factory=dict)


def cpu_copy(model: nn.Module) -> nn.Module:
    """A copy in eval mode on the CPU, where every dtype exists; of a compiled LightningModule, one that is not."""
    twin = copy.deepcopy(model).cpu().eval()
    if getattr(twin, "_compiler_ctx", None):
        # Lightning hangs the compiled forward of the original on the module, and the copy would run that.
        vars(twin).pop("forward", None)
    return twin


def run(model: nn.Module, example: Example) -> Any:
    """The forward of the model on an example."""
    if isinstance(example, dict):
        return model(**example)
    return model(*example) if isinstance(example, tuple | list) else model(example)


def mapped(example: Example, change: Callable[[Tensor], Tensor]) -> Example:
    """The example with every floating-point tensor changed."""
    return _each_tensor(example, lambda t: change(t) if t.is_floating_point() else t)


def moved(example: Example, device: torch.device | str) -> Example:
    """The example with every tensor on a device."""
    return _each_tensor(example, lambda t: t.detach().to(device))


def _each_tensor(example: Example, change: Callable[[Tensor], Tensor]) -> Example:
    def each(value: Any) -> Any:
        return change(value) if isinstance(value, Tensor) else value

    if isinstance(example, dict):
        return {key: each(value) for key, value in example.items()}
    return tuple(map(each, example)) if isinstance(example, tuple | list) else each(example)


def tensors(output: Any) -> list[Tensor]:
    """All tensors of a model's output."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, Mapping):
        output = list(output.values())
    return [t for part in output for t in tensors(part)] if isinstance(output, tuple | list) else []


@torch.no_grad()
def slice_channels(
    model: nn.Module, groups: list[ChannelGroup], kept: Mapping[str, Tensor]
) -> dict[str, tuple[int, int]]:
    """Take channels out, in place.

    Args:
        model: The network; its parameters are replaced by smaller ones.
        groups: The coupled channels.
        kept: Group name -> which channels stay, a bool tensor.

    Returns:
        Layers that became smaller -> channels they write (kept, before).
    """
    rows: dict[str, Tensor] = {}
    columns: dict[str, Tensor] = {}
    for group in groups:
        for mine, owners in ((rows, group.outputs), (columns, group.inputs)):
            for name, owner in owners.items():
                stays = (owner < 0) | kept[group.name][owner.clamp(min=0)]
                mine[name] = mine[name] & stays if name in mine else stays
    widths: dict[str, tuple[int, int]] = {}
    for layer, module in model.named_modules():
        for name, parameter in module.named_parameters(layer, recurse=False):
            value: Tensor = parameter
            for dim, kept_by_name in enumerate((rows, columns)):
                if (left := kept_by_name.get(canonical(name))) is not None:
                    value = _take(value, dim, left)
            if value is not parameter:
                smaller = nn.Parameter(value.detach().clone(), parameter.requires_grad)
                setattr(module, name.rpartition(".")[2], smaller)
        written = rows.get(canonical(f"{layer}.weight"))
        if written is not None and not bool(written.all()):
            widths[canonical(layer)] = (int(written.sum()), written.numel())
            if isinstance(module, _BatchNorm):
                for name, buffer in module.named_buffers(recurse=False):
                    if buffer.ndim:
                        setattr(module, name, _take(buffer, 0, written).clone())
        fit_layer(module)
    return widths


def fit_layer(module: nn.Module) -> None:
    """Make a layer's own numbers agree with the shapes of its parameters."""
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, _ConvNd) and not module.transposed:
        depthwise = module.groups > 1 and module.groups == module.in_channels == module.out_channels
        module.out_channels = module.weight.shape[0]
        if depthwise:
            module.groups = module.out_channels
        module.in_channels = module.weight.shape[1] * module.groups
    elif isinstance(module, _BatchNorm) and module.weight is not None:
        module.num_features = module.weight.shape[0]


def _take(tensor: Tensor, dim: int, stays: Tensor) -> Tensor:
    if bool(stays.all()):
        return tensor
    return tensor.index_select(dim, stays.nonzero().view(-1).to(tensor.device))
