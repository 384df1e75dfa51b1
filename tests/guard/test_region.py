"""The numerics of the exact test: short ways lead where the long ones do."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_classprune.guard import region as r
from lightning_classprune.guard import statistics as s


def test_the_score_by_hand():
    """Nothing seen of ten at a rise of .1: q is 0, so the score is -1 / sqrt(.9); 0 / 0 is 0."""
    assert r.scores(0, 0, 10, 0.1) == pytest.approx(-1 / math.sqrt(0.9))
    assert r.scores(0, 0, 10, 0.0) == 0.0


def test_a_region_of_two_positives_by_hand():
    """Of none newly found one may be newly missed, of one newly found another, of two none is left."""
    assert r.Region(float(r.scores(1, 0, 2, 0.5)), 2, 0.5).most(np.arange(3)).tolist() == [1, 1, 0]
    assert r.probability_of(r.Region(math.inf, 2, 0.5), 2, np.array([0.1]), np.array([0.6])) == pytest.approx(
        1
    )


@pytest.mark.parametrize("root", [-0.3, 0.0, 0.02, 0.7])
def test_a_root_is_found_from_above(root):
    found = r.falling_root(lambda place, surely: (root - place) * 30, 0.05, 0.1)
    assert root <= found <= root + 2e-8
    jump = r.falling_root(lambda place, surely: 1.0 if place < root else -1.0, 0.05, 0.1)
    assert root <= jump <= root + 2e-8


@pytest.mark.parametrize(("table", "delta"), [((60, 50, 5000), 0.004), ((60, 50, 20_000), 0.0012)])
def test_bounds_in_blocks_leave_a_p_value_as_it_is(table, delta, monkeypatch):
    quick = s.exact_p_value.__wrapped__(*table, delta)
    monkeypatch.setattr(r, "_WITHOUT_BOUNDS", 10**9)
    assert s.exact_p_value.__wrapped__(*table, delta) == pytest.approx(quick, abs=1e-12)
    region = r.Region(s.tango_z(*table, delta), table[2], delta)
    q = np.array([0.001, 0.01, 0.2, 0.4])
    low, high = r._between(region, table[2], q, q + delta)
    exact = r.probability_of(region, table[2], q, q + delta)
    assert (low <= exact + 1e-9).all()
    assert (exact <= high + 1e-9).all()


@given(
    n=st.integers(2000, 4000), z=st.floats(-4, 3), delta=st.sampled_from([-0.2, -0.01, 0.0, 0.01, 0.1, 0.6])
)
@settings(max_examples=15)
def test_a_region_between_knots_is_the_whole_one(n, z, delta):
    found = np.arange(n + 1)
    piece = r.Region(z, n, delta)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(r, "_WHOLE_REGION", 0)
        between = piece.most(found)
    assert np.array_equal(between, r.Region(z, n, delta).most(found))
    assert (np.diff(between)[between[1:] < n - found[1:]] >= 0).all()


@pytest.mark.parametrize(("table", "delta"), [((10, 3, 3500), 0.0015), ((18, 22, 5000), 0.0035)])
def test_points_that_are_left_out_where_it_is_smooth_hide_no_peak(table, delta, monkeypatch):
    """Few are newly missed or found, so the probability has its peaks at small rates."""
    thinned = s.exact_p_value.__wrapped__(*table, delta)
    monkeypatch.setattr(r, "_STRIDE", 1)
    assert s.exact_p_value.__wrapped__(*table, delta) == pytest.approx(thinned, rel=1e-6)
