"""Joint ladders: all accepted tickets of a run in memory, each value once.

Where the values of a ticket are those of an earlier one, as far as it keeps them (nested masks that were trained
together, layers that were not trained, buffers), it holds its mask alone; elsewhere it holds its own values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_classprune.pruning.masks import Masks
from lightning_classprune.tickets.ladder import LIST, Ladder, is_recall
from lightning_classprune.tickets.packing import TensorInfo
from lightning_classprune.tickets.ticket_file import check_fit, damaged, inside, read_ticket
from lightning_classprune.trainer.names import canonical

#: Tickets in one ladder: the masks of each are held in memory, an eighth of a byte a weight.
MOST_MEMBERS = 64

Bits = NDArray[np.uint8]


@dataclass(frozen=True)
class Member:
    """One accepted ticket of a ladder.

    Attributes:
        round: Its round.
        bytes: Size of its ticket file.
        sha256: Of the network, as in its ticket file.
        card: What its file tells of it, without the ledger.
        multiplications: By weights that are not zero, for one sample; None where nobody counted (`measure_ladder`).
        ms: Milliseconds of one forward, where and as `measure_ladder` measured it; None where it did not.
    """

    round: int
    bytes: int
    sha256: str
    card: dict[str, Any]
    multiplications: int | None = None
    ms: float | None = None

    @property
    def verdict(self) -> dict[str, Any]:
        """Its row of the ledger: counts, verdict, sparsity."""
        row: dict[str, Any] = self.card["verdict"]
        return row

    @property
    def offsets(self) -> dict[str, float]:
        """What has to be added to the score of a class, by name, before the decision; no bias contains it."""
        return dict(self.card.get("offsets", {}))


@dataclass(frozen=True)
class Part:
    """One tensor of one member.

    Attributes:
        kept: Bits of its mask; None without one.
        values: Its kept values, flat; of more weights than it keeps where they are another member's.
        of: The member that has these values.
    """

    kept: Bits | None
    values: Tensor
    of: int

    def mask(self, size: int) -> Tensor | None:
        """Which of `size` weights it keeps; None without a mask."""
        if self.kept is None:
            return None
        return torch.from_numpy(np.unpackbits(self.kept, count=size).view(bool))


@dataclass(frozen=True)
class JointLadder:
    """The accepted tickets of a run, each value once.

    Attributes:
        path: What was read.
        members: By round.
        tensors: What each of them is made of.
        parts: For each member, its tensors.
    """

    path: Path
    members: tuple[Member, ...]
    tensors: tuple[TensorInfo, ...]
    parts: tuple[tuple[Part, ...], ...]

    def tensor(self, number: int, place: int) -> Tensor:
        """A tensor of a member, dense, on the CPU; not to be changed, for it may be the ladder's own."""
        info, part = self.tensors[place], self.parts[number][place]
        owner = self.parts[part.of][place]
        flat = owner.values
        if (whole := owner.mask(info.size)) is not None:
            flat = torch.zeros(info.size, dtype=info.dtype).masked_scatter_(whole, flat)
        if part is not owner and (mask := part.mask(info.size)) is not None:
            out = mask.logical_not_()
            flat = flat.masked_fill(out, 0) if whole is None else flat.masked_fill_(out, 0)
        return flat.reshape(info.shape)

    def network(self, number: int) -> tuple[dict[str, Tensor], Masks]:
        """The tensors and the masks of a member, as in its ticket file; not to be changed."""
        state = {info.name: self.tensor(number, place) for place, info in enumerate(self.tensors)}
        masks = {
            info.name: mask.reshape(info.shape)
            for info, part in zip(self.tensors, self.parts[number], strict=True)
            if (mask := part.mask(info.size)) is not None
        }
        return state, masks

    def fitting(self, state: Mapping[str, Tensor]) -> dict[str, int]:
        """By canonical name, which tensor of the ladder each tensor of a network's state is.

        Raises:
            ValueError: Names, dtypes or shapes differ.
        """
        places = {canonical(info.name): place for place, info in enumerate(self.tensors)}
        mine = inside(places, {canonical(name) for name in state})
        kinds = {n: (self.tensors[p].dtype, self.tensors[p].shape) for n, p in mine.items()}
        check_fit(self.path, kinds, state)
        return dict(mine)


class Joining:
    """Tickets become members of a ladder one by one."""

    def __init__(self, tensors: Sequence[TensorInfo]) -> None:
        self.tensors = tuple(tensors)
        self.parts: list[tuple[Part, ...]] = []

    def add(self, state: Mapping[str, Tensor], masks: Masks) -> None:
        """The next member."""
        parts = []
        for place, info in enumerate(self.tensors):
            mask = masks[info.name].reshape(-1) if info.name in masks else None
            flat = state[info.name].detach().cpu().contiguous().reshape(-1)
            values = flat if mask is None else flat[mask]
            parts.append(self._shared(place, mask, values) or Part(_bits(mask), values, len(self.parts)))
        self.parts.append(tuple(parts))

    def _shared(self, place: int, mask: Tensor | None, values: Tensor) -> Part | None:
        """This part by the values of an earlier member that agree with it bit for bit."""
        for number in reversed(range(len(self.parts))):
            theirs = self.parts[number][place]
            if theirs.of != number:
                continue
            chosen = theirs.values
            their_mask = theirs.mask(self.tensors[place].size)
            if their_mask is not None and (mask is None or bool((mask & ~their_mask).any())):
                continue
            if mask is not None:
                chosen = chosen[mask if their_mask is None else mask[their_mask]]
            if _same_bits(chosen, values):
                return Part(_bits(mask), theirs.values, number)
        return None


def of_folder(folder: Path, like: Mapping[str, Tensor] | None) -> JointLadder:
    """Join the tickets that a run wrote to its folder.

    Args:
        folder: With a `ladder.json`.
        like: Names, dtypes and shapes that the tickets must have (`read_ticket`).

    Raises:
        FileNotFoundError: A ticket is gone.
        ValueError: There is no ladder, or a ticket is damaged, does not fit, or is of another network than the first.
    """
    entries = Ladder(folder).entries()
    if not entries:
        raise ValueError(f"{folder} holds no ladder: it has no {LIST}, or nothing is listed there")
    if len(entries) > MOST_MEMBERS:
        raise ValueError(f"{folder} lists {len(entries)} tickets; a joint ladder has at most {MOST_MEMBERS}")
    joining: Joining | None = None
    members = []
    for entry in entries:
        path = folder / entry["file"]
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is gone, which {LIST} lists; put it back, or take its entry out of the list"
            )
        ticket = read_ticket(path, like)
        tensors = [TensorInfo(n, t.dtype, tuple(t.shape), t.dtype, False) for n, t in ticket.state.items()]
        joining = joining or Joining(tensors)
        if list(joining.tensors) != tensors:
            raise ValueError(f"{path} is a ticket of another network than {folder / entries[0]['file']}")
        card = {key: value for key, value in ticket.card.items() if key != "ledger"}
        with damaged(path):
            check_card(card, entry["round"])
        members.append(Member(entry["round"], path.stat().st_size, ticket.sha256, card))
        joining.add(ticket.state, ticket.masks)
    assert joining is not None
    return JointLadder(folder, tuple(members), joining.tensors, tuple(joining.parts))


def check_card(card: Any, number: int) -> None:
    """Refuse a card without the verdict of a round, or with offsets that are none.

    Raises:
        ValueError: It is one.
    """
    row = card.get("verdict") if isinstance(card, dict) else None
    classes = row.get("classes") if isinstance(row, dict) else None
    good = isinstance(classes, dict) and all(
        isinstance(one, dict) and is_recall(one.get("recall")) for one in classes.values()
    )
    if not isinstance(row, dict) or not good or row.get("round") != number:
        raise ValueError(f"its card has no verdict of round {number}")
    offsets = card.get("offsets", {})
    if not isinstance(offsets, dict) or not all(
        type(bias) in (int, float) and math.isfinite(bias) for bias in offsets.values()
    ):
        raise ValueError(f"the card of round {number} has offsets that are no numbers by class")


def _bits(mask: Tensor | None) -> Bits | None:
    return None if mask is None else np.packbits(mask.cpu().numpy())


def _same_bits(a: Tensor, b: Tensor) -> bool:
    # An empty tensor has no bytes to look at.
    return len(a) == len(b) and (not len(a) or torch.equal(a.view(torch.uint8), b.view(torch.uint8)))
