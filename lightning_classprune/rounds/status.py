"""Status: where a run stands while it runs, for a person who watches; and the one line that says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean

from lightning_classprune.guard.error_budget import ErrorBudget
from lightning_classprune.guard.protected import Protected
from lightning_classprune.ledger.rows import Row, dense_row
from lightning_classprune.rounds.plan import Plan, RoundState, after_verdict
from lightning_classprune.trainer.horizon import Horizon

_COUNTED = 10_000  # rounds; beyond, nobody waits for the end


@dataclass(frozen=True)
class ClassStatus:
    """One protected class.

    Attributes:
        name: The class.
        recall: Recall in the round's last validation, 0..1; None before there is one.
        dense: Recall of the dense network on the guard data, 0..1; None before it was judged.
        tolerance: Allowed rise of the FN rate, 0..1; None before the dense network was judged.
        dense_alarms: False-alarm rate of the dense network on the guard data, 0..1; None before it was judged.
        max_fp_rise: Allowed rise of the false-alarm rate, 0..1; None where it is not guarded.
    """

    name: str
    recall: float | None
    dense: float | None
    tolerance: float | None
    dense_alarms: float | None = None
    max_fp_rise: float | None = None


@dataclass(frozen=True)
class Status:
    """Where a run stands.

    Attributes:
        round: Round in training; 0 is dense.
        attempt: Attempt at it, from 1.
        sparsity: Pruned share of the prunable weights in this round, 0..1; at its end, where its mask shrinks.
        unit: What the round's length is counted in, `"epoch"` or `"step"`.
        done: Whole units that the round has behind it.
        length: Units of the round; None where only EarlyStopping ends it.
        classes: The protected classes.
        level: Error level of the next test; None under the point rule, or when no test is left.
        tests_left: Tests that the run can still come to, at most.
        retries_left: Refusals that it can still survive.
        epochs_left: Of `max_total_epochs`; None without it.
        seconds_left: To the end if every round is accepted and takes as long as the rounds so far; None if unknown.
        kept: Candidates that wait for the guard; None where it judges each round.
        shrunk: Pruned share so far, 0..1, while the round's mask shrinks; None otherwise.
    """

    round: int
    attempt: int
    sparsity: float
    unit: str
    done: int
    length: int | None
    classes: tuple[ClassStatus, ...]
    level: float | None
    tests_left: int
    retries_left: int
    epochs_left: int | None
    seconds_left: float | None
    kept: int | None = None
    shrunk: float | None = None


def status(
    *,
    plan: Plan,
    state: RoundState,
    horizon: Horizon,
    epochs: int,
    steps: int,
    share: float,
    budget: ErrorBudget,
    protected: Sequence[Protected],
    judges_once: bool,
    recall: Mapping[str, float],
    rows: Sequence[Row],
    seconds: float,
    max_total_epochs: int | None,
    shrunk: int | None = None,
) -> Status:
    """Put together what a person wants to know.

    Args:
        plan: Of the run.
        state: Of the round in training.
        horizon: Where the round started and how long it may be.
        epochs: Epochs that the loop has processed, over all rounds.
        steps: Optimizer steps taken, over all rounds.
        share: Of the epoch in training that is done, 0..1.
        budget: What is left of the error level.
        protected: The protected classes.
        judges_once: The guard looks at the end of the run only.
        recall: By protected class, from the round's last validation; without those that are not known.
        rows: The ledger so far.
        seconds: That the present round has taken so far.
        max_total_epochs: Limit to the epochs of all rounds.
        shrunk: Units that the mask of the round in training prunes, if it shrinks.
    """
    in_epochs = horizon.epochs != -1 or horizon.steps == -1
    length = horizon.epochs if in_epochs else horizon.steps
    exhausted = budget.exhausted
    return Status(
        round=state.round,
        attempt=state.attempt,
        sparsity=state.candidate / plan.total,
        unit="epoch" if in_epochs else "step",
        done=epochs - horizon.start_epoch if in_epochs else steps - horizon.start_step,
        length=None if length == -1 else length,
        classes=tuple(_class_status(one, recall.get(one.name), rows) for one in protected),
        level=None if exhausted else budget.level(),
        tests_left=0 if exhausted else budget.max_tests - budget.tests,
        retries_left=max(budget.retries - budget.refusals, 0),
        epochs_left=None if max_total_epochs is None else max(max_total_epochs - epochs, 0),
        seconds_left=_seconds_left(plan, state, rows, seconds, horizon.progress(epochs + share, steps)),
        kept=sum(row["verdict"] == "kept" for row in rows) if judges_once else None,
        shrunk=None if shrunk is None else shrunk / plan.total,
    )


@lru_cache(maxsize=16)
def rounds_after(plan: Plan, state: RoundState) -> int | None:
    """Rounds after the present one if all are accepted; None above 10,000."""
    for count in range(_COUNTED):
        state = after_verdict(plan, state, accepted=True)
        if state.finished is not None:
            return count
    return None


def _class_status(one: Protected, recall: float | None, rows: Sequence[Row]) -> ClassStatus:
    dense = dense_row(rows)
    counts = dense["classes"].get(one.name) if dense is not None else None
    if not counts or not counts["support"]:
        return ClassStatus(one.name, recall, None, None, None, one.max_fp_rise)
    return ClassStatus(
        one.name,
        recall,
        counts["recall"],
        one.tolerance.rise(counts["support"], counts["fn"]),
        counts["fp"] / counts["negatives"] if counts["negatives"] else None,
        one.max_fp_rise,
    )


def _seconds_left(
    plan: Plan, state: RoundState, rows: Sequence[Row], seconds: float, progress: float
) -> float | None:
    if state.finished is not None:
        return 0.0
    # With baseline="current" the dense network was judged and not trained.
    times = [row["seconds"] for row in rows if row["epochs"] or row["verdict"] != "baseline"]
    following = rounds_after(plan, state)
    if following is None or not (times or progress):
        return None
    mean = fmean(times) if times else seconds / progress
    return max(mean - seconds, 0.0) + following * mean
