"""Channels as units of pruning: coupled channels are scored, cut and counted as one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_classprune.pruning.channels import find_channels
from lightning_classprune.pruning.example import find_example
from lightning_classprune.pruning.lamp import lamp
from lightning_classprune.pruning.masks import Masks
from lightning_classprune.pruning.selection import Scope, Scores, shrink_masks
from lightning_classprune.pruning.slicing import ChannelGroup
from lightning_classprune.pruning.units import Parameters, Surroundings
from lightning_classprune.trainer.names import canonical, named_parameters
from lightning_classprune.trainer.sharding import local


class ChannelUnits:
    """Coupled channels of a network: filters, biases, BatchNorm gamma and beta; each group keeps at least one.

    A channel's score is the sum of its weights' squared scores (each with the sign of the score) over all that it
    writes, relative to the mean of its group: for magnitudes the group importance of Torch-Pruning
    (`GroupMagnitudeImportance` with p=2 and normalizer="mean"; Fang et al. 2023, arXiv 2301.12900) without the layers
    that read the channel, which stay. Relative, because layers differ in scale and one threshold is to serve all. By
    layer, it is instead relative to all channels of the group that are no smaller (`lamp`).

    Attributes:
        groups: Coupled channels.
        parameters: All that the channels write with, by name.
        total: Number of channels.
        most: The largest number of them that may be pruned.
    """

    name = "channels"

    def __init__(
        self, groups: list[ChannelGroup], parameters: Parameters, scope: Scope, by_layer: bool = False
    ) -> None:
        self.groups, self.scope, self.by_layer = groups, scope, by_layer
        written = {name for group in groups for name in group.outputs}
        self.parameters = {name: p for name, p in parameters.items() if name in written}
        self.total = sum(group.size for group in groups)
        self.most = self.total - len(groups)

    def pruned(self, masks: Masks) -> int:
        """Number of channels of which no weight is kept."""
        return self.total - sum(int(kept.sum()) for kept in self._alive(masks).values())

    def zeros(self) -> int:
        """Number of channels of which all weights and biases are zero."""
        return self.pruned({name: local(p) != 0 for name, p in self.parameters.items()})

    def shrink(self, masks: Masks, scores: Scores, pruned: int) -> Masks:
        """Masks of whole channels; ties are broken by place (order of groups, then of channels)."""
        alive = self._alive(masks)
        importances = {
            group.name: self._importance(group, scores, alive[group.name]) for group in self.groups
        }
        kept = shrink_masks(alive, importances.__getitem__, pruned, self.scope)
        return {name: self._rows(name, mask, kept) for name, mask in masks.items()}

    def _alive(self, masks: Mapping[str, Tensor]) -> Masks:
        alive: Masks = {}
        for group in self.groups:
            counts = torch.zeros(group.size + 1, dtype=torch.int64)
            for name, owner in group.outputs.items():
                # Rows of other groups (-1) fall into the last place.
                counts.index_add_(
                    0, owner % (group.size + 1), masks[name].reshape(len(owner), -1).sum(1).cpu()
                )
            alive[group.name] = counts[:-1] > 0
        return alive

    def _importance(self, group: ChannelGroup, scores: Scores, alive: Tensor) -> Tensor:
        signed = torch.zeros(group.size + 1, dtype=torch.float64)
        plain = signed.clone()
        for name, owner in group.outputs.items():
            if name.endswith(".bias"):
                continue
            values = scores(name).double().reshape(len(owner), -1)
            squares = values.square()
            # Added up on the CPU, where the order of a sum is always the same.
            for total, rows in ((signed, squares * values.sign()), (plain, squares)):
                total.index_add_(0, owner % (group.size + 1), rows.sum(1).cpu())
        if self.by_layer:
            return lamp(plain[:-1])
        mean = float(plain[:-1][alive].mean())
        return signed[:-1] / (mean or 1.0)

    def _rows(self, name: str, mask: Tensor, kept: Masks) -> Tensor:
        out = torch.zeros(len(mask), dtype=torch.bool)
        for group in self.groups:
            if (owner := group.outputs.get(name)) is not None:
                out |= (owner >= 0) & ~kept[group.name][owner.clamp(min=0)]
        shrunk = mask.clone(memory_format=torch.contiguous_format)
        shrunk[out.to(mask.device)] = False
        return shrunk


def prunable_groups(
    module: nn.Module, groups: list[ChannelGroup], chosen: Parameters
) -> tuple[list[ChannelGroup], list[str]]:
    """Groups of which every convolution and linear layer may be pruned, and the names of the others."""
    norms = {canonical(name) for name, layer in module.named_modules() if isinstance(layer, _BatchNorm)}

    def whole(group: ChannelGroup) -> bool:
        weights = [
            n for n in group.outputs if n.endswith(".weight") and n.removesuffix(".weight") not in norms
        ]
        return all(name in chosen for name in weights)

    return [g for g in groups if whole(g)], [g.name for g in groups if not whole(g)]


def find_channel_units(here: Surroundings) -> tuple[ChannelUnits, list[str]]:
    """The channels of a network, followed on one input, and the layers that stay dense, with the reason.

    Raises:
        ValueError: There is no example input, the network cannot be followed on it, or no channel can leave it.
    """
    found = find_channels(here.module, find_example(here.trainer, here.module))
    groups, held = prunable_groups(here.module, found.groups, here.parameters)
    stays = [f"{name} ({why})" for name, why in found.stays.items()]
    stays += [f"{name} (not prunable, or coupled with a layer that is not)" for name in held]
    if not groups:
        raise ValueError(f"no channel can leave this network; {'; '.join(stays)}")
    return ChannelUnits(groups, named_parameters(here.module), here.scope, here.by_layer), stays
