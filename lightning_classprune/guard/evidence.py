"""Evidence: what two networks that decided the same cases differ in, as counts."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Inside:
    """What was counted inside the units of which evidence speaks: objects, or samples of one patient.

    Attributes:
        cases: How many there are; of predictions that match nothing 0, for there are no cases to count.
        before: Wrong under the dense network.
        new: Wrong under the candidate only; of predictions how many more there are, over the units that have more.
        gone: Wrong under the dense network only; likewise.
        noun: What they are called.
        how: How a unit's cases became its evidence, in words.
        rule: When an object counts as found, in words; None where that is a matter of classes alone.
    """

    cases: int
    before: int
    new: int
    gone: int
    noun: str
    how: str
    rule: str | None = None

    @property
    def now(self) -> int:
        """Wrong under the candidate."""
        return self.before + self.new - self.gone


@dataclass(frozen=True)
class Evidence:
    """Paired counts of one protected class: dense network and candidate on the same ``support`` positives.

    Where these are units with several cases each, ``inside`` tells of the cases. ``wrong`` is the candidate's number
    of units with false alarms where a unit counts as newly wrong because it has more of them. ``rises`` are the units'
    mean rises, in [-1, 1], where the test is on these. ValueError where the counts contradict each other.
    """

    support: int
    baseline_missed: int
    newly_missed: int
    newly_found: int
    wrong: int | None = None
    inside: Inside | None = None
    rises: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        counts = (self.support, self.baseline_missed, self.newly_missed, self.newly_found)
        if min(counts) < 0 or self.baseline_missed > self.support:
            raise ValueError(f"counts must be >= 0 and baseline_missed at most support, got {self}")
        if self.newly_found > self.baseline_missed:
            raise ValueError(f"newly_found must be at most baseline_missed, got {self}")
        room = self.support - (self.baseline_missed if self.wrong is None else self.newly_found)
        if self.newly_missed > room:
            raise ValueError(f"newly_missed must be at most support - baseline_missed, got {self}")

    @property
    def fn(self) -> int:
        """False negatives of the candidate; units with false alarms where these were counted."""
        if self.wrong is not None:
            return self.wrong
        return self.baseline_missed + self.newly_missed - self.newly_found

    @property
    def recall(self) -> float | None:
        """Recall of the candidate; None without positives."""
        return 1 - self.fn / self.support if self.support else None

    @property
    def noun(self) -> str:
        """What the positives are called."""
        return "positives" if self.inside is None else "units"

    @property
    def cases(self) -> tuple[int, int]:
        """The candidate's wrong cases and all cases, inside the units where there are such."""
        return (self.fn, self.support) if self.inside is None else (self.inside.now, self.inside.cases)


def paired(cases: Tensor, before: Tensor, now: Tensor) -> Evidence:
    """Counts of what was missed among some cases, under the dense network and under the candidate.

    Args:
        cases: `(n,)` booleans: which cases count.
        before: `(n,)` booleans: which of them the dense network decided well.
        now: The same of the candidate.
    """
    return Evidence(
        support=int(cases.sum()),
        baseline_missed=int((cases & ~before).sum()),
        newly_missed=int((cases & before & ~now).sum()),
        newly_found=int((cases & ~before & now).sum()),
    )
