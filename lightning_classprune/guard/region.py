"""The numerics of the exact test: the tables as favourable as one that was seen, and their largest probability.

A table is how many of n positives are newly missed and how many newly found; see `statistics`, which is made of these.
Source: Tango, Statist. Med. 17 (1998) 891-908 (score statistic); Lloyd & Moldovan, Statist. Med. 27 (2008) 3540-3549
(the maximum over the nuisance parameter).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]

# Tables tied in exact arithmetic differ by rounding in floating point; a tie belongs to the region.
_TIE = 1e-10
_ZOOM, _ZOOM_STEPS = 11, 3
# Where this many are expected in each of the three cells, the probability is smooth: one point of so many is enough.
_SMOOTH, _STRIDE = 400, 8
# Up to here all of a region is searched at once, beyond between knots, one rate at a time.
_WHOLE_REGION, _KNOTS = 100_000, 64
# Beyond, bounds in blocks come before sums, which they save where a p-value is this close to 0 or 1.
_WITHOUT_BOUNDS, _BLOCKS, _CERTAIN = 3000, 24, 1e-8
# How closely a root is found, and in how many evaluations.
_BOUND_WIDTH, _MOST_EVALUATIONS = 2e-8, 60


def scores(missed: ArrayLike, found: ArrayLike, n: int, delta: float) -> Floats:
    """Score statistic of each table, with q = P(newly found) estimated under a rise of ``delta``.

    Args:
        missed: Numbers of newly missed.
        found: Numbers of newly found.
        n: Number of positives.
        delta: The rise, in [-1, 1].
    """
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


class Region:
    """All tables with a score <= z: for each number of newly found, the largest number of newly missed, or -1.

    The score rises with the newly missed, so this boundary is the whole region. It falls with the newly found, so the
    boundary rises until it takes all that is left, and stays there.
    """

    def __init__(self, z: float, n: int, delta: float) -> None:
        self.z = z + _TIE * (1 + abs(z)) if math.isfinite(z) else z
        self.n, self.delta = n, delta
        self._known: Ints = np.empty(0, dtype=np.int64)  # up to a number of newly found

    def most(self, found: Ints) -> Ints:
        """The boundary at these numbers of newly found."""
        last = int(found.max())
        if len(self._known) <= last and self.n <= _WHOLE_REGION and 4 * len(found) > self.n:
            self._known = self._between_knots(np.arange(last + 1))
        if len(self._known) > last:
            known: Ints = self._known[found]
            return known
        return self._search(found) if len(found) < 4 * _KNOTS else self._between_knots(found)

    def _between_knots(self, found: Ints) -> Ints:
        """The boundary, which between two knots lies between what it is there."""
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
            inside = scores(middle, found, self.n, self.delta) <= self.z
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


def _between(region: Region, n: int, found_rate: Floats, missed_rate: Floats) -> tuple[Floats, Floats]:
    """Bounds of what `probability_of` returns, in a few steps: within a block of newly found the inner one rises."""
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


def probability_of(region: Region, n: int, found_rate: Floats, missed_rate: Floats) -> Floats:
    """Probability of the region for each pair of rates, summed over the newly found; one by one where n is large."""
    first, last = _window(n, found_rate)
    pieces = np.arange(1, len(first)) if n > _WHOLE_REGION else np.array([], dtype=np.int64)
    parts = (np.split(one, pieces) for one in (found_rate, missed_rate, first, last))
    return np.concatenate([_sum(region, n, *part) for part in zip(*parts, strict=True)])


def _sum(region: Region, n: int, found_rate: Floats, missed_rate: Floats, first: Ints, last: Ints) -> Floats:
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


def largest_probability(
    region: Region, n: int, delta: float, points: int = 200, peaks: int = 3, near: Floats | None = None
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
        return probability_of(region, n, rate(t), rate(t) + delta)

    best = 0.0
    left: Floats
    right: Floats
    if near is not None and len(near):
        left, right = np.maximum(near - 1 / points, 0), np.minimum(near + 1 / points, 1)
    else:
        t = np.linspace(0, 1, points)
        lumpy = n * (highest - lowest) * np.sin(np.pi / 2 * np.minimum(t, 1 - t)) ** 2 < _SMOOTH
        t = t[lumpy | (np.arange(points) % _STRIDE == 0)]
        values, worth = np.full(len(t), -1.0), np.full(len(t), True)
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
        left, right = t[np.maximum(tops - 1, 0)], t[np.minimum(tops + 1, len(t) - 1)]
    for _ in range(_ZOOM_STEPS if len(left) else 0):
        grid = np.linspace(left, right, _ZOOM)
        heights = probability(grid.ravel()).reshape(grid.shape)
        best = max(best, float(heights.max()))
        top, column = heights.argmax(0), np.arange(grid.shape[1])
        left, right = grid[np.maximum(top - 1, 0), column], grid[np.minimum(top + 1, _ZOOM - 1), column]
        # A peak rises by less in a later step than in this one.
        alive = 2 * heights.max(axis=0) - np.maximum(heights[0], heights[-1]) >= best
        if not alive.any():
            break
        left, right = left[alive], right[alive]
    return best, (left + right) / 2


def falling_root(excess: Callable[[float, bool], float], start: float, scale: float) -> float:
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
