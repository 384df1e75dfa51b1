"""K-means: the groups of points, by hand and by what must hold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_classprune.export.clusters import k_means


def groups(points: list[list[float]], k: int, weights: list[float] | None = None, seed: int = 0) -> list[int]:
    told = np.ones(len(points)) if weights is None else np.array(weights)
    return k_means(np.array(points, dtype=float), told, k, seed).tolist()


def test_by_hand() -> None:
    points = [[0.0, 0.0], [5.0, 5.0], [0.1, 0.0], [5.0, 5.1], [9.0, 0.0]]
    assert groups(points, 1) == [0] * 5
    assert groups(points, 2) == [0, 1, 0, 1, 1]
    assert groups(points, 3) == [0, 1, 0, 1, 2]
    assert groups(points, 5) == [0, 1, 2, 3, 4]


def test_many_dimensions_are_as_few() -> None:
    """Distances alone count: more dimensions than points change nothing."""
    points = np.random.default_rng(0).normal(size=(12, 3))
    turned = points @ np.linalg.qr(np.random.default_rng(1).normal(size=(40, 3)))[0].T
    for k in (2, 3, 5):
        assert k_means(points, np.ones(12), k, 3).tolist() == k_means(turned, np.ones(12), k, 3).tolist()


def test_a_point_that_counts_for_nothing_moves_no_mean() -> None:
    points = [[0.0], [1.0], [10.0], [11.0], [6.0]]
    assert groups(points, 2, [1.0, 1.0, 1.0, 1.0, 0.0])[:4] == [0, 0, 1, 1]
    assert groups(points, 2, [0.0] * 5) in ([0, 0, 1, 1, 1], [0, 0, 1, 1, 0])  # all alike then


def test_fewer_different_points_than_groups() -> None:
    assert groups([[1.0, 2.0]] * 4, 3) == [0, 0, 0, 0]
    assert groups([[1.0], [2.0], [1.0], [2.0]], 4) == [0, 1, 0, 1]
    third = 1 / 3
    assert groups([[third, 0.1], [0.1, third], [third, 0.1]], 3) == [0, 1, 0]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 99), st.integers(1, 12), st.integers(1, 6), st.data())
def test_what_holds_for_any_points(seed: int, number: int, size: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, number))
    points = np.random.default_rng(seed).normal(size=(number, size)).round(1)
    found = k_means(points, np.ones(number), k, seed)
    assert np.array_equal(found, k_means(points, np.ones(number), k, seed))
    assert sorted(set(found.tolist())) == list(range(found.max() + 1))
    assert found.max() < k
    firsts = [found.tolist().index(group) for group in range(found.max() + 1)]
    assert firsts == sorted(firsts), "numbered by their first points"
    means = np.stack([points[found == group].mean(0) for group in range(found.max() + 1)])
    distances = ((points[:, None] - means) ** 2).sum(2)
    own = distances[np.arange(number), found]
    assert own == pytest.approx(distances.min(1)), "each is nearest to the mean of its own"
