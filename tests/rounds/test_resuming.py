"""Which checkpoints a run goes on from: those of the same run, whose limits may have been raised where that is fair."""

from __future__ import annotations

from typing import Any

import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lightning_classprune.rounds.resuming import STATE_VERSION, check_extension, check_same_run

MINE: dict[str, Any] = {
    "search": "Fixed",
    "target_sparsity": 0.9,
    "Fixed.max_rounds": 3,
    "Fixed.max_total_epochs": None,
    "Fixed.fraction": 0.2,
    "Fixed.retries": 0,
    "Guard.judging": "round",
    "max_epochs": 5,
}


def same(**now: Any) -> bool:
    return check_same_run(
        {"version": STATE_VERSION, "settings": MINE | {"Fixed.max_total_epochs": 20}},
        MINE | {"Fixed.max_total_epochs": 20} | now,
    )


def test_raised_limits_are_told_from_other_settings() -> None:
    assert not same()
    raised: dict[str, Any] = {"target_sparsity": 0.99, "Fixed.max_rounds": None, "Fixed.max_total_epochs": 21}
    assert same(**raised)
    assert all(same(**{name: value}) for name, value in raised.items())
    for other in (
        {"Fixed.max_rounds": 2},
        {"Fixed.max_total_epochs": 19},
        {"target_sparsity": 0.8},
        {"Fixed.fraction": 0.3},
        {"max_epochs": 6},
        {"Fixed.max_rounds": 4, "Fixed.fraction": 0.3},
        {"Adaptive.max_rounds": 4},
    ):
        with pytest.raises(MisconfigurationException, match=f"other settings: .*{list(other)[-1]} was"):
            same(**other)


def test_a_limit_is_not_taken_back() -> None:
    saved = {"version": STATE_VERSION, "settings": MINE | {"Fixed.max_rounds": None}}
    with pytest.raises(MisconfigurationException, match="max_rounds was None and is now 3"):
        check_same_run(saved, MINE)


def test_what_was_declared_is_not_dropped() -> None:
    saved = {"version": STATE_VERSION, "settings": MINE | {"Files.judged": ["int8"]}}
    with pytest.raises(MisconfigurationException, match=r"Files.judged was \['int8'\] and is now None"):
        check_same_run(saved, MINE)


@pytest.mark.parametrize(
    ("settings", "was_judged", "refusals", "any_refused", "why"),
    [
        ({}, False, 0, False, None),
        ({}, False, 1, False, "has refused a candidate"),
        ({}, False, 0, True, "has refused a candidate"),
        ({"Fixed.retries": 1}, False, 0, False, "fixed before the first"),
        ({"Guard.judging": "end"}, False, 0, False, None),
        ({"Guard.judging": "end"}, True, 0, False, "a judgement is final"),
    ],
)
def test_a_run_is_extended_while_the_guard_has_not_answered(
    settings: dict[str, Any], was_judged: bool, refusals: int, any_refused: bool, why: str | None
) -> None:
    saved = {"settings": MINE | settings, "was_judged": was_judged, "rounds": {"refusals": refusals}}
    if why is None:
        check_extension(saved, any_refused=any_refused)
        return
    with pytest.raises(MisconfigurationException, match=f"cannot be extended, for .*{why}.*begin a new run"):
        check_extension(saved, any_refused=any_refused)
