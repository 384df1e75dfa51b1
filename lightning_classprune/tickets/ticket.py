"""Tickets: networks that were judged, and how a checkpoint holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lightning_classprune.pruning.masks import Masks, unpack_all
from lightning_classprune.trainer.sharding import Sharding
from lightning_classprune.trainer.snapshots import Tensors, TrainingState


@dataclass(frozen=True)
class Ticket:
    """A network that was judged: its masks, all its tensors, its decision offsets, and the state of what trained it.

    `packed` holds its masks as bits, whatever device the network is on. `training` is None in a resumed run that cannot
    need it: checkpoints hold it only where fine-tuning goes on from it. Otherwise it stays until the run ends, though
    no round starts from it (8 bytes a weight and process under Adam): where the last round is refused, the trainer and
    its last checkpoint get this network back with the momentum that it was trained with, not the refused one's.
    `beside` is what `predict` was fitted to it, by name; empty unless that is a probe. `tensors` are without the
    decision offsets, by class in `offsets`; `folded_into` names the bias that takes them when the network is handed
    over, None where none does.
    """

    packed: dict[str, dict[str, Any]]
    tensors: Tensors
    training: TrainingState | None
    stopping: list[dict[str, Any]]
    offsets: dict[str, float] = field(default_factory=dict)
    folded_into: str | None = None
    beside: Tensors = field(default_factory=dict)

    @property
    def masks(self) -> Masks:
        """Its masks, on the CPU."""
        return unpack_all(self.packed)


def pack_ticket(ticket: Ticket | None, sharding: Sharding, *, with_training: bool) -> dict[str, Any] | None:
    """A ticket as plain dicts; masks as bits."""
    if ticket is None:
        return None
    return {
        "masks": ticket.packed,
        "tensors": sharding.saved(ticket.tensors),
        "training": sharding.saved_state(ticket.training) if with_training else None,
        "stopping": ticket.stopping,
        "offsets": dict(ticket.offsets),
        "folded_into": ticket.folded_into,
        "beside": ticket.beside,
    }


def unpack_ticket(saved: Mapping[str, Any] | None, sharding: Sharding) -> Ticket | None:
    """The ticket that `pack_ticket` stored."""
    if saved is None:
        return None
    training = sharding.loaded_state(saved["training"])
    return Ticket(
        dict(saved["masks"]),
        sharding.pieces(saved["tensors"]),
        training,
        saved["stopping"],
        dict(saved["offsets"]),
        saved["folded_into"],
        saved.get("beside", {}),
    )
