"""LAMP: by hand, by the definition in exact fractions, in any layout, and what it does to a selection."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_classprune.pruning.lamp import lamp

torch.set_num_threads(1)


def test_by_hand() -> None:
    squares = torch.tensor([[4.0, 1.0], [0.0, 9.0]], dtype=torch.float64)
    expected = torch.tensor([[4 / 13, 1 / 14], [0, 1]])
    assert torch.equal(lamp(squares), expected)


def test_equal_ones_share_one_score_whatever_their_place() -> None:
    squares = torch.tensor([1.0, 4.0, 1.0, 4.0, 1.0], dtype=torch.float64)
    assert torch.equal(lamp(squares), torch.tensor([1 / 11, 1 / 2, 1 / 11, 1 / 2, 1 / 11]))


@given(st.lists(st.floats(0, 2.0**40, width=32), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_is_its_definition(values: list[float]) -> None:
    found = lamp(torch.tensor(values, dtype=torch.float64)).tolist()
    exact = [Fraction(value) for value in values]
    for value, score in zip(exact, found, strict=True):
        sum_ = sum(other for other in exact if other >= value)
        assert score == pytest.approx(float(value / sum_) if sum_ else 0.0, rel=1e-6, abs=1e-37)


def test_the_order_within_a_layer_is_that_of_the_sizes_and_no_two_sizes_are_one_score() -> None:
    weight = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    weight = torch.cat([weight, torch.nextafter(weight, torch.tensor(9.0)), weight * 1e-9])
    sizes, scores = weight.abs().unique(return_inverse=True)
    by_size = torch.zeros(len(sizes)).scatter_(0, scores, lamp(weight.double().square()))
    assert bool((by_size.diff() > 0).all())


def test_neither_layout_nor_order_nor_a_scale_by_two_changes_a_bit() -> None:
    squares = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(1)).double().square()
    scores = lamp(squares)
    assert torch.equal(lamp(squares.to(memory_format=torch.channels_last)), scores)
    assert torch.equal(lamp(squares * 2.0**-200), scores)
    order = torch.randperm(squares.numel())
    assert torch.equal(lamp(squares.flatten()[order]), scores.flatten()[order])


def test_nothing_and_what_cannot_be_compared() -> None:
    assert torch.equal(lamp(torch.zeros(2, 3, dtype=torch.float64)), torch.zeros(2, 3))
    assert lamp(torch.zeros(0, 3, dtype=torch.float64)).shape == (0, 3)
    for bad in (float("nan"), float("inf")):
        assert lamp(torch.tensor([1.0, bad], dtype=torch.float64)).isnan().all()
