"""Delivery: the last accepted ticket, and how it leaves the run - to the module, its checkpoints and the ladder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lightning_classprune.ledger.rows import Row, delivered_row, stands
from lightning_classprune.rounds.handover import Handover
from lightning_classprune.tickets.keeper import LadderKeeper
from lightning_classprune.tickets.ticket import Ticket, pack_ticket
from lightning_classprune.trainer.forward import PreparedPredict
from lightning_classprune.trainer.other_callbacks import OtherCallbacks
from lightning_classprune.trainer.snapshots import TrainingState, restore_tensors, restore_training


@dataclass(kw_only=True)
class Delivery:
    """What one run has to give.

    Attributes:
        handover: How tickets leave the run.
        other_callbacks: Those that save the module, or an average of it.
        ladder: Keeps every accepted ticket.
        earlier_ladder: Its folder in the checkpoint that is resumed.
        accepted: The last accepted ticket; None before the first verdict.
        is_handed_over: The module holds it as it leaves the run.
    """

    handover: Handover
    other_callbacks: OtherCallbacks
    ladder: LadderKeeper
    earlier_ladder: str | None = None
    accepted: Ticket | None = None
    is_handed_over: bool = False

    def __post_init__(self) -> None:
        self._saved: tuple[Ticket | None, dict[str, Any] | None] = (None, None)

    def saved(self, *, with_training: bool) -> dict[str, Any] | None:
        """The accepted ticket for a checkpoint, put together once; all processes call this.

        Args:
            with_training: Rounds go on from what trained it.
        """
        if self._saved[0] is not self.accepted:
            self._saved = (
                self.accepted,
                pack_ticket(self.accepted, self.handover.sharding, with_training=with_training),
            )
        return self._saved[1]

    def put_in(self) -> None:
        """Put the accepted ticket into the module, bit for bit as it was judged."""
        assert self.accepted is not None
        self.is_handed_over = True
        restore_tensors(self.handover.module, self.handover.tensors(self.accepted))
        predict = self.handover.evaluator.predict
        if isinstance(predict, PreparedPredict):
            predict.restore(self.accepted.beside)
        # A checkpoint takes the average for the model, and this is what it is to find.
        self.other_callbacks.averaging.restart(self.handover.module)

    def save_again(self, fresh: TrainingState) -> None:
        """The last round was refused: let the `last` checkpoints hold the accepted ticket and its training state.

        Args:
            fresh: Training state of a ticket that has none of its own.
        """
        assert self.accepted is not None
        restore_training(self.handover.trainer, self.accepted.training or fresh)
        self.other_callbacks.early_stopping.restore(self.accepted.stopping)
        self.other_callbacks.checkpoints.save_delivered(self.handover.trainer)

    def seal(self, rows: Sequence[Row], *, was_judged: bool) -> None:
        """After ModelCheckpoint has had its epoch end: make what it tracks agree with the verdict.

        Args:
            rows: The ledger.
            was_judged: The guard was opened for the candidates that were kept.
        """
        if not rows:
            return
        row = (delivered_row(rows) if was_judged else None) or rows[-1]
        kept = row["verdict"] == "kept"
        self.other_callbacks.checkpoints.seal(
            self.handover.trainer,
            row["round"],
            stands=kept or stands(row),
            label="kept" if kept else "accepted",
        )

    # -- the ladder --

    def begin_ladder(self, rows: list[Row]) -> None:
        """Bring the ladder's folder in line with the ledger, once."""
        handover = self.handover
        self.ladder.begin(rows, self.earlier_ladder, self._handed_over(), handover.sharding, handover.module)

    def to_ladder(self, rows: list[Row]) -> None:
        """Give the accepted ticket, of the last of these rows, to the ladder as it is handed over."""
        ticket = self._handed_over()
        assert ticket is not None
        self.ladder.keep(ticket, rows, self.handover.sharding, self.handover.module)

    def _handed_over(self) -> Ticket | None:
        """The accepted ticket with the tensors that leave the run."""
        if self.accepted is None:
            return None
        return replace(self.accepted, tensors=self.handover.tensors(self.accepted))

    # -- the offsets --

    def offsets(self, names: Iterable[str]) -> dict[str, float]:
        """Bias to add to a class' score that the network which would be handed over does not contain, by class."""
        left = self.handover.left(self.accepted)
        return {name: left.get(name, 0.0) for name in names}

    def offsets_beside(self) -> dict[str, float]:
        """The offsets of the accepted ticket that the module, if it holds that ticket, does not contain."""
        if self.accepted is None or self.is_handed_over:
            return self.handover.left(self.accepted)
        return dict(self.accepted.offsets)
