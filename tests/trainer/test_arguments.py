"""Checks of single arguments: what they let through, as which type, and what they say of the rest."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from lightning_classprune.trainer.arguments import is_number, is_whole, one_of, share, whole, whole_or_none


@pytest.mark.parametrize(
    ("value", "number", "counts"),
    [
        (1, True, True),
        (1.0, True, False),
        (Fraction(1, 2), True, False),
        (np.float32(1), True, False),
        (np.int8(1), True, True),
        (True, False, False),
        (np.bool_(True), False, False),
        ("1", False, False),
        (None, False, False),
        (1j, False, False),
        (Decimal(1), False, False),
    ],
)
def test_what_a_number_is(value: Any, number: bool, counts: bool) -> None:
    assert is_number(value) == number
    assert is_whole(value) == counts


@pytest.mark.parametrize("value", [0.25, Fraction(1, 4), np.float32(0.25)])
def test_a_share_becomes_a_float(value: Any) -> None:
    assert share("part", value) == 0.25
    assert type(share("part", value)) is float


@pytest.mark.parametrize("value", [0, 1, -0.5, float("nan"), "0.5", True, None])
def test_what_is_no_share_is_refused_with_what_is_allowed(value: Any) -> None:
    message = rf"^part={value!r} is out of range: a number strictly between 0 and 1"
    with pytest.raises(ValueError, match=message + "$"):
        share("part", value)
    with pytest.raises(ValueError, match=message + " or None$"):
        share("part", value, "or None")


def test_whole_numbers_have_a_least() -> None:
    assert whole("n", np.int32(3), 3) == whole_or_none("n", 3, 3) == 3
    assert type(whole("n", np.int32(3), 3)) is int
    assert whole_or_none("n", None, 3) is None
    for value in (2, 3.0, "3", True, None):
        with pytest.raises(ValueError, match=rf"^n={value!r} is out of range: a whole number of at least 3$"):
            whole("n", value, 3)  # type: ignore[arg-type]


def test_one_of_several_words() -> None:
    one_of("way", "up", ("up", "down"))
    one_of("way", "up", {"up": 1})
    for value in ("left", None, 1, ["up"]):
        with pytest.raises(ValueError, match=r"^way=.* is unknown: 'up' or 'down'$"):
            one_of("way", value, ("up", "down"))
