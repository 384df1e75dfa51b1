"""Channels: which of a network's channels are coupled and can leave it, as plain data.

Torch-Pruning's graph proposes groups, and every group is tried: taking channels out must change the output as little
as setting them to zero. What fails stays whole.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from lightning_classprune.pruning.channel_graph import ChannelGraph
from lightning_classprune.pruning.slicing import (
    ChannelGroup,
    Example,
    cpu_copy,
    mapped,
    moved,
    run,
    slice_channels,
    tensors,
)
from lightning_classprune.trainer.names import canonical
from lightning_classprune.trainer.randomness import untouched_randomness
from lightning_classprune.trainer.versions import uncompiled


@dataclass(frozen=True)
class Channels:
    """The channels of a network that can leave it.

    Attributes:
        groups: Coupled channels; no layer that writes channels is in two groups.
        stays: Layers whose outputs cannot be pruned -> why.
    """

    groups: list[ChannelGroup]
    stays: dict[str, str]


def find_channels(model: nn.Module, example: Example) -> Channels:
    """Find the coupled channels of a network; the network is not changed, and no random number is drawn.

    Args:
        model: The network, with convolutions, linear layers and BatchNorm; others hold the channels they touch.
        example: Input for one forward: a tensor, or the positional or keyword arguments.

    Raises:
        ModuleNotFoundError: Torch-Pruning is not installed.
        ValueError: The forward fails on the example.
    """
    pruning = _torch_pruning()
    with untouched_randomness(), torch.enable_grad(), uncompiled():
        model = cpu_copy(model).float()
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        example = mapped(moved(example, "cpu"), lambda t: t.float())
        stays: dict[str, str] = {}
        groups = ChannelGraph(pruning, model, example).groups(stays)
        groups = _tried(model, example, groups, stays)
    return Channels(groups, stays)


def _torch_pruning() -> ModuleType:
    try:
        import torch_pruning
    except ImportError as error:
        raise ModuleNotFoundError(
            "channels are found with Torch-Pruning, which is not installed: "
            "pip install 'lightning-classprune[compact]'",
            name="torch_pruning",
        ) from error
    return torch_pruning  # type: ignore[no-any-return]


@torch.no_grad()
def _tried(
    model: nn.Module, example: Example, groups: list[ChannelGroup], stays: dict[str, str]
) -> list[ChannelGroup]:
    """The groups from which taking channels out gives what setting them to zero gives."""
    groups = [group for group in groups if group.size > 1]
    model, example = model.double(), mapped(example, lambda t: torch.randn_like(t, dtype=torch.float64))
    disturb(model)
    if _holds(model, example, groups):
        return groups
    sound = []
    for group in groups:
        if _holds(model, example, [group]):
            sound.append(group)
        else:
            for name in group.outputs:
                if isinstance(model.get_submodule(name.rpartition(".")[0]), nn.Linear | _ConvNd):
                    stays[name.rpartition(".")[0]] = "its channels cannot be taken out without a trace"
    return sound


@torch.no_grad()
def disturb(model: nn.Module) -> None:
    """Add noise to all weights, in place: as they come, zero biases could hide what is wrong."""
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=float(parameter.std(correction=0)) * 0.1 + 1e-2)
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.running_mean is not None:
            module.running_mean.normal_(std=0.1)


def _holds(model: nn.Module, example: Example, groups: list[ChannelGroup]) -> bool:
    kept = {group.name: torch.arange(group.size) % 2 == 0 for group in groups}
    zeroed = copy.deepcopy(model)
    parameters = {canonical(name): p for name, p in zeroed.named_parameters()}
    for group in groups:
        for name, owner in group.outputs.items():
            out = (owner >= 0) & ~kept[group.name][owner.clamp(min=0)]
            parameters[name][out.to(parameters[name].device)] = 0
    smaller = copy.deepcopy(zeroed)
    try:
        slice_channels(smaller, groups, kept)
        return same_outputs(run(zeroed, example), run(smaller, example), 1e-9)
    except (RuntimeError, ValueError, IndexError):
        return False


def same_outputs(expected: Any, got: Any, tolerance: float) -> bool:
    """Whether outputs agree within `tolerance`, relative to the largest value of each tensor."""
    pairs = list(zip(tensors(expected), tensors(got), strict=False))
    return len(tensors(expected)) == len(tensors(got)) and all(
        a.shape == b.shape
        and (a.numel() == 0 or float((a - b).abs().max()) <= tolerance * (1 + float(a.abs().max())))
        for a, b in pairs
    )
