"""Classes that nobody protects: what the delivered network misses of them, which no verdict sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_classprune.job.final_test import Answers
from lightning_classprune.job.scores_file import AnyAnswers, Scores
from lightning_classprune.ledger.rows import Row

ARROW = "\N{RIGHTWARDS ARROW}"


@dataclass(frozen=True)
class Lost:
    """Misses of one class among its cases in the guard.

    Attributes:
        name: Of the class.
        dense: Missed by the dense network.
        delivered: By the delivered one.
        cases: Of the class; 1 or more.
    """

    name: str
    dense: int
    delivered: int
    cases: int

    @property
    def rise(self) -> float:
        """Of the miss rate, in [-1, 1]."""
        return (self.delivered - self.dense) / self.cases

    @property
    def in_words(self) -> str:
        """Both counts."""
        return f"{self.name} missed {self.dense} {ARROW} {self.delivered} of {self.cases}"


def names_of(names: Sequence[str], protected: Sequence[int], told_by: str | None) -> list[str]:
    """The classes that nobody protects, whose misses no verdict sees.

    Of two classes none: what is missed of the other one are the false alarms.

    Args:
        names: Of all classes.
        protected: Indices of the protected ones.
        told_by: What tells objects, whose class 0 is the background; None where samples have a class.
    """
    if told_by is None and len(names) == 2:
        return []
    first = 0 if told_by is None else 1
    return [name for index, name in enumerate(names) if index >= first and index not in protected]


def warning_before(names: Sequence[str]) -> str:
    """What is said before training of classes that nobody protects."""
    listed = ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return (
        f"nobody protects {listed}: a pruned network may lose such a class, and no verdict looks at it; name each that "
        "matters in protect"
    )


def lost(scores: Scores, protected: Sequence[str]) -> list[Lost]:
    """Of every class that nobody protects and of which the guard has cases; the largest rise first.

    Args:
        scores: What both networks say.
        protected: Names of the protected classes.
    """
    guard = scores.get("guard", {})
    if not guard.keys() >= {"dense", "delivered"}:
        return []
    before, now = _misses(guard["dense"], protected), _misses(guard["delivered"], protected)
    found = [Lost(name, missed, now[name][0], cases) for name, (missed, cases) in before.items() if cases]
    return sorted(found, key=lambda one: -one.rise)


def _misses(answers: AnyAnswers, protected: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Class -> missed, and cases."""
    if not isinstance(answers, Answers):
        return dict(answers.others)
    decisions = answers.decisions
    if decisions.target.ndim == 1 and decisions.num_classes == 2:
        return {}
    return {
        name: (fn, cases)
        for name, (*_, fn, cases) in zip(decisions.names, decisions.counts().tolist(), strict=True)
        if name not in protected
    }


def warnings_of(losses: Sequence[Lost], final: Row | None) -> list[str]:
    """A sentence for every class whose miss rate rose by more than that of any protected class may.

    Args:
        losses: What `lost` returned.
        final: The row of the delivered network.
    """
    allowed = [] if final is None else [one["tolerance"] or 0.0 for one in final["classes"].values()]
    limit = max(allowed, default=0.0)
    return [
        f"Nobody protects {one.name!r}: {one.in_words} of the guard, {100 * one.rise:.0f} points more, where protected "
        f"classes may rise by {100 * limit:.3g}; name it in protect if it matters."
        for one in losses
        if one.rise > limit
    ]
