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
from collections.abc import Callable
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special, stats

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]

# Tables tied in exact arithmetic differ by rounding in floating point; a tie belongs to the region.
_TIE = 1e-10
_ZOOM, _ZOOM_STEPS = 11, 3
# Up to here a sample size is planned with the exact test's critical value, beyond with the normal one.
_EXACT_PLANNING = 1000
_LARGEST_PLAN = 100_000
# No bound of the rise beyond; how exact it is below, and in how many p-values.
_LARGEST_BOUND = 1_000_000
_BOUND_WIDTH, _MOST_EVALUATIONS = 2e-8, 60
# Up to here all of a region is searched at once, beyond between knots, one rate at a time.
_WHOLE_REGION, _KNOTS = 100_000, 64
# Beyond, bounds in blocks come before sums, which they save where a p-value is this close to 0 or 1.
_WITHOUT_BOUNDS, _BLOCKS, _CERTAIN = 3000, 24, 1e-8


def tango_z(newly_missed: int, newly_found: int, n: int, delta: float) -> float:
    """Tango's score statistic of a rise of ``delta``; small values speak for the candidate.

    ``delta`` in [-1, 1]; 0/0 is 0. ValueError for impossible counts or a ``delta`` outside its range. Source:
    Tango (1998).
    """
    _check_table(newly_missed, newly_found, n)
    _check_range("delta", delta, -1.0, 1.0)
    return float(_scores(newly_missed, newly_found, n, delta))


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
        return max(float(_scores(newly_missed, newly_found, n, delta)), -1e6) - z

    return float(optimize.brentq(excess, (newly_missed - newly_found) / n, 1.0, xtol=1e-10))


@lru_cache(maxsize=4096)
def exact_p_value(newly_missed: int, newly_found: int, n: int, delta: float) -> float:
    """Exact p-value of "the rise is at least ``delta``".

    Rejecting at p <= alpha errs with probability <= alpha. Unconditional: the largest probability, over every
    discordance there may be, of a table at least as favourable in Tango's ordering. ``delta`` in [-1, 1];
    accurate to about 1e-7. 1 to 30 ms up to n = 3000; beyond, one that is within 1e-8 of 0 or 1 takes a few ms,
    another one 0.1 s at n = 100 000 and seconds at 10 000 000. ValueError for impossible counts or a ``delta``
    outside its range. Source: Lloyd & Moldovan (2008).
    """
    region = _Region(tango_z(newly_missed, newly_found, n, delta), n, delta)
    return _largest_probability(region, n, delta)[0]


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
        region = _Region(tango_z(newly_missed, newly_found, n, delta), n, delta)
        largest, peaks = _largest_probability(region, n, delta, near=None if surely else peaks)
        return float(special.ndtri(min(max(largest, 1e-300), 1 - 1e-16))) - critical

    return _falling_root(excess, start, math.sqrt(max(newly_missed + newly_found, 1)) / n)


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
    accepted = _Region(_critical_z(n, tolerance, level), n, tolerance)
    half = np.array([discordance / 2])
    return float(_probability(accepted, n, half, half)[0])


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
        accepted = _Region(_critical_z(n, delta, alpha), n, delta)
        half = np.array([fnr / 2])
        return float(_probability(accepted, n, half, half)[0]) >= power

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


def _falling_root(excess: Callable[[float, bool], float], start: float, scale: float) -> float:
    """Where a falling function that is inf at -1 and -inf at 1 crosses 0: a place where it is not positive any more.

    Regula falsi in the form of Illinois; a jump is halved.

    Args:
        excess: The function of a place, and whether to take the pains that it may not be higher than said.
        start: Close to the root.
        scale: How far a change by one is, about.
    """
    low, high, at_low, at_high = -1.0, 1.0, math.inf, -math.inf
    place, value, same = start, excess(start, True), 0
    for _ in range(_MOST_EVALUATIONS):
        if value > 0:
            low, at_low, same = place, value, max(same, 0) + 1
        else:
            high, at_high, same = place, value, min(same, 0) - 1
        if high - low <= _BOUND_WIDTH:
            value = excess(high, True)
            if value <= 0:
                return high
            low, at_low, high, at_high, place, same = high, value, 1.0, -math.inf, high, 1
        if math.isinf(at_low) or math.isinf(at_high):
            # A step that is a little too long, twice as long each time.
            place += math.copysign(max(1.2 * abs(value) * scale, 1e-7) * 2 ** (abs(same) - 1), value)
            place = (high + low) / 2 if not low < place < high else place
        elif abs(same) >= 3 or high - low <= 4 * _BOUND_WIDTH:
            place = (low + high) / 2
        else:
            lower, upper = (at_low / 2 if same < -1 else at_low), (at_high / 2 if same > 1 else at_high)
            place = (high * lower - low * upper) / (lower - upper)
            # Not on an end, so that the other one follows.
            place = min(max(place, low + _BOUND_WIDTH / 2), high - _BOUND_WIDTH / 2)
        value = excess(place, False)
    return high


def _scores(missed: ArrayLike, found: ArrayLike, n: int, delta: float) -> Floats:
    """Score statistic of each table, with q = P(newly found) estimated under a rise of ``delta``."""
    b, a = np.asarray(missed, dtype=np.float64), np.asarray(found, dtype=np.float64)
    linear, constant = (2 * n - b + a) * delta - a - b, -a * delta * (1 - delta)
    root = np.sqrt(np.maximum(linear**2 - 8 * n * constant, 0))
    # The textbook form (root - linear) / 4n loses all its digits where linear > 0.
    positive = linear > 0
    q = np.where(positive, -2 * constant / np.where(positive, root + linear, 1), (root - linear) / (4 * n))
    difference = b - a - n * delta
    error = np.sqrt(np.maximum(n * (2 * q + delta * (1 - delta)), 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.abs(difference) < 1e-12 * n, 0.0, difference / error)


class _Region:
    """All tables with a score <= z: for each number of newly found, the largest number of newly missed, or -1.

    The score rises with the newly missed, so this boundary is the whole region. It falls with the newly found, so the
    boundary rises until it takes all that is left, and stays there.
    """

    def __init__(self, z: float, n: int, delta: float) -> None:
        self.z = z + _TIE * (1 + abs(z)) if math.isfinite(z) else z
        self.n, self.delta = n, delta
        self._known: Ints | None = None

    def most(self, found: Ints) -> Ints:
        """The boundary at these numbers of newly found."""
        if self._known is None and self.n <= _WHOLE_REGION and 4 * len(found) > self.n:
            self._known = self._search(np.arange(self.n + 1))
        if self._known is not None:
            known: Ints = self._known[found]
            return known
        if len(found) < 4 * _KNOTS:
            return self._search(found)
        # Between two knots it lies between what it is there.
        first, last = int(found.min()), int(found.max())
        knots = np.unique(np.append(np.arange(first, last, _KNOTS), last))
        at, place = self._search(knots), np.searchsorted(knots, found)
        low = np.where(knots[place] == found, at[place], at[np.maximum(place - 1, 0)])
        rest = self.n - found
        low, high = np.minimum(low, rest), np.where(at[place] >= self.n - knots[place], rest, at[place])
        return self._search(found, low, np.minimum(high, rest), _KNOTS)

    def _search(
        self, found: Ints, low: Ints | None = None, high: Ints | None = None, widest: int | None = None
    ) -> Ints:
        low = np.full(len(found), -1) if low is None else low
        high = self.n - found if high is None else high
        while (high > low).any():
            middle = (low + high + 1) >> 1
            inside = _scores(middle, found, self.n, self.delta) <= self.z
            low, high = np.where(inside, middle, low), np.where(inside, high, np.maximum(middle - 1, low))
        return low


def _window(n: int, found_rate: Floats) -> tuple[Ints, Ints]:
    """The first and last number of newly found that counts: seven standard deviations leave out less than 1e-10."""
    spread = 7 * np.sqrt(n * found_rate * (1 - found_rate)) + 16
    first = np.maximum(np.floor(n * found_rate - spread), 0).astype(np.int64)
    return first, np.minimum(np.ceil(n * found_rate + spread), n).astype(np.int64)


def _inner(most: Ints, rest: Ints, rate: Floats) -> Floats:
    """Probability that at most so many of the rest are newly missed."""
    inner = special.betainc(np.maximum(rest - most, 1), np.maximum(most, 0) + 1, 1 - rate)
    result: Floats = np.where(most >= rest, 1.0, np.where(most < 0, 0.0, inner))
    return result


def _between(region: _Region, n: int, found_rate: Floats, missed_rate: Floats) -> tuple[Floats, Floats]:
    """Bounds of what `_probability` returns, in a few steps: within a block of newly found the inner one rises."""
    first, last = _window(n, found_rate)
    steps = np.linspace(0, 1, _BLOCKS + 1)
    ends = (first[:, None] - 1 + np.floor((last - first + 1)[:, None] * steps)).astype(np.int64)
    rate = found_rate[:, None]
    below = np.where(ends < 0, 0.0, special.bdtr(np.maximum(ends, 0), n, rate))
    weight = np.diff(below, axis=1)
    low, high = ends[:, :-1] + 1, np.maximum(ends[:, 1:], first[:, None])
    given = np.clip(missed_rate[:, None] / np.maximum(1 - rate, 1e-300), 0, 1)
    at_low, at_high = (_inner(region.most(at.ravel()).reshape(at.shape), n - at, given) for at in (low, high))
    left_out = np.maximum(1 - weight.sum(axis=1), 0)
    return (weight * at_low).sum(axis=1), np.minimum((weight * at_high).sum(axis=1) + left_out, 1.0)


def _probability(region: _Region, n: int, found_rate: Floats, missed_rate: Floats) -> Floats:
    """Probability of the region for each pair of rates, summed over the newly found; one by one where n is large."""
    first, last = _window(n, found_rate)
    pieces = np.arange(1, len(first)) if n > _WHOLE_REGION else np.array([], dtype=np.int64)
    parts = (np.split(one, pieces) for one in (found_rate, missed_rate, first, last))
    return np.concatenate([_sum(region, n, *part) for part in zip(*parts, strict=True)])


def _sum(region: _Region, n: int, found_rate: Floats, missed_rate: Floats, first: Ints, last: Ints) -> Floats:
    width = last - first + 1
    start = np.cumsum(width) - width
    found = np.arange(int(width.sum())) + np.repeat(first - start, width)
    q, rest = np.repeat(found_rate, width), n - found
    missed_given_rest = np.clip(np.repeat(missed_rate, width) / np.maximum(1 - q, 1e-300), 0, 1)
    log_choose = special.gammaln(n + 1) - special.gammaln(found + 1) - special.gammaln(rest + 1)
    weight = np.exp(log_choose + special.xlogy(found, q) + special.xlog1py(rest, -q))
    inner = _inner(region.most(found), rest, missed_given_rest)
    left_out = np.maximum(1 - np.add.reduceat(weight, start), 0)
    total: Floats = np.minimum(np.add.reduceat(weight * inner, start) + left_out, 1.0)
    return total


def _largest_probability(
    region: _Region, n: int, delta: float, points: int = 200, peaks: int = 3, near: Floats | None = None
) -> tuple[float, Floats]:
    """Largest probability of the region over the nuisance q = P(newly found), at a rise of exactly ``delta``.

    A rise of exactly ``delta`` is the worst case, because the region is monotone in the newly missed.

    Args:
        region: Of the tables.
        n: Number of positives.
        delta: The rise.
        points: To look at first, from one end of q to the other.
        peaks: So many of the highest are looked at more closely.
        near: Look at these peaks only, which a slightly other ``delta`` had, if there are any.

    Returns:
        It, and where the peaks are.
    """
    lowest, highest = max(0.0, -delta), (1 - delta) / 2

    def rate(t: Floats) -> Floats:
        # Maxima are narrow near both ends of q; on the arcsine scale all are about equally wide.
        return lowest + (highest - lowest) * np.sin(np.pi / 2 * t) ** 2

    def probability(t: Floats) -> Floats:
        return _probability(region, n, rate(t), rate(t) + delta)

    best = 0.0
    left: Floats
    right: Floats
    if near is not None and len(near):
        left, right = np.maximum(near - 1 / points, 0), np.minimum(near + 1 / points, 1)
    else:
        t = np.linspace(0, 1, points)
        values, worth = np.full(points, -1.0), np.full(points, True)
        if n > _WITHOUT_BOUNDS:
            least, most = _between(region, n, rate(t), rate(t) + delta)
            if most.max() <= _CERTAIN or least.max() >= 1 - _CERTAIN:
                return float(most.max()), np.empty(0)
            worth = most >= 0.9 * least.max()
        values[worth] = probability(t[worth])
        best = float(values.max())
        padded = np.pad(values, 1, constant_values=-1.0)
        tops = np.flatnonzero((values >= padded[:-2]) & (values >= padded[2:]))
        tops = tops[np.argsort(values[tops])[len(tops) - min(peaks, len(tops)) :]]
        left, right = t[np.maximum(tops - 1, 0)], t[np.minimum(tops + 1, points - 1)]
    for _ in range(_ZOOM_STEPS if len(left) else 0):
        grid = np.linspace(left, right, _ZOOM)
        heights = probability(grid.ravel()).reshape(grid.shape)
        best = max(best, float(heights.max()))
        top, column = heights.argmax(0), np.arange(grid.shape[1])
        left, right = grid[np.maximum(top - 1, 0), column], grid[np.minimum(top + 1, _ZOOM - 1), column]
    return best, (left + right) / 2


@lru_cache(maxsize=4096)
def _critical_z(n: int, delta: float, alpha: float) -> float:
    """Largest score at which the exact test still rejects; the normal quantile for large ``n``."""
    normal = float(special.ndtri(alpha))
    if n > _EXACT_PLANNING:
        return normal
    low, high = 1.5 * normal - 1, 0.9 * normal
    for _ in range(12):
        middle = (low + high) / 2
        largest, _ = _largest_probability(_Region(middle, n, delta), n, delta, points=50, peaks=0)
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
