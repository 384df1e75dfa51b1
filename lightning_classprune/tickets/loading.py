"""Loading: a ticket from a file, or from the ladder of a run, into a model that it fits."""

from __future__ import annotations

import os
from pathlib import Path

from torch import Tensor, nn

from lightning_classprune.tickets.ladder import Ladder
from lightning_classprune.tickets.ticket_file import TicketFile, read_ticket
from lightning_classprune.trainer.names import canonical

_NAMED = 5


def load_ticket(
    path: str | os.PathLike[str],
    model: nn.Module,
    *,
    max_bytes: int | None = None,
    min_recall: float | None = None,
) -> TicketFile:
    """Load a packed ticket into a model, in place, and return it with its card.

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
    path = Path(path)
    if path.is_dir():
        path = Ladder(path).pick(max_bytes, min_recall)
    elif max_bytes is not None or min_recall is not None:
        raise ValueError(
            f"max_bytes and min_recall pick from a folder with a ladder.json; {path} is not a folder"
        )
    ticket = read_ticket(path)
    mine = {name: t for name, t in model.state_dict().items() if isinstance(t, Tensor)}
    names = {canonical(name): tensor for name, tensor in mine.items()}
    theirs = _inside({canonical(name): tensor for name, tensor in ticket.state.items()}, names)
    _check_fit(path, theirs, names)
    model.load_state_dict({name: theirs[canonical(name)] for name in mine}, strict=False)
    return ticket


def _inside(theirs: dict[str, Tensor], mine: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a file holds of the only module in it that has the model's names; all where there is no such module."""
    if not mine or mine.keys() & theirs.keys():
        return theirs
    first = next(iter(mine))
    parts = []
    for prefix in (name.removesuffix(first) for name in theirs if name.endswith(f".{first}")):
        part = {n.removeprefix(prefix): t for n, t in theirs.items() if n.startswith(prefix)}
        parts += [part] if part.keys() == mine.keys() else []
    return parts[0] if len(parts) == 1 else theirs


def _check_fit(path: Path, theirs: dict[str, Tensor], mine: dict[str, Tensor]) -> None:
    found = [f"{name} is missing in the file" for name in mine if name not in theirs]
    found += [f"{name} is missing in the model" for name in theirs if name not in mine]
    found += [
        f"{name} is {_kind(theirs[name])} in the file and {_kind(mine[name])} in the model"
        for name in mine
        if name in theirs and _kind(theirs[name]) != _kind(mine[name])
    ]
    if found:
        more = f"; and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        raise ValueError(f"{path} does not fit the model: {'; '.join(found[:_NAMED])}{more}")


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
