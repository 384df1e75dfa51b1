"""Outcomes under conditions: all but what is asked by a condition's name is of the cases as they come."""

from __future__ import annotations

from typing import Any

import torch

from lightning_classprune.guard.conditions import Throughout, plain, under
from lightning_classprune.guard.outcomes import Decisions

NAMES = ("a", "b")
TARGET = [1, 1, 1, 0, 0]


def decided(*predicted: int) -> Decisions:
    return Decisions(torch.tensor(TARGET), torch.tensor(predicted), 2, NAMES)


def both(first: Any, second: Any) -> Throughout:
    return Throughout(first, {"fog": second})


DENSE = both(decided(1, 1, 1, 0, 0), decided(1, 1, 0, 0, 0))
PRUNED = both(decided(0, 1, 1, 0, 0), decided(1, 0, 0, 1, 0))


def test_pairs_are_of_the_same_condition() -> None:
    misses, alarms = PRUNED.pairs(DENSE, "b")
    assert (misses.newly_missed, misses.newly_found, alarms.newly_missed) == (1, 0, 0)
    misses, alarms = under(PRUNED, "fog").pairs(under(DENSE, "fog"), "b")
    assert (misses.baseline_missed, misses.newly_missed, alarms.newly_missed) == (1, 1, 1)
    assert under(PRUNED, None) is plain(PRUNED) is PRUNED.plain
    assert plain(PRUNED.plain) is PRUNED.plain
    assert (len(PRUNED), PRUNED.mistakes(DENSE).newly_missed, PRUNED.remarks()) == (5, 1, [])


def test_the_same_decisions_are_the_same_under_every_condition() -> None:
    other = both(PRUNED.plain, decided(1, 0, 0, 0, 0))
    assert PRUNED.same_cases(other)
    assert PRUNED.same_decisions(both(*(PRUNED.plain, PRUNED.under["fog"])))
    assert not PRUNED.same_decisions(other)
    assert not PRUNED.same_decisions(DENSE)


def test_what_is_saved_tells_conditions_apart() -> None:
    saved = PRUNED.state_dict()
    assert torch.equal(saved["predicted"].long(), PRUNED.plain.predicted)  # type: ignore[attr-defined]
    assert torch.equal(saved["fog/predicted"].long(), PRUNED.under["fog"].predicted)  # type: ignore[attr-defined]
