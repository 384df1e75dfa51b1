"""Tolerances: how users say them, and what they allow."""

import json
import math

import numpy as np
import pytest

from lightning_classprune.guard.tolerance import FNTolerance


def test_a_plain_number_is_a_rate():
    assert FNTolerance.of(0.05) == FNTolerance(rate=0.05)
    assert FNTolerance.of(0) == FNTolerance(rate=0.0)
    assert FNTolerance.of(1) == FNTolerance(rate=1.0)
    assert FNTolerance.of(np.float64(0.05)) == FNTolerance(rate=0.05)
    given_one = FNTolerance(count=2, recall_floor=0.8)
    assert FNTolerance.of(given_one) is given_one


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "exactly one of rate, count and factor, got none"),
        ({"recall_floor": 0.9}, "exactly one of rate, count and factor, got none"),
        ({"rate": 0.1, "count": 1}, "got rate and count"),
        ({"rate": -0.1}, r"rate must be a number in \[0, 1\].*got -0.1"),
        ({"rate": 1.01}, "rate must be"),
        ({"rate": math.nan}, "rate must be"),
        ({"rate": True}, "rate must be"),
        ({"rate": "0.1"}, "rate must be"),
        ({"count": -1}, "count must be a whole number >= 0, got -1"),
        ({"count": 1.0}, "count must be"),
        ({"count": True}, "count must be"),
        ({"factor": 0.9}, "factor must be a finite number >= 1, got 0.9"),
        ({"factor": math.inf}, "factor must be"),
        ({"rate": 0.1, "recall_floor": 0.0}, r"recall_floor must be a number in \(0, 1\), got 0.0"),
        ({"rate": 0.1, "recall_floor": 1}, "recall_floor must be"),
    ],
)
def test_tolerance_errors_name_the_field(fields, message):
    with pytest.raises(ValueError, match=message):
        FNTolerance(**fields)


@pytest.mark.parametrize("value", [True, 3, -0.1, math.nan, "0.1", None])
def test_no_other_plain_value_is_a_tolerance(value):
    with pytest.raises(ValueError, match="rate"):
        FNTolerance.of(value)


def test_factor_needs_the_point_rule():
    FNTolerance(factor=1.5).check_confidence(None)
    FNTolerance(rate=0.1).check_confidence(0.95)
    with pytest.raises(ValueError, match="factor needs confidence=None"):
        FNTolerance(factor=1.5).check_confidence(0.95)


def test_rise():
    assert FNTolerance(rate=0.05).rise(20, 4) == 0.05
    assert FNTolerance(count=3).rise(60, 4) == 0.05
    assert FNTolerance(count=9).rise(3, 0) == 1.0
    assert FNTolerance(factor=1.5).rise(20, 4) == 0.1
    assert FNTolerance(factor=2).rise(20, 0) == 0.0
    with pytest.raises(ValueError, match="support must be"):
        FNTolerance(count=3).rise(0, 0)


@pytest.mark.parametrize(
    "tolerance",
    [
        FNTolerance(rate=np.float32(0.5)),
        FNTolerance(count=np.int64(3)),
        FNTolerance(factor=2, recall_floor=0.9),
    ],
)
def test_tolerance_survives_json(tolerance):
    assert FNTolerance.from_dict(json.loads(json.dumps(tolerance.to_dict()))) == tolerance
    assert all(type(value) in (int, float, type(None)) for value in tolerance.to_dict().values())
