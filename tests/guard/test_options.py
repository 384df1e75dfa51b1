"""How a candidate is judged, as users say it."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from lightning_classprune.guard.options import Guard


def test_defaults_are_a_test_of_both_sides_at_95_percent_against_a_trained_network() -> None:
    assert Guard() == Guard(
        confidence=0.95, baseline="train", max_fp_rise=0.10, offset="none", judging="round"
    )
    assert Guard().alpha == 0.05, "exact in decimals"
    assert Guard(confidence=0.9).alpha == 0.1
    assert Guard(confidence=0.5).alpha == 0.5
    assert Guard(confidence=None).alpha is None


def test_numbers_become_plain_ones_so_that_they_can_be_saved() -> None:
    guard = Guard(confidence=np.float64(0.9), max_fp_rise=np.float32(0.5))
    assert type(guard.confidence) is type(guard.max_fp_rise) is float
    assert dataclasses.asdict(guard) == {
        "confidence": 0.9,
        "baseline": "train",
        "max_fp_rise": 0.5,
        "offset": "none",
        "judging": "round",
        "epoch": "last",
        "cluster": "one",
        "corruptions": None,
        "normalization": None,
    }
    assert Guard(max_fp_rise={1: 0, "a": None}).max_fp_rise == {1: 0.0, "a": None}


@pytest.mark.parametrize("rise", [-0.1, 1.1, 10, math.nan, "0.1", True, {1: 2.0}, {1: "x"}])
def test_a_rise_of_false_alarms_out_of_range_is_named(rise: Any) -> None:
    with pytest.raises(
        ValueError, match=r"Guard\.max_fp_rise=.* is out of range: a number in \[0, 1\], or None"
    ):
        Guard(max_fp_rise=rise)


def test_an_empty_mapping_is_no_answer() -> None:
    with pytest.raises(ValueError, match="names no class"):
        Guard(max_fp_rise={})


@pytest.mark.parametrize("rise", [None, {1: None}, {1: 0.1, 0: None}])
def test_an_offset_needs_a_limit_of_false_alarms(rise: Any) -> None:
    with pytest.raises(ValueError, match=r"Guard\.offset='validation' with max_fp_rise=.*at any price"):
        Guard(offset="validation", max_fp_rise=rise)
    assert Guard(offset="validation", max_fp_rise=0.0).offset == "validation"


def test_a_judgement_at_the_end_needs_a_confidence() -> None:
    with pytest.raises(ValueError, match=r"Guard\.judging='end' with confidence=None"):
        Guard(judging="end", confidence=None)


@pytest.mark.parametrize(("name", "value"), [("offset", "guard"), ("offset", True), ("judging", "once")])
def test_a_choice_that_there_is_not_is_named(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"Guard\.{name}=.* is unknown"):
        Guard(**{name: value})


@pytest.mark.parametrize("confidence", [0, 1, 1.0, -0.1, 95, math.nan, "0.95", True])
def test_a_confidence_out_of_range_is_named(confidence: Any) -> None:
    with pytest.raises(ValueError, match=r"Guard\.confidence=.* is out of range"):
        Guard(confidence=confidence)


def test_less_than_half_is_no_confidence() -> None:
    with pytest.raises(ValueError, match=r"Guard\.confidence=0\.4 is out of range: at least 0\.5, or None"):
        Guard(confidence=0.4)


@pytest.mark.parametrize("baseline", ["dense", "", None, 3])
def test_a_baseline_that_there_is_not_is_named_with_the_allowed(baseline: Any) -> None:
    with pytest.raises(ValueError, match=r"Guard\.baseline=.* is unknown: 'train' or 'current'"):
        Guard(baseline=baseline)


def test_options_are_given_by_name_and_stay_as_they_are() -> None:
    with pytest.raises(TypeError):
        Guard(0.95)  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        Guard().confidence = 0.5  # type: ignore[misc]
