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


def row(verdict: str, sparsity: float, **fn: int) -> dict[str, Any]:
    classes = {name: {"fn": misses, "support": 40} for name, misses in fn.items()}
    return {"verdict": verdict, "sparsity": sparsity, "classes": classes}


LEDGER = [
    row("baseline", 0.0, crack=10, dent=4),
    row("accepted", 0.5, crack=9, dent=5),
    row("refused", 0.8, crack=30, dent=30),
]


def test_the_delivered_network_counts_and_not_the_refused_one() -> None:
    assert objective.sparsity(LEDGER) == 0.5
    assert objective.fn_increase(LEDGER) == {"crack": -1 / 40, "dent": 1 / 40}
    assert objective.sparsity_fn(LEDGER) == (0.5, 9 / 40)
    assert objective.weighted(LEDGER, weight=4.0) == pytest.approx(0.5 - 4.0 / 40)


def test_fewer_misses_are_worth_something() -> None:
    better = [row("baseline", 0.0, crack=10), row("accepted", 0.5, crack=6)]
    assert objective.weighted(better, weight=2.0) == pytest.approx(0.5 + 2.0 * 4 / 40)


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
        one["classes"]["crack"]["support"] = 0
    assert objective.fn_increase(empty_class) == {}
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
    ],
)
def test_it_is_named_in_the_configuration(choice: list[str], expected: Any) -> None:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("config", choice)
    assert instantiate(cfg.objective)(LEDGER) == pytest.approx(expected)
