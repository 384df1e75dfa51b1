"""The processes of a distributed job, as far as pruning must know them; one process is the same code."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Processes:
    """Rank of this process and number of processes; collectives are no-ops for one."""

    rank: int = 0
    world_size: int = 1

    def gather_objects(self, share: Any) -> list[Any]:
        """Every rank's object, in the order of ranks, on every rank."""
        if self.world_size == 1:
            return [share]
        gathered: list[Any] = [None] * self.world_size
        dist.all_gather_object(gathered, share)
        return gathered

    def first(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        return self.gather_objects(value)[0]

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank, on every rank."""
        return any(self.gather_objects(bool(flag)))

    def raise_together(self, error: Exception | None) -> None:
        """Raise on all ranks if any rank has an error: a rank that raises alone leaves the others waiting for ever.

        Raises:
            Exception: The first rank's that has one.
        """
        if error is not None and self.world_size > 1:
            forget_locals(error)
        errors = self.gather_objects(_portable(error) if self.world_size > 1 else error)
        for rank, raised in enumerate(errors):
            if raised is not None:
                raise (error if rank == self.rank and error is not None else raised)

    def on_first(self, action: Callable[[], object]) -> None:
        """Do something on rank 0 alone; all ranks call this, and all learn of its error.

        Raises:
            Exception: Whatever it raised, on all ranks.
        """
        error: Exception | None = None
        if self.rank == 0:
            try:
                action()
            except Exception as caught:
                error = caught
        self.raise_together(error)

    def gather(self, tensor: Tensor) -> Tensor:
        """Every rank's tensor (equal shapes), stacked along a new first dimension."""
        if self.world_size == 1:
            return tensor.unsqueeze(0)
        sent = _reachable(tensor.contiguous())
        gathered = [torch.empty_like(sent) for _ in range(self.world_size)]
        dist.all_gather(gathered, sent)
        return torch.stack(gathered).to(tensor.device)

    def gather_to_first(self, share: Any) -> list[Any] | None:
        """Every rank's object, in the order of ranks, on rank 0; None on the others. All ranks call this."""
        if self.world_size == 1:
            return [share]
        gathered: list[Any] | None = [None] * self.world_size if self.rank == 0 else None
        dist.gather_object(share, gathered, dst=0)
        return gathered

    def equalize_buffers(self, module: nn.Module) -> None:
        """Give every rank rank 0's buffers: BatchNorm statistics differ between ranks, and verdicts with them."""
        if self.world_size > 1:
            for buffer in module.buffers():
                sent = _reachable(buffer.data)
                dist.broadcast(sent, src=0)
                buffer.data.copy_(sent)


def _reachable(tensor: Tensor) -> Tensor:
    """The tensor where the processes can exchange it: NCCL takes none on the CPU, where offloaded weights lie."""
    backends = dict(part.split(":") for part in str(dist.get_backend_config()).split(","))
    return tensor if tensor.device.type in backends else tensor.to(next(iter(backends)))


def forget_locals(error: BaseException) -> None:
    """Let go of what the frames that an error came through hold, such as activations; its lines can still be told."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        traceback.clear_frames(link.__traceback__)
        link = link.__cause__ or link.__context__


def _portable(error: Exception | None) -> Exception | None:
    """The error itself where it survives the way to another process, else one that says the same."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__} in another process: {error}")
    return error
