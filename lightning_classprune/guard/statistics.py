"""The bounds and tests that the guard rests on: paired false-negative rates, without torch.

One protected class has ``n`` positives, judged by the dense network and by the candidate on the same samples.
``newly_missed`` of them only the candidate misses, ``newly_found`` only the dense network misses, and ``rise
= P(newly missed) - P(newly found)`` is the rise of the false-negative rate. ``delta`` is the tolerated rise.

Sources: Tango, Statist. Med. 17 (1998) 891-908 (score statistic and bound); Lloyd & Moldovan, Statist. Med.
27 (2008) 3540-3549 (exact unconditional test); Clopper & Pearson, Biometrika 26 (1934) 404-413 (one
proportion).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special, stats

from lightning_classprune.guard.region import (
    Floats,
    Region,
    falling_root,
    largest_probability,
    probability_of,
    scores,
)

# Up to here a sample size is planned with the exact test's critical value, beyond with the normal one.
_EXACT_PLANNING = 1000
_LARGEST_PLAN = 100_000
# No bound of the rise beyond.
_LARGEST_BOUND = 1_000_000


def tango_z(newly_missed: int, newly_found: int, n: int, delta: float) -> float:
    """Tango's score statistic of a rise of ``delta``; small values speak for the candidate.

    ``delta`` in [-1, 1]; 0/0 is 0. ValueError for impossible counts or a ``delta`` outside its range. Source:
    Tango (1998).
    """
    _check_table(newly_missed, newly_found, n)
    _check_range("delta", delta, -1.0, 1.0)
    return float(scores(newly_missed, newly_found, n, delta))


def tango_upper(newly_missed: int, newly_found: int, n: int, alpha: float) -> float:
    """Approximate upper bound of the rise at one-sided level ``alpha``: quick, for previews.

    Its true error reaches .054 for an ``alpha`` of .05 from n = 200 on, and 2.4 ``alpha`` at n = 5 to 10.
    ``alpha`` in (0, 0.5]. ValueError for impossible counts or an ``alpha`` outside its range. Source: Tango
    (1998).
    """
    _check_table(newly_missed, newly_found, n)
    _check_alpha(alpha)
    if newly_missed == n:
        return 1.0
    z = float(special.ndtri(alpha))

    def excess(delta: float) -> float:
        # The score falls to -inf at delta = 1, which brentq's secant step cannot use.
        return max(float(scores(newly_missed, newly_found, n, delta)), -1e6) - z

    return float(optimize.brentq(excess, (newly_missed - newly_found) / n, 1.0, xtol=1e-10))


@lru_cache(maxsize=4096)
def exact_p_value(newly_missed: int, newly_found: int, n: int, delta: float) -> float:
    """Exact p-value of "the rise is at least ``delta``".

    Rejecting at p <= alpha errs with probability <= alpha. Unconditional: the largest probability, over every
    discordance there may be, of a table at least as favourable in Tango's ordering. ``delta`` in [-1, 1];
    accurate to about 1e-7, beyond n = 3000 to 1e-4 of itself. 1 to 30 ms up to n = 3000; beyond, one that is within
    1e-8 of 0 or 1 takes a few ms, another one 0.1 s at n = 100 000 and seconds at 10 000 000. ValueError for
    impossible counts or a ``delta`` outside its range. Source: Lloyd & Moldovan (2008).
    """
    region = Region(tango_z(newly_missed, newly_found, n, delta), n, delta)
    return largest_probability(region, n, delta)[0]


@lru_cache(maxsize=4096)
def exact_upper(newly_missed: int, newly_found: int, n: int, alpha: float) -> float | None:
    """Upper bound of the rise: the ``delta`` at which ``exact_p_value`` falls to ``alpha``, to about 1e-7.

    ``alpha`` in (0, 0.5]. Three to eight exact p-values long; None above n = 1 000 000, where that
    takes too long and a quicker bound could contradict the test. The p-value jumps in ``delta``, so decide by the
    p-value and report the bound. ValueError for impossible counts or an ``alpha`` outside its range. Source:
    Lloyd & Moldovan (2008).
    """
    start = tango_upper(newly_missed, newly_found, n, alpha)
    if newly_missed == n:
        return 1.0
    if n > _LARGEST_BOUND:
        return None
    peaks = np.empty(0)
    critical = float(special.ndtri(alpha))

    def excess(delta: float, surely: bool) -> float:
        # Normal quantiles of p-values are nearly straight in delta, p-values are not.
        nonlocal peaks
        region = Region(tango_z(newly_missed, newly_found, n, delta), n, delta)
        largest, peaks = largest_probability(region, n, delta, near=None if surely else peaks)
        return float(special.ndtri(min(max(largest, 1e-300), 1 - 1e-16))) - critical

    return falling_root(excess, start, math.sqrt(max(newly_missed + newly_found, 1)) / n)


def rate_upper(k: int, n: int, alpha: float) -> float:
    """Upper bound of a proportion after ``k`` of ``n``, at one-sided level ``alpha``.

    ``0 <= k <= n``, ``n >= 1``, ``alpha`` in (0, 0.5]; ValueError otherwise. Source: Clopper & Pearson
    (1934).
    """
    _check_count("k", k, n)
    _check_alpha(alpha)
    return 1.0 if k == n else float(special.betaincinv(k + 1, n - k, 1 - alpha))


def floor_p_value(misses: int, n: int, floor: float) -> float:
    """P-value of "the recall is at most ``floor``" after ``misses`` of ``n``: the exact binomial test.

    ``0 <= misses <= n``, ``n >= 1``, ``floor`` in (0, 1); ValueError otherwise. Source: Clopper & Pearson
    (1934).
    """
    _check_count("misses", misses, n)
    _check_inside("floor", floor)
    return float(special.bdtr(misses, n, 1 - floor))


def chance_of_proof(
    newly_missed: int,
    newly_found: int,
    n: int,
    delta: float,
    alpha: float | None,
    positives: int,
    most_found: int | None = None,
) -> float:
    """As `chances_of_proof`, after one table."""
    return float(chances_of_proof(newly_missed, newly_found, n, delta, alpha, positives, most_found))


def chances_of_proof(
    newly_missed: ArrayLike,
    newly_found: ArrayLike,
    n: int,
    delta: float,
    alpha: float | None,
    positives: int,
    most_found: int | None = None,
) -> Floats:
    """Chance that ``positives`` further ones prove a rise below ``delta`` at ``alpha``, after tables of ``n``.

    The predictive probability of a normal rise under a flat prior: what a table leaves open about the rise counts as
    well as what chance does to the further sample. ``alpha`` None: the chance that their rise is at most ``delta``. An
    approximation to choose by, not to judge by; 0 where even the best table (nothing newly missed, ``most_found``
    newly found, where that is given) would prove nothing. ``n`` and ``positives`` >= 1. ValueError for impossible
    counts or an ``alpha`` outside (0, 0.5].
    """
    missed, found = np.asarray(newly_missed, dtype=np.float64), np.asarray(newly_found, dtype=np.float64)
    if n < 1 or positives < 1 or missed.min() < 0 or found.min() < 0 or (missed + found).max() > n:
        raise ValueError(f"not tables of n = {n}: {newly_missed!r} newly missed, {newly_found!r} newly found")
    # One more positive, half of it missed newly and half found: a table without any difference is certain of nothing.
    rise = (missed - found) / (n + 1)
    spread = np.sqrt((missed + found + 1) / (n + 1) - rise**2)
    critical = 0.0
    if alpha is not None:
        _check_alpha(alpha)
        critical = -float(special.ndtri(alpha))
        best = 0 if most_found is None else min(most_found, positives)
        if most_found is not None and delta < 1 and exact_p_value(0, best, positives, delta) > alpha:
            return np.zeros(np.broadcast_shapes(missed.shape, found.shape))
    room = (delta - rise) / spread - critical / math.sqrt(positives)
    chance: Floats = special.ndtr(room / math.sqrt(1 / n + 1 / positives))
    return chance


def chance_at_setup(n: int, discordance: float, tolerance: float, level: float) -> float:
    """Probability that a network no worse than the dense one is accepted by ``n`` positives: the power of the guard.

    It differs from the dense network in a share ``discordance`` of the positives, half each way (in [0, 1]; measured:
    a third to all of the dense FN rate). ``n`` >= 1, ``tolerance`` in (0, 1], ``level`` in (0, 0.5]; ValueError
    otherwise. The exact test's own power up to 1000 positives, the normal approximation of its region beyond.
    """
    _check_count("n", n, n)
    _check_range("discordance", discordance, 0.0, 1.0)
    _check_alpha(level)
    if tolerance >= 1:
        return 1.0
    _check_inside("tolerance", tolerance)
    accepted = Region(_critical_z(n, tolerance, level), n, tolerance)
    half = np.array([discordance / 2])
    return float(probability_of(accepted, n, half, half)[0])


def smallest_tolerance(n: int, discordance: float, level: float, power: float = 0.8) -> float:
    """The smallest tolerance at which `chance_at_setup` reaches ``power``, to three digits; 1.0 if none below does."""
    _check_inside("power", power)
    if chance_at_setup(n, discordance, 0.999, level) < power:
        return 1.0
    low, high = 0.0, 0.999
    while high - low > 0.001 * high:
        middle = (low + high) / 2
        low, high = (
            (low, middle) if chance_at_setup(n, discordance, middle, level) >= power else (middle, high)
        )
    return high


@lru_cache(maxsize=4096)
def positives_needed(fnr: float, delta: float, alpha: float = 0.05, power: float = 0.8) -> int:
    """Positives with which an unchanged candidate is accepted with probability ``power``.

    ``fnr`` in [0, 1] is the share of positives on which the two networks differ, half each way: the dense FN
    rate where half of its misses are recovered. By search, over the critical value of the exact test up to
    1000 positives and the normal one beyond; above 100 000 the rule (z_alpha + z_power)**2 * fnr / delta**2.
    Power is a saw-tooth in n: a few percent fewer may do as well. ``delta`` and ``power`` in (0, 1),
    ``alpha`` in (0, 0.5]; ValueError otherwise.
    """
    _check_range("fnr", fnr, 0.0, 1.0)
    _check_inside("delta", delta)
    _check_alpha(alpha)
    _check_inside("power", power)
    rule = float(special.ndtri(1 - alpha) + special.ndtri(power)) ** 2 * fnr / delta**2
    fewest = math.ceil(math.log(alpha) / math.log1p(-delta))
    if max(rule, fewest) > _LARGEST_PLAN:
        return max(math.ceil(rule), fewest)

    def enough(n: int) -> bool:
        accepted = Region(_critical_z(n, delta, alpha), n, delta)
        half = np.array([fnr / 2])
        return float(probability_of(accepted, n, half, half)[0]) >= power

    low, high = fewest - 1, fewest
    while not enough(high):
        low, high = high, 2 * high
    while high - low > max(1, high // 200):
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def floor_positives_needed(fnr: float, floor: float, alpha: float = 0.05, power: float = 0.8) -> int | None:
    """Positives with which a true FN rate ``fnr`` shows a recall above ``floor`` with probability ``power``.

    The smallest such number, by the exact binomial test; None where none up to 100 000 is enough, as when ``1
    - fnr`` is not above the floor. ``fnr`` in [0, 1], ``floor`` and ``power`` in (0, 1), ``alpha`` in (0,
    0.5]; ValueError otherwise.
    """
    _check_range("fnr", fnr, 0.0, 1.0)
    _check_inside("floor", floor)
    _check_alpha(alpha)
    _check_inside("power", power)
    n = np.arange(1, _LARGEST_PLAN + 1)
    # ppf is the smallest count whose probability reaches alpha, so one less is sure to stay under it.
    most = stats.binom.ppf(alpha, n, 1 - floor) - 1
    enough = np.flatnonzero((most >= 0) & (stats.binom.cdf(most, n, fnr) >= power))
    return int(n[enough[0]]) if len(enough) and fnr < 1 - floor else None


def threshold_rank(n: int, max_fnr: float, alpha: float) -> int:
    """Rank r among the positives' sorted scores at which to cut to keep the FN rate under ``max_fnr``.

    Predict the class at scores >= the r-th smallest of the ``n``; 0 means that no threshold can be certified
    at error ``alpha``. ``n >= 1``, ``max_fnr`` in (0, 1), ``alpha`` in (0, 0.5]; ValueError otherwise.
    Source: order statistics of a binomial sample.
    """
    _check_count("n", n, n)
    _check_inside("max_fnr", max_fnr)
    _check_alpha(alpha)
    return int(np.searchsorted(special.bdtr(np.arange(n), n, max_fnr), alpha, side="right"))


@lru_cache(maxsize=4096)
def _critical_z(n: int, delta: float, alpha: float) -> float:
    """Largest score at which the exact test still rejects; the normal quantile for large ``n``."""
    normal = float(special.ndtri(alpha))
    if n > _EXACT_PLANNING:
        return normal
    low, high = 1.5 * normal - 1, 0.9 * normal
    for _ in range(12):
        middle = (low + high) / 2
        largest, _ = largest_probability(Region(middle, n, delta), n, delta, points=50, peaks=0)
        valid = largest <= alpha
        low, high = (middle, high) if valid else (low, middle)
    return low


def _check_table(newly_missed: int, newly_found: int, n: int) -> None:
    _check_count("newly_missed", newly_missed, n)
    _check_count("newly_found", newly_found, n)
    if newly_missed + newly_found > n:
        raise ValueError(
            f"newly_missed + newly_found must be at most n = {n}, got {newly_missed + newly_found}"
        )


def _check_count(name: str, value: int, n: int) -> None:
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}: without positives nothing can be tested")
    if not 0 <= value <= n or value != int(value):
        raise ValueError(f"{name} must be a whole number from 0 to n = {n}, got {value}")


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} must be in [{low:g}, {high:g}], got {value}")


def _check_inside(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name} must be in (0, 1), got {value}")


def _check_alpha(alpha: float) -> None:
    if not 0 < alpha <= 0.5:
        raise ValueError(f"alpha must be in (0, 0.5], got {alpha}")
