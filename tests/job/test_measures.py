"""Rates, intervals and ROC curves, against numbers by hand, definitions and another library."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lightning_classprune.job.measures import auc, curve, exact_interval, missed_at

MARGINS = np.array([3.0, 2.0, 2.0, 1.0, 0.0, -1.0])
POSITIVE = np.array([True, True, False, False, True, False])


def test_a_curve_by_hand() -> None:
    """A positive first; then a positive and a negative with one margin; a negative; a positive; a negative."""
    points = curve(MARGINS, POSITIVE)
    assert points is not None
    rate, recall = points
    assert rate * 3 == pytest.approx([0, 0, 1, 2, 2, 3])
    assert recall * 3 == pytest.approx([0, 1, 2, 2, 3, 3])
    assert auc(MARGINS, POSITIVE) == pytest.approx((3 + 2.5 + 1) / 9)


@pytest.mark.parametrize(("rate", "missed"), [(0.0, 2), (0.3, 2), (1 / 3, 1), (0.5, 1), (2 / 3, 0), (1.0, 0)])
def test_misses_at_a_false_alarm_rate_by_hand(rate: float, missed: int) -> None:
    assert missed_at(MARGINS, POSITIVE, rate) == missed


@pytest.mark.parametrize("positive", [True, False])
def test_with_one_kind_of_cases_nothing_is_known(positive: bool) -> None:
    alone = np.full(6, positive)
    assert curve(MARGINS, alone) is None
    assert auc(MARGINS, alone) is None
    assert missed_at(MARGINS, alone, 0.1) is None


CASES = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=30).filter(
    lambda cases: len({positive for _, positive in cases}) == 2
)


@given(CASES)
def test_the_area_is_the_chance_that_a_positive_is_above_a_negative(cases: list[tuple[int, bool]]) -> None:
    margins = np.array([float(margin) for margin, _ in cases])
    positive = np.array([one for _, one in cases])
    pairs = [(a > b) + (a == b) / 2 for a in margins[positive] for b in margins[~positive]]
    assert auc(margins, positive) == pytest.approx(np.mean(pairs))


@given(CASES, st.floats(0, 1))
def test_no_threshold_misses_fewer(cases: list[tuple[int, bool]], rate: float) -> None:
    margins = np.array([float(margin) for margin, _ in cases])
    positive = np.array([one for _, one in cases])
    misses = [
        int((positive & (margins < t)).sum())
        for t in [*margins, 9.0]
        if (~positive & (margins >= t)).sum() <= rate * (~positive).sum() + 1e-12
    ]
    assert missed_at(margins, positive, rate) == min(misses)


@pytest.mark.parametrize(("count", "cases"), [(0, 20), (1, 20), (7, 20), (20, 20), (96, 205)])
def test_the_interval_is_clopper_and_pearsons(count: int, cases: int) -> None:
    found = stats.binomtest(count, cases).proportion_ci(0.95, "exact")
    assert exact_interval(count, cases) == pytest.approx((found.low, found.high))


def test_an_interval_by_hand() -> None:
    """None of n: the upper end is 1 - .025 ** (1 / n)."""
    assert exact_interval(0, 10) == pytest.approx((0.0, 1 - 0.025**0.1))
    assert exact_interval(0, 0) is None
