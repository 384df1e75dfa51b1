"""Betting: the test of the mean of bounded, independent values, whatever their distribution.

Somebody who bets a share of their capital, unit after unit, that a rise is below the tolerance does not get rich where
it is not: with values in [-1, 1] of which the mean is at least delta, the product of 1 + bet (delta - value) has an
expectation of at most 1 for every fixed bet that leaves no factor negative. So has its average over many bets, and by
Markov's inequality it exceeds 1 / alpha with probability at most alpha. The average does not depend on the order of the
values, so nothing is drawn.

Source: Waudby-Smith & Ramdas, JRSS B 86 (2024) 1-27 (arXiv 2010.09686); the average over constant bets is theirs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import optimize, special

#: Bets as shares of the largest that is allowed; small ones serve many units, large ones few.
_BETS = np.linspace(0.05, 1.0, 20)


def betting_p_value(values: Sequence[float], delta: float) -> float:
    """P-value of "the mean is at least ``delta``"; rejecting at p <= alpha errs with probability <= alpha.

    Args:
        values: Of independent units, each in [-1, 1]; at least one.
        delta: In [-1, 1].

    Raises:
        ValueError: There are none, or they are out of range.
    """
    rises = np.asarray(values, dtype=np.float64)
    if not len(rises) or np.abs(rises).max() > 1 or not -1 <= delta <= 1:
        raise ValueError(
            f"values must be at least one number in [-1, 1], delta too; got {len(rises)} and {delta}"
        )
    if delta >= 1:
        return 1.0 if rises.min() >= 1 else 0.0
    bets = _BETS / (1 - delta)  # no more: a value of 1 must leave something
    steps, counts = np.unique(delta - rises, return_counts=True)
    with np.errstate(divide="ignore"):
        # Rounding may take the largest bet on a value of 1 below nothing.
        logs = np.log(np.maximum(1 + np.outer(bets, steps), 0.0)) @ counts
    gained = special.logsumexp(logs) - np.log(len(bets))
    return float(np.exp(-max(gained, 0.0)))


def betting_upper(values: Sequence[float], alpha: float) -> float:
    """Upper bound of the mean: the ``delta`` at which `betting_p_value` falls to ``alpha``, to about 1e-6.

    Args:
        values: As of `betting_p_value`.
        alpha: In (0, 0.5].
    """

    def excess(delta: float) -> float:
        return betting_p_value(values, delta) - alpha

    mean = float(np.mean(values))
    highest = 1 - 1e-9
    if excess(highest) > 0:
        return 1.0
    return float(optimize.brentq(excess, min(mean, highest), highest, xtol=1e-7))
