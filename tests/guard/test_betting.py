"""Betting: its level against clustered and hostile distributions, its bound, and what it can prove."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from lightning_classprune.guard.betting import betting_p_value, betting_upper


def test_by_hand_of_one_value() -> None:
    """The mean of 1 + bet * (delta - value) over the bets 1/20, ..., 1 of the largest, 1 / (1 - delta)."""
    gained = np.mean([1 + share / 0.5 * (0.5 - 0) for share in np.arange(1, 21) / 20])
    assert betting_p_value([0.0], 0.5) == pytest.approx(1 / gained)
    assert betting_p_value([1.0], 0.5) == 1.0
    assert betting_p_value([0.3, -0.2, 0.0], 1.0) == 0.0
    assert betting_p_value([1.0], 1.0) == 1.0


@pytest.mark.parametrize("delta", [0.0, 0.05, 0.2])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_its_expected_gain_is_at_most_one_whatever_the_distribution(delta: float, n: int) -> None:
    """Exactly, over all outcomes of two-point distributions with mean delta: so Markov's inequality holds."""
    for low, high in ((-1.0, 1.0), (0.0, 1.0), (-0.25, 0.5), (-1.0, 0.4)):
        up = (delta - low) / (high - low)
        expected = 0.0
        for values in itertools.product((low, high), repeat=n):
            chance = math.prod(up if value == high else 1 - up for value in values)
            p = betting_p_value(values, delta)
            expected += chance / p if p < 1 else 0.0
        assert expected <= 1 + 1e-9


def test_the_level_holds_where_units_differ_in_their_means() -> None:
    """Half of the units never get worse, the others by twice the tolerance: the mean rise is the tolerance."""
    generator, rejected = np.random.default_rng(1), 0
    for _ in range(1000):
        values = generator.binomial(6, np.repeat([0.0, 0.2], 40)) / 6
        rejected += betting_p_value(values, 0.1) <= 0.05
    assert rejected <= 50 + 2 * math.sqrt(1000 * 0.05 * 0.95)


def test_order_does_not_matter_and_the_bound_is_where_p_crosses() -> None:
    values = [0.0] * 90 + [0.5] * 3 + [-0.25] * 7
    assert betting_p_value(values, 0.05) == pytest.approx(betting_p_value(values[::-1], 0.05))
    upper = betting_upper(values, 0.05)
    assert betting_p_value(values, upper + 1e-4) <= 0.05 < betting_p_value(values, upper - 1e-4)
    assert betting_upper([1.0], 0.05) == 1.0


def test_no_number_of_units_below_the_floor_proves_anything() -> None:
    """ln(.05) / ln(.95) is 58.4."""
    assert betting_p_value([0.0] * 58, 0.05) > 0.05
    assert betting_p_value([0.0] * 150, 0.05) < 0.05


@pytest.mark.parametrize(("values", "delta"), [([], 0.1), ([1.5], 0.1), ([0.0], 1.5), ([-1.5], 0.0)])
def test_bad_values_are_refused(values: list[float], delta: float) -> None:
    with pytest.raises(ValueError, match="values must be at least one number in"):
        betting_p_value(values, delta)
