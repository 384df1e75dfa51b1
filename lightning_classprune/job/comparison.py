"""The dense and the delivered network side by side: misses, false alarms and the order of their scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_classprune.job.final_test import Answers
from lightning_classprune.job.measures import auc, exact_interval, missed_at
from lightning_classprune.job.scores_file import Scores

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


def measures(tested: Answers, name: str) -> Measures:
    """What a network does with one class.

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


def compared(scores: Scores, protected: Sequence[str]) -> dict[str, dict[str, dict[str, Measures]]]:
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
