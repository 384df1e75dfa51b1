"""Schedules: from what is known so far to the number of units that the next candidate prunes; pure functions.

The fixed schedule takes the same share of the remaining units each round. The adaptive one asks validation data how
far the last accepted network can be pruned *without* retraining, and goes beyond that by what retraining recovers. The
gradual one goes through a list of densities.

**Why the guard's error level holds.** A next candidate depends on training and validation data, on the random numbers
of training, on how many positives the guard has (their labels, given which every test has its level), and on the
*pattern* of verdicts (stood or did not stand), never on a p-value or on what a network makes of a guard sample.
Condition on training data, validation data, guard labels and random numbers: the guard's samples are independent of
the first and the last, and draws from their classes given the labels, so its tests keep their levels, and every
candidate is a fixed function of the pattern before it.

* Without retries the first refusal ends the run, so the only pattern after which there is a next test is "all were
  accepted": the candidates are one fixed sequence t_1, t_2, ... . A false acceptance needs t_j, the first harmful one,
  to be accepted. Which one that is does not depend on the guard data, and its one test errs with probability <= alpha.
* With retries, the positions of the refusals say what all candidates were. `ErrorBudget` sums its levels over the
  patterns that can be reached with at most R refusals in M tests, which uses nothing else; M is
  `rounds.largest_number_of_tests`, known before the first test, because every accepted step prunes `smallest` of what
  remains or comes to the target.
* A candidate that is abandoned is never tested. Whether it is depends on validation data, so abandoning only removes
  candidates from the sequence. Ending a run (an epoch budget, a time limit) removes tests and adds none.

**Why not by the guard's own p-value** ("a large step while it leaves room"). It would pick the next candidate out of m
by the data that then judge it: each of the m may be the first harmful one on some guard data, and the error is only
bounded by m alpha. The same question, how much room there is, is answered by validation data at no cost in level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor, isqrt


@dataclass(frozen=True)
class AdaptiveSteps:
    """Steps by validation evidence. All shares are of the units that are kept.

    The defaults were chosen on validation data of two small image sets, with rewinding of the learning rate. No
    guarantee rests on them.

    Attributes:
        to_try: Shares of the accepted network's units that are tried without retraining, downwards.
        first: Share of what holds without retraining that the first candidate keeps: what a retraining recovers.
        later: The same after the first.
        deepest: The least share that a step keeps, for what holds without retraining says little of what retraining
            cannot recover.
        smallest: The least share that a step prunes; a shorter one is not worth a training.
        abandons: Candidates that may be abandoned; with one more the run ends.
    """

    to_try: tuple[Fraction, ...] = tuple(
        Fraction(n, 100) for n in (80, 60, 50, 40, 30, 25, 20, 15, 12, 9, 6, 4, 3, 2, 1)
    )
    first: Fraction = Fraction(1, 20)
    later: Fraction = Fraction(1, 3)
    deepest: Fraction = Fraction(1, 40)
    smallest: Fraction = Fraction(1, 5)
    abandons: int = 3

    def densities_to_try(self, total: int, accepted: int, target: int) -> list[int]:
        """Pruned units at which the accepted network is tried without retraining, ascending, up to the target."""
        kept = total - accepted
        tried = {min(total - ceil(kept * share), target) for share in self.to_try}
        return sorted(pruned for pruned in tried if pruned > accepted)

    def after_acceptance(self, total: int, target: int, accepted: int, reach: int, *, first: bool) -> int:
        """Units that the next candidate prunes. What failed before does not bind it: it starts from other weights.

        Args:
            total: Prunable units.
            target: Units to be pruned in the end, more than `accepted`.
            accepted: Units pruned in the accepted network.
            reach: Units up to which the accepted network can be pruned without retraining, by validation data.
            first: Whether the accepted network is the dense one.
        """
        kept = total - accepted
        wanted = int(max((total - reach) * (self.first if first else self.later), kept * self.deepest))
        return min(total - min(wanted, self._most(kept)), target)

    def after_failure(self, total: int, target: int, accepted: int, failed: int) -> int | None:
        """As `after_acceptance`, for a candidate that was refused or abandoned: half-way back, in ratios of density.

        Args:
            total: Prunable units.
            target: Units to be pruned in the end.
            accepted: Units pruned in the last accepted network.
            failed: Units pruned in the candidate.

        Returns:
            None if the step is too small to be worth a round.
        """
        return _half_way_back(total, target, accepted, failed, self.smallest)

    def _most(self, kept: int) -> int:
        return _most(kept, self.smallest)

    def most_accepted(self, total: int, target: int) -> int:
        """The most rounds that can be accepted before the target is reached."""
        kept, rounds = total, 0
        while total - kept < target:
            kept, rounds = self._most(kept), rounds + 1
        return rounds


#: Steps where the guard looks once, at the end: a candidate that fails there is followed by none, so that several of
#: all densities are to wait for it, each an easy step from the one before.
TOWARDS_A_JUDGEMENT = AdaptiveSteps(first=Fraction(1, 3), deepest=Fraction(1, 6))


@dataclass(frozen=True)
class ListedSteps:
    """Steps to densities that were listed before the run.

    A candidate that fails is followed by one half-way back, in ratios of density; once that stands, the listed density
    is tried again, from a network that is nearer to it.

    Attributes:
        pruned: Units that the candidates prune, ascending, the last one at the target.
        abandons: Candidates that may be abandoned; with one more the run ends. One, for validation data that say no
            twice say so of all that is sparser.
        smallest: As `AdaptiveSteps.smallest`.
    """

    pruned: tuple[int, ...]
    abandons: int = 1
    smallest: Fraction = AdaptiveSteps.smallest

    @classmethod
    def to(cls, densities: Sequence[float], total: int, target: int) -> ListedSteps:
        """The listed densities above that of the target, then the target.

        Args:
            densities: In (0, 1).
            total: Prunable units.
            target: Units to be pruned in the end.
        """
        listed = {total - floor(total * Fraction(str(density))) for density in densities}
        return cls((*sorted(pruned for pruned in listed if pruned < target), target))

    def after_acceptance(self, accepted: int) -> int:
        """Units that the next candidate prunes.

        Args:
            accepted: Units pruned in the accepted network, fewer than at the target.
        """
        return next(pruned for pruned in self.pruned if pruned > accepted)

    def after_failure(self, total: int, target: int, accepted: int, failed: int) -> int | None:
        """See `AdaptiveSteps.after_failure`."""
        return _half_way_back(total, target, accepted, failed, self.smallest)

    def most_accepted(self, retries: int) -> int:
        """The most rounds that can be accepted before the target is reached.

        Every failure that the run survives puts at most one between two listed ones.

        Args:
            retries: Refusals that the run survives.
        """
        return len(self.pruned) + retries + self.abandons


def _half_way_back(total: int, target: int, accepted: int, failed: int, smallest: Fraction) -> int | None:
    kept = total - accepted
    wanted = isqrt(kept * (total - failed)) + 1
    return min(total - wanted, target) if wanted <= _most(kept, smallest) else None


def _most(kept: int, smallest: Fraction) -> int:
    """The most units that a step from `kept` may keep."""
    return kept - ceil(kept * smallest)
