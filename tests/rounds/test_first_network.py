"""The first network of a run: what it is called, and what the ledger says of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_classprune.rounds.first_network import First, share_of_zeros, take_first
from tests.guard.test_judge import begun, decided, judge

NOTHING: Any = {"earlier": None, "rehearsal": False, "zeros": 0.0}


def test_zeros_are_counted_over_all_weights() -> None:
    weights = {"a": torch.tensor([[0.0, 1.0], [-0.0, 2.0]]), "b": torch.tensor([3.0])}
    assert share_of_zeros(weights) == 2 / 5


def test_up_to_a_hundredth_of_zeros_it_is_dense() -> None:
    made, dense = judge(), decided(1)
    first = take_first(made, None, dense, **NOTHING | {"zeros": 0.01})
    assert first.why.startswith("the dense network, against which every round is judged: ")
    assert first.finished is None
    assert made.dense is dense


def test_a_network_that_came_pruned_is_called_so_and_warned_of() -> None:
    with pytest.warns(UserWarning, match=r"of which 30\.0% of the prunable weights are zero already"):
        first = take_first(judge(), None, decided(1), **NOTHING | {"zeros": 0.3})
    assert first.why.startswith(
        "the network as it came, of which 30.0% of the prunable weights are zero already"
    )


def test_no_round_follows_where_nothing_can_be_judged() -> None:
    why = "the dense network's scores are NaN"
    first = take_first(judge(), None, None, **NOTHING)
    assert first.finished is not None
    assert why in first.finished
    assert first.why == first.finished, "there are no counts to tell"


@pytest.mark.parametrize(("was_judged", "finished"), [(True, True), (False, False)])
def test_an_earlier_fit_stays_the_measure_and_what_it_spent_is_spent(
    was_judged: bool, finished: bool
) -> None:
    earlier = begun(decided(1)).state_dict() | {"was_judged": was_judged}
    made = judge()
    first = take_first(made, None, decided(2), **NOTHING | {"earlier": earlier, "zeros": 0.3})
    spent = "the earlier fit has spent what this guard can prove"
    assert first.finished == (spent if finished else None)
    assert first.why.endswith(spent) is finished
    assert made.dense is not None
    assert made.dense.same_cases(decided(1))
    assert "1 newly missed, 0 newly found of 10" in first.why


def test_a_rehearsal_takes_nothing_over() -> None:
    earlier = begun(decided(1)).state_dict() | {"was_judged": True}
    first = take_first(judge(), None, decided(), **NOTHING | {"earlier": earlier, "rehearsal": True})
    assert first == First(first.why, first.finished)
    assert "fast_dev_run" in str(first.finished)
