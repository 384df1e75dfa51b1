"""The dense and the delivered network side by side: misses, false alarms and the order of their scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from lightning_classprune.job.final_test import Answers
from lightning_classprune.job.measures import auc, exact_interval, missed_at
from lightning_classprune.job.objects.answers import ObjectAnswers
from lightning_classprune.job.scores_file import AnyAnswers, Scores

#: False-alarm rates at which the misses are told.
RATES = (0.01, 0.05, 0.10)
SPLITS = ("guard", "test")
NETWORKS = ("dense", "delivered")


@dataclass(frozen=True)
class Rate:
    """A count of cases, with its exact interval at 95% confidence, None without cases."""

    count: int
    cases: int
    interval: tuple[float, float] | None

    @property
    def share(self) -> float | None:
        """In [0, 1]; None without cases."""
        return self.count / self.cases if self.cases else None


@dataclass(frozen=True)
class Line:
    """One measure, as tables show it.

    Attributes:
        what: What it is called.
        value: A number of things, a share, or a count of cases; None where it is not known.
        short: What the terminal's table calls it; None: it is not there.
        is_alarm: It is of false alarms.
    """

    what: str
    value: Rate | float | int | None
    short: str | None = None
    is_alarm: bool = False


@dataclass(frozen=True)
class Measures:
    """One network and one class on one split.

    Attributes:
        missed: Of the class' samples.
        alarms: Of the others.
        auc: Area under the ROC curve; None where the split has only one kind.
        missed_at: False-alarm rate -> the fewest misses at a threshold that keeps it; None as `auc`.
    """

    missed: Rate
    alarms: Rate
    auc: float | None
    missed_at: dict[float, int | None]

    @property
    def lines(self) -> list[Line]:
        """All of them."""
        at = [
            Line(
                f"Missed at {100 * rate:.0f}% false alarms",
                None if missed is None else Rate(missed, self.missed.cases, None),
            )
            for rate, missed in self.missed_at.items()
        ]
        return [
            Line("Missed", self.missed, "missed"),
            Line("False alarms", self.alarms, "false alarms", is_alarm=True),
            Line("Area under the ROC curve", self.auc, "AUC"),
            *at,
        ]


@dataclass(frozen=True)
class ObjectMeasures:
    """One network and one class of objects on one split.

    Attributes:
        objects: Missed, of all; without an interval, for those of a unit go together.
        unmatched: Predictions that match none.
        missed: Units that count as missed, as the guard counts them.
        alarms: Units with unmatched predictions.
    """

    objects: Rate
    unmatched: int
    missed: Rate
    alarms: Rate

    @property
    def lines(self) -> list[Line]:
        """All of them."""
        return [
            Line("Missed objects", self.objects, "missed objects"),
            Line("Unmatched predictions", self.unmatched, "unmatched", is_alarm=True),
            Line("Units that count as missed", self.missed, "missed units"),
            Line("Units with unmatched predictions", self.alarms, is_alarm=True),
        ]


AnyMeasures: TypeAlias = Measures | ObjectMeasures


def class_measures(tested: Answers, name: str) -> Measures:
    """What a network does with one class of samples.

    Args:
        tested: What it says of a split.
        name: Of a protected class.
    """
    missed, alarms = tested.decisions.pairs(tested.decisions, name)
    margins = tested.margins[name].double().numpy()
    positive = tested.decisions.found(tested.decisions.names.index(name))[0].numpy()
    return Measures(
        Rate(missed.fn, missed.support, exact_interval(missed.fn, missed.support)),
        Rate(alarms.fn, alarms.support, exact_interval(alarms.fn, alarms.support)),
        auc(margins, positive),
        {rate: missed_at(margins, positive, rate) for rate in RATES},
    )


def object_measures(tested: ObjectAnswers, name: str) -> ObjectMeasures:
    """What a network does with one class of objects.

    Args:
        tested: What it finds in a split.
        name: Of a protected class.
    """
    found, alarms = tested.found.pairs(tested.found, name)
    missed, objects = found.cases
    return ObjectMeasures(
        Rate(missed, objects, None),
        alarms.cases[0],
        Rate(found.fn, found.support, exact_interval(found.fn, found.support)),
        Rate(alarms.fn, alarms.support, exact_interval(alarms.fn, alarms.support)),
    )


def measures(tested: AnyAnswers, name: str) -> AnyMeasures:
    """What a network does with one class; see the two above."""
    if isinstance(tested, ObjectAnswers):
        return object_measures(tested, name)
    return class_measures(tested, name)


def compared(scores: Scores, protected: Sequence[str]) -> dict[str, dict[str, dict[str, AnyMeasures]]]:
    """Protected class -> split -> network -> its measures, as far as they are known."""
    return {
        name: {
            split: {
                network: measures(scores[split][network], name)
                for network in NETWORKS
                if network in scores[split]
            }
            for split in SPLITS
            if split in scores
        }
        for name in protected
    }
