"""Cutting: what of a network is pruned, by which scores, and how it is taken from the weights and stays away."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lightning_classprune.criteria import Criterion
from lightning_classprune.enforcement import Enforcement
from lightning_classprune.granularity import Units
from lightning_classprune.masks import Masks, apply_masks, local
from lightning_classprune.preflight import find_parameters, find_sharding, find_units
from lightning_classprune.processes import Processes
from lightning_classprune.prunable import Prunable
from lightning_classprune.randomness import untouched_randomness
from lightning_classprune.rewinding import Tensors, restore_tensors
from lightning_classprune.settings import Settings
from lightning_classprune.sharding import Sharding, reshard


class Cutter:
    """Cuts one network; the masks are its caller's.

    Args:
        module: The network.
        units: What is cut.
        criterion: The scores whose smallest are cut.
        sharding: How the parameters are spread over the processes; masks are wholes.
    """

    def __init__(self, module: nn.Module, units: Units, criterion: Criterion, sharding: Sharding) -> None:
        self.module = module
        self.units = units
        self.sharding = sharding
        self._criterion = criterion
        self._enforcement = Enforcement()

    @classmethod
    def find(
        cls,
        settings: Settings,
        trainer: Any,
        module: nn.Module,
        prunable: Prunable,
        processes: Processes,
        *,
        frozen: bool,
    ) -> Cutter:
        """Look for what can be cut in a module that is set up for training; all processes call this.

        Args:
            settings: Granularity, scope and criterion.
            trainer: The running trainer.
            module: The network.
            prunable: Which of its parameters.
            processes: Of the job.
            frozen: Those that do not train yet count too.

        Raises:
            MisconfigurationException: Nothing can be cut so, or the model is laid out in an unknown way.
        """
        parameters = find_parameters(module, prunable, frozen=frozen)
        sharding = find_sharding(trainer, module, processes)
        units = find_units(settings, trainer, module, parameters, sharding)
        return cls(module, units, settings.criterion, sharding)

    def sparsity(self, masks: Masks) -> float:
        """Pruned share of the units, in [0, 1]."""
        return self.units.pruned(masks) / self.units.total

    def shrink(self, masks: Masks, pruned: int, origin: Tensors | None) -> Masks:
        """Masks that prune so many units, chosen by the weights that the module holds.

        Args:
            masks: What is pruned already.
            pruned: Number of units.
            origin: The tensors that weights are compared with; None for the weights themselves.
        """

        def scores(name: str) -> torch.Tensor:
            weight = local(self.units.parameters[name])
            return self._criterion(weight, weight if origin is None else origin[name].to(weight.device))

        return self.units.shrink(masks, scores, pruned)

    def try_on(self, tensors: Tensors, masks: Masks, pruned: int, origin: Tensors | None) -> None:
        """Put a captured network, cut further, into the module; the generators are left as they were.

        Args:
            tensors: Of the network.
            masks: What is pruned in it, as the other arguments for `shrink`.
            pruned: Number of units.
            origin: What weights are compared with.
        """
        restore_tensors(self.module, tensors)
        with untouched_randomness():
            tried = self.shrink(masks, pruned, origin)
        self.apply(tried)

    def apply(self, masks: Masks) -> None:
        """Set the pruned weights to zero now."""
        apply_masks(self.sharding.pieces(masks), self.units.parameters)

    def hold(self, masks: Masks, optimizers: list[Any]) -> None:
        """Keep the pruned weights at zero in all steps from now on."""
        reshard(self.module)
        self._enforcement.hold(self.sharding.pieces(masks), self.units.parameters, optimizers)

    def release(self) -> None:
        """Let go of all weights."""
        self._enforcement.release()
