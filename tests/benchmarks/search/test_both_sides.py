"""The parts of benchmarks/search/both_sides.py that compute: intervals, differences, and a line of the table."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from scipy import stats
from torch import nn

from benchmarks.search import both_sides
from benchmarks.search.arms import DATA


def test_exact_intervals_are_those_of_the_binomial_test() -> None:
    assert both_sides.exact_interval(0, 10) == (0.0, pytest.approx(1 - 0.025**0.1))
    assert both_sides.exact_interval(10, 10) == (pytest.approx(0.025**0.1), 1.0)
    known = stats.binomtest(8, 10).proportion_ci(method="exact")
    assert both_sides.exact_interval(8, 10) == pytest.approx((known.low, known.high))


def test_a_mean_of_two_with_students_interval() -> None:
    """Values 1 and 3: standard error 1, and 12.706 of it at one degree of freedom."""
    assert both_sides.mean_interval([1.0, 3.0]) == pytest.approx((2.0, 2 - 12.7062, 2 + 12.7062), abs=1e-4)
    assert both_sides.mean_interval([0.5]) == (0.5, 0.5, 0.5)


def result(seed: int, density: float, fn: int, fp: int, auc: float) -> dict[str, Any]:
    dense = {"positives": 100, "negatives": 200, "fn": 30, "fp": 20, "auc": 0.8, "fn_at_fpr": 50}
    test = dense | {"fn": fn, "fp": fp, "auc": auc, "fn_at_fpr": 52}
    rows = [{"sparsity": 0.0, "verdict": "baseline"}, {"sparsity": 1 - density, "verdict": "accepted"}]
    return {
        "arm": "now", "seed": seed, "density": density, "dense": dense, "test": test, "all_epochs": 20,
        "all_seconds": 30.0, "rows": rows,
    }  # fmt: skip


def test_differences_are_rates_against_the_dense_network_of_the_run() -> None:
    assert both_sides.rises(result(1, 0.02, 33, 50, 0.79)) == pytest.approx(
        {"FN": 0.03, "FP": 0.15, "AUC": -0.01, "FN at 5% FPR": 0.02}
    )


def test_a_line_counts_what_was_delivered_and_rises_beyond_the_limit() -> None:
    results = [
        result(1, 0.02, 33, 50, 0.79),
        result(2, 0.04, 31, 40, 0.81),  # false alarms rise by .10 exactly, which is not beyond
        result(3, 1.0, 30, 20, 0.8),
    ]
    line = both_sides.line("now", results, {1: 0.78, 2: 0.80}, {1: 0.80, 2: 0.82})
    assert line["delivered"].startswith("2 of 3 ")
    assert line["density in %"] == "3 [2, 4]"
    assert line["FN"].startswith("+0.020 ")
    assert line["FP beyond 0.10"] == "1 of 2"
    assert line["AUC against by hand"].startswith("+0.010 ")
    assert line["AUC against dense as long"].startswith("-0.010 ")
    long = both_sides.line("dense as long", [result(3, 1.0, 30, 20, 0.81)], {}, {})
    assert (long["density in %"], long["AUC"][:6]) == ("100 [100, 100]", "+0.010")


def test_the_trace_leaves_the_dense_round_out() -> None:
    assert both_sides.trace(result(1, 0.02, 33, 50, 0.79)["rows"]) == "2+"


def test_what_an_offset_was_not_folded_into_is_tested_with_it() -> None:
    with_offset = both_sides.WithOffset(nn.Identity(), {"sick": 0.5}, ["well", "sick"])
    assert with_offset(torch.tensor([[1.0, 0.0]])).tolist() == [[1.0, 0.5]]


@pytest.mark.parametrize("data", DATA)
def test_the_words_for_the_data_are_words_that_hydra_reads(data: str) -> None:
    for override in OverridesParser.create().parse_overrides(list(DATA[data])):
        assert override.key_or_group.split(".")[0] in {"data", "protect"}
        if override.key_or_group == "protect":
            assert list(override.value().values()) == [0.05]
