"""Holm's procedure, by hand and by its promise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_classprune.guard.holm import accepted_by_holm

P_VALUES = st.lists(st.floats(0, 1), max_size=12)


@pytest.mark.parametrize(
    ("p_values", "accepted"),
    [
        ([0.001, 0.012, 0.03, 0.2], [True, True, False, False]),
        ([0.02, 0.02, 0.02], [False, False, False]),
        ([0.016, 0.024, 0.049], [True, True, True]),
        ([0.049, 0.016, 0.024], [True, True, True]),
        ([0.05], [True]),
        ([], []),
    ],
)
def test_worked_examples_at_five_percent(p_values: list[float], accepted: list[bool]) -> None:
    assert accepted_by_holm(p_values, 0.05) == accepted


@given(P_VALUES, st.floats(0.001, 0.5))
def test_at_least_bonferroni_and_no_more_than_each_alone(p_values: list[float], alpha: float) -> None:
    accepted = accepted_by_holm(p_values, alpha)
    for p, said in zip(p_values, accepted, strict=True):
        assert said or p > alpha / len(p_values)
        assert not said or p <= alpha


@given(P_VALUES, st.floats(0.001, 0.5))
def test_a_smaller_p_value_never_loses_to_a_larger_one(p_values: list[float], alpha: float) -> None:
    accepted = accepted_by_holm(p_values, alpha)
    smallest_out = min((p for p, said in zip(p_values, accepted, strict=True) if not said), default=2.0)
    assert all(p <= smallest_out for p, said in zip(p_values, accepted, strict=True) if said)
