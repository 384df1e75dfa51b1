"""The dense network as a measure: which is none, and what nothing can prove against it."""

from __future__ import annotations

import pytest

from lightning_classprune.guard import statistics
from lightning_classprune.guard.dense import impossible, power_warning, remarks, unfit
from lightning_classprune.guard.evidence import Evidence
from lightning_classprune.guard.protected import Protected
from lightning_classprune.guard.tolerance import FNTolerance


def own(support: int, wrong: int) -> Evidence:
    return Evidence(support, wrong, 0, 0)


def limits(rate: float = 0.05, max_fp_rise: float | None = 0.1, **more: float) -> Protected:
    return Protected(1, "c", FNTolerance(rate=rate, **more), max_fp_rise)


@pytest.mark.parametrize(
    ("misses", "alarms", "why"),
    [
        (own(50, 0), own(100, 100), "calls every case"),
        (own(50, 50), own(100, 0), "calls no case"),
        (own(50, 25), own(100, 50), "not shown to be better than chance"),
        (own(3, 1), own(100, 60), "not shown to be better than chance"),
    ],
)
def test_a_network_that_cannot_get_worse_is_no_measure(misses: Evidence, alarms: Evidence, why: str) -> None:
    assert why in str(unfit(misses, alarms))


def test_one_that_finds_more_than_chance_is_a_measure() -> None:
    assert unfit(own(50, 10), own(100, 20)) is None


def test_more_than_half_missed_is_remarked() -> None:
    assert remarks(own(10, 5)) == []
    assert remarks(own(10, 6)) == ["it misses more than half of its cases (6 of 10)"]


def test_what_nothing_can_prove_is_known_after_the_dense_network() -> None:
    assert impossible(own(53, 3), own(100, 5), limits(), 0.05) is None  # an improvement of 3 would do
    assert "not even a network without an error" in str(impossible(own(53, 0), own(100, 5), limits(), 0.05))
    assert "the false-alarm rate" in str(impossible(own(200, 20), own(20, 0), limits(), 0.05))
    assert impossible(own(200, 20), own(20, 0), limits(max_fp_rise=None), 0.05) is None
    assert "nothing but it" in str(impossible(own(200, 20), own(0, 0), limits(), 0.05))
    assert impossible(own(0, 0), own(9, 0), limits(), None) == "the guard data have no positives of it"
    assert impossible(own(10, 0), own(10, 0), limits(), None) is None  # the point rule can always pass
    assert "recall above 0.99" in str(impossible(own(200, 20), own(200, 0), limits(recall_floor=0.99), 0.05))


def test_impossible_agrees_with_the_best_table_there_is() -> None:
    for support in (20, 40, 60, 80):
        for missed in (0, 2, 8):
            best = statistics.exact_p_value(0, missed, support, 0.05)
            said = impossible(own(support, missed), own(500, 10), limits(), 0.05)
            assert (said is not None) == (best > 0.05)


def test_power_is_said_where_it_is_less_than_even() -> None:
    assert power_warning(own(600, 60), limits(), 0.05, (0.05, 0.1)) is None
    warned = str(power_warning(own(205, 72), limits(), 0.05, (0.175, 0.35)))
    assert "0.50 if it differs on 0.17" in warned or "0.5" in warned
    assert "877 positives" in warned
    assert power_warning(own(205, 72), limits(), None, (0.1,)) is None
    assert "only a proven improvement" in str(power_warning(own(205, 72), limits(0.0), 0.05, (0.1,)))
