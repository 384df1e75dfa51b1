"""Recording: every attempted round becomes one row of the ledger, one message, and numbers for the loggers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_info

from lightning_classprune.guard.judge import Judge
from lightning_classprune.guard.task import Outcomes
from lightning_classprune.guard.verdict import Verdict
from lightning_classprune.ledger.logged_figure import log_figure
from lightning_classprune.ledger.rows import (
    FileVerdict,
    Row,
    abandoned_row,
    baseline_row,
    delivered_row,
    kept_row,
    round_metrics,
    verdict_row,
)
from lightning_classprune.trainer.metrics import publish


class Recorder:
    """Writes the ledger of one run.

    Args:
        trainer: Its loggers get the numbers.

    Attributes:
        rows: The ledger so far.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self.rows: list[Row] = []

    def judged(
        self,
        facts: Mapping[str, Any],
        outcomes: Outcomes | None,
        verdict: Verdict | None,
        judge: Judge,
        why: str,
        offsets: Mapping[str, float],
        chance: Mapping[str, float],
    ) -> None:
        """A network was judged.

        Args:
            facts: What is known of the attempt without judging it; see `rows.baseline_row`.
            outcomes: What it decided; None if its scores were NaN.
            verdict: None for the dense network.
            judge: Who judged it.
            why: What there is to say of the dense network.
            offsets: The candidate's decision offsets, by class.
            chance: What validation data said of it, by class.
        """
        protected = [one.name for one in judge.protected]
        if verdict is None:
            row = baseline_row(facts, outcomes, protected, why)
        else:
            row = verdict_row(facts, outcomes, judge.dense, verdict, offsets, chance)
        self._add(row, judge)

    def kept(self, facts: Mapping[str, Any], reason: str, judge: Judge) -> None:
        """A candidate is to be judged at the end; arguments as for `judged`."""
        self._add(kept_row(facts, reason), judge)

    def judged_at_the_end(
        self,
        place: int,
        outcomes: Outcomes | None,
        verdict: Verdict,
        judge: Judge,
        offsets: Mapping[str, float],
        chance: Mapping[str, float],
        files: Mapping[str, FileVerdict],
    ) -> None:
        """A candidate that was kept has its verdict; its row takes the place of the one before.

        Args:
            place: Of its row.
            outcomes: As the others for `judged`.
            verdict: Its verdict.
            judge: Who judged it.
            offsets: Its decision offsets.
            chance: What validation data said of it.
            files: What is said of its files, by kind.
        """
        row = verdict_row(self.rows[place], outcomes, judge.dense, verdict, offsets, chance)
        if files:
            row["files"] = dict(files)
        self.rows[place] = row
        self._tell(row, judge)
        for kind, one in files.items():
            rank_zero_info(f"round {row['round']}, {kind} file: {one['verdict']}: {one['reason']}")

    def abandoned(self, facts: Mapping[str, Any], reason: str, judge: Judge) -> None:
        """A candidate was given up without a test; arguments as for `judged`."""
        self._add(abandoned_row(facts, reason), judge)

    def gives_way(self, place: int, reason: str) -> None:
        """A candidate that was kept is not judged; its row says why, in the place of the one before."""
        self.rows[place] = abandoned_row(self.rows[place], reason)

    def _add(self, row: Row, judge: Judge) -> None:
        self.rows.append(row)
        self._tell(row, judge)

    def _tell(self, row: Row, judge: Judge) -> None:
        rank_zero_info(
            f"round {row['round']}: sparsity {row['sparsity']:.2%}, {row['verdict']}: {row['reason']}"
        )
        metrics = round_metrics(row, judge.budget)
        publish(self._trainer, metrics)
        if judge.evaluator.processes.rank == 0:
            # The step at which Lightning logs the end of this epoch: some loggers drop what goes back.
            step = max(self._trainer.fit_loop.epoch_loop._batches_that_stepped - 1, 0)
            for logger in self._trainer.loggers:
                logger.log_metrics(metrics, step=step)
            log_figure(self._trainer.loggers, self.rows, step)

    def tell_delivered(self, judge: Judge) -> None:
        """Leave the numbers of the network that is handed over where those of the last round are."""
        if (row := delivered_row(self.rows)) is not None:
            publish(self._trainer, round_metrics(row, judge.budget))

    def state_dict(self) -> list[Row]:
        """Copies of the rows."""
        return [row.copy() for row in self.rows]

    def load_state_dict(self, rows: list[Row]) -> None:
        """Take back what `state_dict` returned."""
        self.rows = [row.copy() for row in rows]
