"""What sweepers optimise, computed by hand from small ledgers."""

from __future__ import annotations

from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st

from lightning_classprune.job import objective
from lightning_classprune.job.configuration import conf_dir


def row(
    verdict: str,
    sparsity: float,
    fp: int = 8,
    limit: float | None = None,
    tolerance: float | None = 0.05,
    **fn: int,
) -> dict[str, Any]:
    classes = {
        name: {
            "fn": misses,
            "support": 40,
            "fp": fp,
            "negatives": 80,
            "max_fp_rise": limit if verdict != "baseline" else None,
            "tolerance": tolerance if verdict != "baseline" else None,
        }
        for name, misses in fn.items()
    }
    return {"verdict": verdict, "sparsity": sparsity, "classes": classes}


LEDGER = [
    row("baseline", 0.0, crack=10, dent=4),
    row("accepted", 0.5, crack=9, dent=5),
    row("refused", 0.8, crack=30, dent=30),
]


def guarded(fp: int, fn: int = 10, limit: float | None = 0.1) -> list[dict[str, Any]]:
    """The dense network misses 10 of 40 and has 8 false alarms of 80."""
    return [row("baseline", 0.0, crack=10), row("accepted", 0.9, fp, limit, crack=fn)]


def test_the_delivered_network_counts_and_not_the_refused_one() -> None:
    assert objective.sparsity(LEDGER) == 0.5
    assert objective.fn_increase(LEDGER) == {"crack": -1 / 40, "dent": 1 / 40}
    assert objective.fp_increase(LEDGER) == {"crack": 0, "dent": 0}
    assert objective.sparsity_fn(LEDGER) == (0.5, 9 / 40)
    assert objective.weighted(LEDGER, weight=4.0) == pytest.approx(0.5 - 4.0 / 40)
    assert objective.balanced(LEDGER, max_fp_rise=0.1) == 0.5


def test_fewer_misses_are_worth_something() -> None:
    better = [row("baseline", 0.0, crack=10), row("accepted", 0.5, crack=6)]
    assert objective.weighted(better, weight=2.0) == pytest.approx(0.5 + 2.0 * 4 / 40)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (guarded(16), 0.9),  # a rise of .1, at the limit
        (guarded(20), -0.05),  # of .15
        (guarded(8, fn=13), -0.025),  # misses .075 against .05
        (guarded(24, fn=16), -0.1),  # both: .2 against .1, .15 against .05
        (guarded(20, limit=None), -0.05),  # not guarded: the limit of the objective
        (guarded(20, limit=0.2), 0.9),
        ([], 0.0),
        (guarded(8)[:1], 0.0),  # the dense network
    ],
)
def test_balanced_is_the_sparsity_where_both_limits_hold(rows: list[dict[str, Any]], expected: float) -> None:
    assert objective.balanced(rows, max_fp_rise=0.1) == pytest.approx(expected)


def test_no_limit_is_exceeded_by_nobody() -> None:
    rows = [row("baseline", 0.0, crack=0), row("accepted", 0.9, tolerance=None, crack=40)]
    assert objective.balanced(rows, max_fp_rise=1.0) == 0.9


def test_where_false_alarms_are_guarded_they_have_a_price() -> None:
    assert objective.weighted(guarded(16, fn=8), weight=2.0) == pytest.approx(0.9 - 2.0 * 0.1)
    assert objective.weighted(guarded(16, fn=8, limit=None), weight=2.0) == pytest.approx(0.9 + 2.0 * 0.05)
    assert objective.sparsity_fn(guarded(16, fn=8)) == (0.9, pytest.approx(0.2 + 0.2))
    assert objective.sparsity_fn(guarded(16, fn=8, limit=None)) == (0.9, 0.2)
    dense = [*guarded(8)[:1], row("refused", 0.9, 60, 0.1, crack=9)]
    assert objective.sparsity_fn(dense) == (
        0.0,
        pytest.approx(0.25 + 0.1),
    )  # of the dense network, on the same scale


@pytest.mark.parametrize("rows", [[row("baseline", 0.0, crack=10)], LEDGER[:1] + LEDGER[2:]])
def test_the_dense_network_is_no_rise_and_no_gain(rows: list[dict[str, Any]]) -> None:
    assert objective.sparsity(rows) == 0.0
    assert objective.weighted(rows, weight=3.0) == 0.0
    assert objective.sparsity_fn(rows) == (0.0, 10 / 40)


def test_without_any_verdict_nothing_is_known() -> None:
    assert objective.sparsity([]) == objective.weighted([], weight=3.0) == 0.0
    assert objective.sparsity_fn([]) == (0.0, 1.0)


def test_what_cannot_be_compared_is_left_out() -> None:
    nan_dense = [row("baseline", 0.0), row("accepted", 0.5, crack=3)]
    assert objective.fn_increase(nan_dense) == {}
    assert objective.weighted(nan_dense, weight=2.0) == 0.5
    empty_class = [row("baseline", 0.0, crack=0), row("accepted", 0.5, crack=0)]
    for one in empty_class:
        one["classes"]["crack"] |= {"support": 0, "negatives": 0}
    assert objective.fn_increase(empty_class) == objective.fp_increase(empty_class) == {}
    assert objective.sparsity_fn(empty_class) == (0.5, 1.0)


@given(st.floats(0, 1), st.integers(0, 40), st.integers(0, 40), st.floats(0, 100))
def test_weight_is_the_price_of_a_rise(sparsity: float, dense: int, now: int, weight: float) -> None:
    rows = [row("baseline", 0.0, crack=dense), row("accepted", sparsity, crack=now)]
    assert objective.sparsity_fn(rows) == (sparsity, now / 40)
    assert objective.weighted(rows, 0.0) == sparsity
    assert objective.weighted(rows, weight) == pytest.approx(sparsity - weight * (now - dense) / 40)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ([], 0.5),
        (["objective=weighted"], 0.5 - 5 / 40),
        (["objective=weighted", "objective.weight=2"], 0.45),
        (["objective=sparsity_fn"], (0.5, 0.225)),
        (["objective=balanced"], 0.5),
    ],
)
def test_it_is_named_in_the_configuration(choice: list[str], expected: Any) -> None:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("config", choice)
    assert instantiate(cfg.objective)(LEDGER) == pytest.approx(expected)
