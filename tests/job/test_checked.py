"""What has the types that it should have, and what has not."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

import pytest

from lightning_classprune.job.checked import Status, check
from lightning_classprune.ledger.rows import Row
from tests.support.rows import ledger_row


class Inner(TypedDict):
    """For a dict in a dict."""

    n: int


class Outer(TypedDict):
    """With everything."""

    inner: dict[str, Inner]
    many: list[float | None]
    word: Literal["a", "b"]
    rest: Any


GOOD = {"inner": {"x": {"n": 1}}, "many": [1, 2.5, None], "word": "a", "rest": {"y": object}}


def test_what_fits_passes() -> None:
    check(GOOD, Outer, "it")
    check({}, Outer, "it")
    check({"state": "running"}, Status, "it")
    check({"state": "finished", "error": None, "objective": [0.5, 0.1]}, Status, "it")
    check(ledger_row(0, "baseline"), Row, "it")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (GOOD | {"inner": {"x": {"n": 1.5}}}, r"it\.inner\.x\.n is '1\.5'"),
        (GOOD | {"inner": {"x": {"n": True}}}, r"it\.inner\.x\.n is 'True'"),
        (GOOD | {"inner": {"x": {"n": 10**400}}}, r"it\.inner\.x\.n is '1000"),
        (GOOD | {"inner": [1]}, r"it\.inner is"),
        (GOOD | {"many": [1, "2"]}, r"it\.many\[1\] is '2'"),
        (GOOD | {"word": "c"}, r"it\.word is 'c'"),
        ([], r"it is '\[\]'"),
    ],
)
def test_what_does_not_fit_is_named(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(value, Outer, "it")


@pytest.mark.parametrize("state", [3, None, "ended", ["running"]])
def test_a_state_is_one_of_four(state: Any) -> None:
    with pytest.raises(ValueError, match=r"status\.json\.state"):
        check({"state": state}, Status, "status.json")
