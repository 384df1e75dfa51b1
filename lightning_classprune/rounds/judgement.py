"""The judgement: the guard looks once, at the end of a run, at all candidates that were kept.

During the run a step is accepted, refused and rolled back on validation evidence. The candidates and their number are
functions of data that are not the guard's, so, given these, Holm's procedure bounds the probability that any harmful
one of them is accepted by alpha (`guard.holm`), whatever they have in common. That takes two things: the number is
fixed before the guard is opened, and the guard is opened once. Hence a judged run is neither extended nor resumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_classprune.guard.holm import accepted_by_holm
from lightning_classprune.guard.judge import Judge
from lightning_classprune.guard.task import Outcomes
from lightning_classprune.guard.verdict import Verdict


@dataclass(frozen=True)
class Judged:
    """What was said of one candidate.

    Attributes:
        outcomes: What it decided; None if its scores were NaN.
        verdict: At the level that Holm's procedure tested it at.
    """

    outcomes: Outcomes | None
    verdict: Verdict


def judge_once(judge: Judge, seen: Sequence[Outcomes | None], alpha: float) -> list[Judged]:
    """The verdicts on all candidates together, at one error level.

    Args:
        judge: Knows the dense network's outcomes.
        seen: What each candidate decided on the guard data, in any order.
        alpha: Error level of the run.
    """
    p_values = [judge.verdict_at(outcomes, alpha).largest_p for outcomes in seen]
    accepted = accepted_by_holm(p_values, alpha)
    # Accepted ones have their own level; all others are tested at the level at which the procedure stopped.
    order = sorted(range(len(seen)), key=lambda i: p_values[i])
    levels = {i: alpha / (len(seen) - min(rank, sum(accepted))) for rank, i in enumerate(order)}
    return [Judged(outcomes, judge.verdict_at(outcomes, levels[i])) for i, outcomes in enumerate(seen)]
