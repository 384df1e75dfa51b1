"""Shrinking: how much of a mask is gone at which moment of a round, and when it is cut; pure functions of progress.

The kept units fall along the cubic of Zhu & Gupta 2017 (arXiv 1710.01878), fast at first and slowly towards the end:
from the last accepted network's to the candidate's. Progress is the share of the round that is done, so that a round
that starts at a rewind point counts what is left from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any

#: Optimizer steps from one cut to the next, if the round then has cuts enough and not too many...
EVERY = 20
#: ... between these: an exact selection costs about a step's time.
FEWEST_CUTS, MOST_CUTS = 48, 200
#: One step more between cuts for each so many units, of which a selection takes a good part of a second.
MANY = 5_000_000
#: Optimizer steps before the first cut, in which a criterion hears its first gradients...
FIRST = 24
#: ... but no more than this share of the shrinking.
FIRST_SHARE = 1 / 8


@dataclass(frozen=True)
class Shrinking:
    """One round's.

    Attributes:
        start: Units pruned when the round begins.
        end: Units pruned in its candidate.
        begin: Progress up to which nothing is cut, in [0, share).
        share: Progress at which the mask is that of the candidate, in (0, 1).
        every: Optimizer steps from one cut to the next.
    """

    start: int
    end: int
    begin: float
    share: float
    every: int

    @classmethod
    def of_round(cls, start: int, end: int, share: float, steps: int, total: int) -> Shrinking:
        """That of a round of so many optimizer steps.

        Args:
            start: Units pruned when it begins.
            end: Units pruned in its candidate.
            share: Of the round, over which the mask shrinks.
            steps: Of the round.
            total: Units that there are.
        """
        shrinking = max(int(share * steps), 1)
        every = max(min(shrinking // FEWEST_CUTS, EVERY), shrinking // MOST_CUTS, total // MANY, 1)
        return cls(start, end, share * min(FIRST / shrinking, FIRST_SHARE), share, every)

    def pruned(self, progress: float) -> int:
        """Units that are to be pruned at that moment.

        Args:
            progress: Share of the round that is done, in [0, 1].
        """
        if progress >= self.share:
            return self.end
        left = min(1 - (progress - self.begin) / (self.share - self.begin), 1.0)
        return self.end - ceil((self.end - self.start) * left**3)

    def is_due(self, progress: float, steps: int) -> bool:
        """Whether the mask is to be cut now.

        Args:
            progress: Share of the round that is done, in [0, 1].
            steps: Optimizer steps since the last cut, or since the round began.
        """
        return steps >= (1 if progress >= self.share else self.every)

    def state_dict(self) -> dict[str, Any]:
        """Primitives only."""
        return asdict(self)

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Shrinking:
        """What `state_dict` stored."""
        return cls(**state)
