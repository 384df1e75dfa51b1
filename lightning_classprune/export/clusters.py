"""K-means: points in groups around their means, the same ones for the same seed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_STARTS, _STEPS = 5, 100

Floats = NDArray[np.float64]


def k_means(points: Floats, weights: Floats, k: int, seed: int) -> NDArray[np.int64]:
    """The group of each point, numbered from 0 in the order of their first points.

    Lloyd's algorithm from the best of several starts by k-means++ (Arthur and Vassilvitskii 2007).

    Args:
        points: `(n, d)`, finite.
        weights: `(n,)`, 0 or more: how much the distance of a point to its group's mean counts.
        k: Groups, 1 to n; fewer come of fewer different points.
        seed: For the starts.
    """
    if points.shape[1] > len(points):
        # As far from each other, in as many dimensions as there are points.
        points = np.ascontiguousarray(np.asarray(np.linalg.qr(points.T, mode="r")).T)
    generator = np.random.default_rng(seed)
    weights = weights if weights.any() else np.ones_like(weights)
    best: tuple[float, NDArray[np.int64]] | None = None
    for _ in range(_STARTS):
        means = _start(points, weights, k, generator)
        groups = _nearest(points, means)[0]
        for _ in range(_STEPS):
            means = _means(points, weights, groups, means)
            before, (groups, distances) = groups, _nearest(points, means)
            if np.array_equal(groups, before):
                break
        cost = float(weights @ distances)
        if best is None or cost < best[0]:
            best = cost, groups
    assert best is not None
    _, first, inverse = np.unique(best[1], return_index=True, return_inverse=True)
    ranks: NDArray[np.int64] = np.argsort(np.argsort(first))
    return ranks[inverse]


def _start(points: Floats, weights: Floats, k: int, generator: np.random.Generator) -> Floats:
    """Means drawn from the points, each the likelier the farther it is from those before."""
    chosen = [int(generator.choice(len(points), p=weights / weights.sum()))]
    nearest = _squares(points, points[chosen])[:, 0]
    while len(chosen) < k and (odds := weights * nearest).any():
        chosen.append(int(generator.choice(len(points), p=odds / odds.sum())))
        nearest = np.minimum(nearest, _squares(points, points[chosen[-1:]])[:, 0])
    return points[chosen]


def _nearest(points: Floats, means: Floats) -> tuple[NDArray[np.int64], Floats]:
    squares = _squares(points, means)
    groups = squares.argmin(1)
    return groups, squares[np.arange(len(points)), groups]


def _means(points: Floats, weights: Floats, groups: NDArray[np.int64], before: Floats) -> Floats:
    """Weighted means; of a group without weight the one before."""
    member = (groups == np.arange(len(before))[:, None]) * weights
    totals = member.sum(1, keepdims=True)
    return np.where(totals > 0, member @ points / np.where(totals > 0, totals, 1.0), before)


def _squares(points: Floats, means: Floats) -> Floats:
    """Squared distances, never below 0 and 0 between equal points."""
    scale = (points**2).sum(1)[:, None] + (means**2).sum(1)
    found = scale - 2 * points @ means.T
    return np.where(found > 1e-13 * scale, found, 0.0)
