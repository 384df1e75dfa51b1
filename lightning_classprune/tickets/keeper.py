"""Keeping: every accepted round of a run goes to its ladder, written by one process, complete for whoever loads it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor, nn

from lightning_classprune.ledger.rows import Row, stands
from lightning_classprune.pruning.masks import Masks
from lightning_classprune.tickets.ladder import Ladder
from lightning_classprune.tickets.ticket import Ticket
from lightning_classprune.tickets.ticket_file import BESIDE
from lightning_classprune.trainer.names import canonical
from lightning_classprune.trainer.processes import Processes
from lightning_classprune.trainer.sharding import Sharding

Rows = Sequence[Row]


class LadderKeeper:
    """Writes the ladder of one run.

    Args:
        folder: Where; None keeps none.
        card: What the cards of the files tell of the run.
        processes: The first one writes, and all learn of its errors.
    """

    def __init__(
        self, folder: str | os.PathLike[str] | None, card: Mapping[str, Any], processes: Processes
    ) -> None:
        self.folder = None if folder is None else os.path.abspath(folder)
        self._of_run = card
        self._processes = processes
        self._begun = False

    def begin(
        self, ledger: Rows, earlier: str | None, ticket: Ticket | None, sharding: Sharding, module: nn.Module
    ) -> None:
        """Bring the folder in line with the ledger of a run that begins or goes on, once; all processes call this.

        Args:
            ledger: Rows so far.
            earlier: The folder that the checkpoint names, which may be another.
            ticket: The last accepted one, which is written if its file is gone.
            sharding: That of the module.
            module: The network.
        """
        if self.folder is None or self._begun:
            return
        self._begun = True
        ladder, accepted = Ladder(self.folder), [row for row in ledger if stands(row)]
        rounds = [row["round"] for row in accepted]

        def clear() -> None:
            ladder.check_usable()
            if not accepted and _same(earlier, self.folder):
                ladder.forget()  # resumed from before its first verdict: it writes the same files again
            elif not ladder.is_of(accepted):
                number, aside = len(ladder.entries()), ladder.set_aside()
                rank_zero_warn(
                    f"ladder: {self.folder} holds {number} tickets of another run, which are kept in {aside}; give "
                    "every run a folder of its own"
                )
            from_there = earlier if earlier is not None and Ladder(earlier).is_of(accepted) else None
            ladder.go_on(rounds, from_there)

        self._processes.on_first(clear)
        entries = ladder.entries() if self._processes.rank == 0 else []
        there = self._processes.first([entry["round"] for entry in entries])
        missing = [r for r in rounds if r not in there]
        if ticket is not None and missing and missing[-1] == rounds[-1]:
            self.keep(ticket, ledger[: ledger.index(accepted[-1]) + 1], sharding, module)
            missing.pop()
        if missing:
            rank_zero_warn(
                f"ladder: the tickets of rounds {missing} are lost: {earlier or self.folder} no longer holds them"
            )

    def keep(self, ticket: Ticket, ledger: Rows, sharding: Sharding, module: nn.Module) -> None:
        """Write the ticket that the ledger's last row accepts, as it is handed over; all processes call this."""
        if self.folder is None:
            return
        ladder, card = Ladder(self.folder), _card(self._of_run, ledger, ticket)
        state, masks = as_saved(module, sharding.saved(ticket.tensors), ticket.masks)
        state |= {f"{BESIDE}{name}": tensor for name, tensor in ticket.beside.items()}
        self._processes.on_first(lambda: ladder.add(ledger[-1], state, masks, card))


def _same(one: str | None, other: str | None) -> bool:
    return one is not None and other is not None and os.path.realpath(one) == os.path.realpath(other)


def as_saved(
    module: nn.Module, tensors: Mapping[str, Tensor], masks: Masks
) -> tuple[dict[str, Tensor], Masks]:
    """What `state_dict()` holds of a capture: both names of tied weights, no buffers that are not persistent."""
    captured = {id(t): canonical(n) for n, t in (*module.named_parameters(), *module.named_buffers())}
    names = {
        canonical(key): captured[id(tensor)]
        for key, tensor in module.state_dict(keep_vars=True).items()
        if id(tensor) in captured
    }
    return (
        {key: tensors[name] for key, name in names.items()},
        {key: masks[name] for key, name in names.items() if name in masks},
    )


def _card(of_run: Mapping[str, Any], ledger: Rows, ticket: Ticket) -> dict[str, Any]:
    # Without how long it took, so that a run that was interrupted leaves the same files.
    rows = [{key: value for key, value in row.items() if key != "seconds"} for row in ledger]
    card = {**of_run, "verdict": rows[-1], "ledger": rows}
    left = {} if ticket.folded_into is not None else {n: bias for n, bias in ticket.offsets.items() if bias}
    # What has to be added to a class' score, because no bias of the network takes it.
    return card | {"offsets": left} if left else card
