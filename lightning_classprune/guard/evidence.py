"""Evidence: what two networks that decided the same cases differ in, as counts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Evidence:
    """Paired counts of one protected class: dense network and candidate on the same ``support`` positives.

    ValueError where the counts contradict each other.
    """

    support: int
    baseline_missed: int
    newly_missed: int
    newly_found: int

    def __post_init__(self) -> None:
        if min(dataclasses.astuple(self)) < 0 or self.baseline_missed > self.support:
            raise ValueError(f"counts must be >= 0 and baseline_missed at most support, got {self}")
        if self.newly_found > self.baseline_missed:
            raise ValueError(f"newly_found must be at most baseline_missed, got {self}")
        if self.newly_missed > self.support - self.baseline_missed:
            raise ValueError(f"newly_missed must be at most support - baseline_missed, got {self}")

    @property
    def fn(self) -> int:
        """False negatives of the candidate."""
        return self.baseline_missed + self.newly_missed - self.newly_found

    @property
    def recall(self) -> float | None:
        """Recall of the candidate; None without positives."""
        return 1 - self.fn / self.support if self.support else None


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
