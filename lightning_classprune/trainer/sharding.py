"""Sharding: FSDP2 leaves every process a piece of each parameter; wholes are made of pieces and cut into pieces.

The first dimension is cut like `torch.chunk` does: process r holds chunk r, which may be empty. Masks, and all that is
saved, are wholes, so that another number of processes can resume; weights, snapshots and optimizer states stay pieces.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_classprune.trainer.names import canonical
from lightning_classprune.trainer.processes import Processes
from lightning_classprune.trainer.versions import DTensor, FSDPModule, Shard

# A tensor of a captured state that is a piece is wrapped in a dict with this key, for its name does not tell.
_PIECE = "__piece__"


@dataclass(frozen=True)
class Sharding:
    """Which tensors of a module are pieces, and who holds the others; without names nothing is sharded."""

    processes: Processes
    names: frozenset[str] = frozenset()

    @classmethod
    def of(cls, module: nn.Module, processes: Processes) -> Sharding:
        """Look at a module that is set up for training.

        Raises:
            ValueError: Parameters are laid out in another way than by `fully_shard` over all processes.
        """
        reshard(module)
        parameters = {canonical(name): p for name, p in module.named_parameters()}
        names = frozenset(name for name, p in parameters.items() if isinstance(p, DTensor))
        for name, parameter in parameters.items() if names else ():
            if not isinstance(parameter, DTensor):
                raise ValueError(
                    f"`{name}` is not sharded while other parameters are; apply fully_shard to the whole module too"
                )
            mesh = parameter.device_mesh
            if parameter.placements != (Shard(0),) or mesh.size() != processes.world_size:
                raise ValueError(
                    f"`{name}` is laid out as {parameter.placements} over {mesh.size()} of {processes.world_size} "
                    "processes; only fully_shard along the first dimension over all processes is supported"
                )
        return cls(processes, names)

    def __bool__(self) -> bool:
        return bool(self.names)

    def wholes(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Put the pieces of all processes together, on every process, on the CPU."""
        return {name: self._whole(t) if name in self.names else t for name, t in tensors.items()}

    def pieces(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Cut wholes into this process' pieces."""
        return {name: self._piece(t) if name in self.names else t for name, t in tensors.items()}

    def saved(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Wholes for a checkpoint, on the process that writes it; the others keep what they have."""
        return {name: self._assembled(t) if name in self.names else t for name, t in tensors.items()}

    def saved_state(self, state: Any) -> Any:
        """A captured training state of wholes, on the process that writes the checkpoint."""
        return _mapped(state, self._assembled) if self else state

    def loaded_state(self, state: Any) -> Any:
        """A saved training state cut into this process' pieces."""
        return _mapped(state, self._piece) if self else state

    def _whole(self, piece: Tensor) -> Tensor:
        return torch.cat(self.processes.gather_objects(piece.cpu()))

    def _assembled(self, piece: Tensor) -> Tensor:
        pieces = self.processes.gather_to_first(piece.cpu())
        return piece if pieces is None else torch.cat(pieces)

    def _piece(self, whole: Tensor) -> Tensor:
        chunks = whole.chunk(self.processes.world_size)
        return chunks[self.processes.rank].clone() if self.processes.rank < len(chunks) else whole[:0].clone()


def reshard(module: nn.Module) -> None:
    """Put pieces back where a forward pass has left whole parameters; writes to pieces would not reach those."""
    for submodule in module.modules():
        if isinstance(submodule, FSDPModule):
            submodule.reshard()


def copied(tensor: Tensor) -> Any:
    """A copy on the CPU for a captured state; a piece is marked as one.

    Raises:
        ValueError: The tensor is spread over the processes in a way that cannot be captured.
    """
    if not isinstance(tensor, DTensor):
        return tensor.detach().to("cpu", copy=True)
    if tensor.placements != (Shard(0),):
        raise ValueError(
            f"an optimizer state is laid out as {tensor.placements}; only pieces along the first dimension are "
            "supported"
        )
    return {_PIECE: local(tensor).to("cpu", copy=True), "shape": list(tensor.shape)}


def laid_out(state: Any, module: nn.Module) -> Any:
    """A captured state whose pieces are spread over the processes again, like the module's parameters."""
    sharded = next((p for p in module.parameters() if isinstance(p, DTensor)), None)
    if sharded is None:
        return state

    def spread(marked: dict[str, Any]) -> DTensor:
        shape = torch.Size(marked["shape"])
        stride = torch.empty(shape, device="meta").stride()
        local = marked[_PIECE].to(sharded.device)
        return DTensor.from_local(
            local, sharded.device_mesh, [Shard(0)], run_check=False, shape=shape, stride=stride
        )

    return _walk(state, spread)


def _mapped(state: Any, change: Any) -> Any:
    return _walk(state, lambda marked: marked | {_PIECE: change(marked[_PIECE])})


def _walk(state: Any, change: Any) -> Any:
    if isinstance(state, dict):
        return change(state) if _PIECE in state else {k: _walk(v, change) for k, v in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(_walk(v, change) for v in state)
    return state


def local(tensor: Tensor) -> Tensor:
    """The storage on this process: the shard of a DTensor, the tensor itself otherwise; never part of a graph."""
    tensor = tensor.detach()
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor
