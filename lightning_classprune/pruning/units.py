"""Units: what one unit of pruning is. Sparsity, target and prune fraction count these units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lightning_classprune.pruning.lamp import lamp
from lightning_classprune.pruning.lamp_cut import lamp_masks
from lightning_classprune.pruning.masks import Masks, count_kept, count_weights
from lightning_classprune.pruning.selection import Scope, Scores, shrink_masks
from lightning_classprune.trainer.sharding import Sharding, local

Parameters = dict[str, nn.Parameter]


@dataclass(frozen=True)
class Surroundings:
    """What units are looked for in.

    Attributes:
        trainer: The running trainer.
        module: The network.
        parameters: Those that may be pruned, by name.
        scope: One threshold for all, or one sparsity in every tensor or group.
        sharding: How the parameters are spread over the processes.
        by_layer: Scores count relative to those of their layer (`lamp`).
    """

    trainer: Any
    module: nn.Module
    parameters: Parameters
    scope: Scope
    sharding: Sharding
    by_layer: bool = False


class Units(Protocol):
    """What can be cut from a network, and how masks lose more of it.

    Attributes:
        name: What one unit is called, in the plural.
        parameters: What the masks cover.
        total: Number of units.
        most: The largest number of them that may be pruned.
    """

    name: str
    parameters: Parameters
    total: int
    most: int

    def pruned(self, masks: Masks) -> int:
        """Number of units that the masks prune."""
        ...

    def zeros(self) -> int:
        """Number of units that are zero whatever the masks."""
        ...

    def shrink(self, masks: Masks, scores: Scores, pruned: int) -> Masks:
        """Masks that prune exactly `pruned` units: those of before, and of the others those of smallest score.

        Raises:
            ValueError: That number cannot be pruned, or a score is NaN.
        """
        ...


@dataclass
class SingleWeights:
    """Every weight alone; each tensor, and each gate of a tensor that has several, keeps at least one.

    Attributes:
        parameters: The prunable weights.
        scope: One threshold for all, or one sparsity in every tensor and every gate.
        sharding: How they are spread over the processes.
        by_layer: Scores count relative to those of their tensor (`lamp`).
        gates: Equal parts of a tensor along its first dimension, by name; 1 for those not named.
        total: Number of weights, over all processes.
        most: The largest number of them that may be pruned.
    """

    parameters: Parameters
    scope: Scope
    sharding: Sharding
    by_layer: bool = False
    gates: Mapping[str, int] = field(default_factory=dict)
    name: str = "weights"

    def __post_init__(self) -> None:
        self.total = sum(p.numel() for p in self.parameters.values())
        self.most = self.total - sum(self.gates.get(name, 1) for name in self.parameters)

    def pruned(self, masks: Masks) -> int:
        """Number of pruned weights."""
        return count_weights(masks) - count_kept(masks)

    def zeros(self) -> int:
        """Number of zero weights, over all processes."""
        zeros = sum(int((local(p) == 0).sum()) for p in self.parameters.values())
        return sum(self.sharding.processes.gather_objects(zeros)) if self.sharding else zeros

    def shrink(self, masks: Masks, scores: Scores, pruned: int) -> Masks:
        """See `shrink_masks`; in a sharded model every process calls this with the same masks."""
        if self.by_layer and self._is_simple and (cut := lamp_masks(masks, scores, pruned)) is not None:
            return cut
        if self.by_layer:
            # Kept until the masks are found, for each of them takes a sort: four bytes a weight.
            scores = cache(partial(self._relative, masks, scores))
        shrunk: Masks = {}
        error: Exception | None = None
        try:
            if not self.sharding:
                shrunk = self._shrunk(masks, scores, pruned)
            elif any(bool(torch.isnan(scores(name)).any()) for name in masks):
                raise ValueError("criterion: a score is NaN; scores must be comparable")
        except Exception as caught:
            error = caught
        self.sharding.processes.raise_together(error)
        if not self.sharding:
            return shrunk
        device = {name: p.device for name, p in self.parameters.items()}
        held = {name: mask.to(device[name]) for name, mask in self.sharding.pieces(masks).items()}
        return self.sharding.wholes(self._shrunk(held, scores, pruned))

    @property
    def _is_simple(self) -> bool:
        """Whether each tensor is whole, of one gate, and compared with all others."""
        several = any(gates > 1 for gates in self.gates.values())
        return not self.sharding and self.scope == "global" and not several

    def _shrunk(self, masks: Masks, scores: Scores, pruned: int) -> Masks:
        """The masks that this process holds, each gate a tensor of its own in the selection."""
        gates = {
            name: {f"{name}[{i}]" if i else name: rows for i, rows in enumerate(self._rows(name, mask))}
            for name, mask in masks.items()
        }
        owner = {gate: name for name, own in gates.items() for gate in own}
        last: dict[str, Tensor] = {}  # gates of one tensor come one after the other

        def scores_of(gate: str) -> Tensor:
            name = owner[gate]
            if len(gates[name]) == 1:
                return scores(name)
            if name not in last:
                last.clear()
                last[name] = scores(name)
            fits = last[name].shape == masks[name].shape
            return last[name][gates[name][gate]] if fits else last[name]

        parts = {gate: masks[name][gates[name][gate]] for gate, name in owner.items()}
        processes = self.sharding.processes if self.sharding else None
        shrunk = shrink_masks(parts, scores_of, pruned, self.scope, processes)
        return {
            name: torch.cat([shrunk[gate] for gate in own]) if len(own) > 1 else shrunk[name]
            for name, own in gates.items()
        }

    def _rows(self, name: str, held: Tensor) -> list[Any]:
        """The rows of each gate among those that this process holds."""
        count = self.gates.get(name, 1)
        if count == 1:
            return [...]
        rows = self.parameters[name].shape[0]
        processes = self.sharding.processes
        before = min(-(-rows // processes.world_size) * processes.rank, rows) if self.sharding else 0
        ends = [min(max(i * rows // count - before, 0), len(held)) for i in range(count + 1)]
        return [slice(start, end) for start, end in pairwise(ends)]

    def _relative(self, masks: Masks, scores: Scores, name: str) -> Tensor:
        own = scores(name)
        (whole,) = self.sharding.wholes({name: own}).values()
        # What is pruned has no part in its layer, and need not be sorted.
        kept = masks[name].to(whole.device)
        relative = torch.zeros_like(whole, dtype=torch.float32)
        relative[kept] = lamp(whole[kept].double().square())
        (piece,) = self.sharding.pieces({name: relative}).values()
        return piece.to(own.device)
