"""Loading: a ticket from a file, or from the ladder of a run, into a model that it fits."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor, nn

from lightning_classprune.tickets.ladder import Ladder
from lightning_classprune.tickets.ticket_file import TicketFile, inside, read_ticket
from lightning_classprune.trainer.names import canonical


def load_ticket(
    path: str | os.PathLike[str],
    model: nn.Module,
    *,
    max_bytes: int | None = None,
    min_recall: float | None = None,
) -> TicketFile:
    """Load a packed ticket into a model, in place, and return it with its card.

    A ticket that was judged with decision offsets which none of its biases contains says so in a warning.

    Args:
        path: A ticket file, or a folder with a `ladder.json`, from which one is picked: with `max_bytes` the best
            recall (lowest of the protected classes, on the guard data) that fits, with `min_recall` alone the
            smallest file that has it, with both the best recall that keeps both, with neither the last accepted.
        model: Of the architecture that was saved, on any device; of a LightningModule also the one network in it that
            has these names, such as `module.network`. The ticket that is returned names all as in the file.
        max_bytes: Size of the file, 1 or more.
        min_recall: In [0, 1].

    Raises:
        FileNotFoundError: There is no such path.
        ValueError: The file is damaged, no ticket of the ladder keeps the limits, or the model does not fit; nothing
            is loaded then.
    """
    if not os.fspath(path):
        raise ValueError("path='' names no ticket file and no ladder")
    path = Path(path)
    if path.is_dir():
        path = Ladder(path).pick(max_bytes, min_recall)
    elif max_bytes is not None or min_recall is not None:
        raise ValueError(
            f"max_bytes and min_recall pick from a folder with a ladder.json; {path} is not a folder"
        )
    ticket = fill_from_ticket(path, model)
    warn_of_offsets(path, ticket.card)
    return ticket


def fill_from_ticket(path: str | os.PathLike[str], model: nn.Module) -> TicketFile:
    """As `load_ticket` of a file, for a caller that looks after the offsets itself."""
    mine = {name: t for name, t in model.state_dict().items() if isinstance(t, Tensor)}
    ticket = read_ticket(path, mine)
    names = {canonical(name) for name in mine}
    theirs = inside({canonical(name): tensor for name, tensor in ticket.state.items()}, names)
    model.load_state_dict({name: theirs[canonical(name)] for name in mine}, strict=False)
    return ticket


def in_words(offsets: Mapping[str, float]) -> str:
    """What to add to which class' score."""
    return ", ".join(f"{bias:+.4g} to {name}" for name, bias in offsets.items())


def warn_of_offsets(path: str | os.PathLike[str], card: Any) -> None:
    """Say what is to be added to the scores of a network that was judged with offsets which it does not contain.

    Args:
        path: Its file.
        card: That of the file, which anybody may have written.
    """
    offsets = card.get("offsets") if isinstance(card, Mapping) else None
    told = offsets.items() if isinstance(offsets, Mapping) else ()
    left = {name: bias for name, bias in told if isinstance(bias, int | float) and bias}
    if left:
        rank_zero_warn(
            f"{Path(path).name}: the network was judged with offsets that it does not contain: add {in_words(left)} "
            "before the decision (`offsets` on the card; DecisionOffset does it, or of boxes and instances subtract it "
            "from the score threshold)"
        )
