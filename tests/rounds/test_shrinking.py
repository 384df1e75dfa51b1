"""Shrinking: the cubic by hand, when a mask is cut, and what holds for every round."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_classprune.rounds.shrinking import FEWEST_CUTS, MOST_CUTS, Shrinking

HAND = Shrinking(start=0, end=800, begin=0.1, share=0.6, every=4)


@pytest.mark.parametrize(
    ("progress", "pruned"),
    [
        (0.0, 0),
        (0.1, 0),
        (0.35, 700),  # half-way: an eighth of 800 is left
        (0.225, 462),  # a quarter: .75^3 = .421875 of 800 is 337.5, rounded up
        (0.6 - 1e-9, 799),  # one unit is left, for the last cut
        (0.6, 800),
        (1.0, 800),
    ],
)
def test_the_cubic_by_hand(progress: float, pruned: int) -> None:
    assert HAND.pruned(progress) == pruned


def test_it_starts_from_what_is_pruned_already() -> None:
    later = Shrinking(start=400, end=800, begin=0.0, share=0.5, every=1)
    assert [later.pruned(p) for p in (0.0, 0.25, 0.5)] == [400, 750, 800]


@pytest.mark.parametrize(
    ("progress", "steps", "due"),
    [(0.3, 3, False), (0.3, 4, True), (0.3, 9, True), (0.59, 1, False), (0.6, 1, True), (1.0, 0, False)],
)
def test_when_a_cut_is_due(progress: float, steps: int, due: bool) -> None:
    assert HAND.is_due(progress, steps) is due


@pytest.mark.parametrize(
    ("steps", "total", "every", "begin"),
    [
        (5_000, 1000, 20, 24),  # 3,000 steps: every 20th, the first after 24 have trained
        (50_000, 1000, 150, 24),  # 30,000 steps: 200 cuts
        (336, 1000, 4, 24),  # 201 steps: every 4th, 50 cuts
        (100, 1000, 1, 60 / 8),  # 60 steps: every one, after an eighth of them
        (336, 100_000_000, 20, 24),  # each takes seconds
        (1, 1000, 1, 1 / 8),
    ],
)
def test_how_often_a_round_is_cut(steps: int, total: int, every: int, begin: float) -> None:
    made = Shrinking.of_round(0, 900, 0.6, steps, total)
    assert made.every == every
    assert made.begin * steps == pytest.approx(begin, rel=0.01) or steps == 1


@given(
    st.integers(0, 10**9),
    st.integers(1, 10**9),
    st.floats(0.01, 0.99),
    st.integers(1, 10**6),
    st.lists(st.floats(0, 1), min_size=2, max_size=20),
)
def test_masks_only_shrink_and_end_where_they_shall(
    start: int, more: int, share: float, steps: int, moments: list[float]
) -> None:
    made = Shrinking.of_round(start, start + more, share, steps, 10**6)
    pruned = [made.pruned(progress) for progress in sorted(moments)]
    assert all(a <= b for a, b in pairwise([start, *pruned, start + more]))
    assert made.pruned(0.0) == made.pruned(made.begin) == start
    assert made.pruned(share) == made.pruned(1.0) == start + more
    assert 0 <= made.begin < share
    cuts = int(share * steps) / made.every
    assert made.every == 1 or cuts >= FEWEST_CUTS
    assert cuts < MOST_CUTS + 1 or made.every * MOST_CUTS > share * steps - MOST_CUTS


def test_it_comes_back_from_a_checkpoint() -> None:
    assert Shrinking.from_state_dict(HAND.state_dict()) == HAND
