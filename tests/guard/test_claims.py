"""Claims: margins and plain decisions agree, and shapes are told apart."""

from __future__ import annotations

import pytest
import torch

from lightning_classprune.guard.claims import SCORE_BIASES, check_target, claims, flags_of, scores_of
from lightning_classprune.guard.objects import PROBABILITIES, Reading

HOW = Reading(("a", "b", "c"), (1,), 0.0, (0.0,))
TWO = Reading(("a", "b"), (1,), 0.25, (0.0,))


def test_what_is_claimed_is_the_largest_score_and_the_first_of_equals() -> None:
    scores = torch.randint(0, 3, (200, 3), generator=torch.Generator().manual_seed(0)).float()
    for index in range(3):
        assert claims(scores, index, HOW).plain.tolist() == (scores.argmax(-1) == index).tolist()


def test_of_one_score_a_threshold_decides() -> None:
    scores = torch.tensor([[0.0], [0.25], [0.5]])
    assert claims(scores, 1, TWO).plain.tolist() == [False, True, True]
    assert claims(scores, 0, TWO).plain.tolist() == [True, False, False]
    assert claims(scores, 1, TWO).at(0.3).tolist() == [True, True, True]
    assert claims(scores, 0, TWO).at(0.3).tolist() == [True, True, True]


def test_biases_are_fine_around_none_and_on_both_sides() -> None:
    assert len(set(SCORE_BIASES)) == len(SCORE_BIASES)
    assert sorted(SCORE_BIASES) == [-bias for bias in SCORE_BIASES[::-1]]
    assert 0 not in SCORE_BIASES


def test_shapes() -> None:
    assert scores_of(torch.zeros(2, 3, 4, 5), (2, 4, 5), HOW).shape == (2, 4, 5, 3)  # type: ignore[union-attr]
    assert scores_of(torch.zeros(2, 4, 5), (2, 4, 5), HOW) is None
    assert scores_of(torch.zeros(2, 4, 5), (2, 4, 5), TWO).shape == (2, 4, 5, 1)  # type: ignore[union-attr]


def test_probabilities_are_seen_where_the_threshold_is_none() -> None:
    wrong = Reading(("a", "b"), (1,), 0.0, (0.0,))
    assert flags_of(torch.rand(4, 1), wrong) == PROBABILITIES
    assert (
        flags_of(torch.rand(4, 1), TWO)
        == flags_of(torch.rand(4, 1) - 1, wrong)
        == flags_of(torch.rand(4, 2), wrong)
        == 0
    )


def test_targets_out_of_range_are_refused() -> None:
    check_target(torch.tensor([0, 2, 255]), 255, HOW)
    with pytest.raises(ValueError, match=r"targets from 0 to 255; whole numbers from 0 to 2 are allowed$"):
        check_target(torch.tensor([0, 2, 255]), None, HOW)
