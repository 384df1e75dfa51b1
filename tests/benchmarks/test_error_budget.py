"""The calculation behind the shares of an error level, by hand; it uses the levels that a run has."""

from __future__ import annotations

import pytest

from benchmarks.error_budget import ALPHA, accepted, levels, row
from lightning_classprune.guard.error_budget import FIRST_SHARE, ErrorBudget


def test_how_many_are_accepted() -> None:
    # Two tests at 1/2; after a refusal 1/4: AA 1/4, AR 1/4, RA 1/8, RR 3/8.
    assert accepted([0.5, 0.25], 2) == pytest.approx({2: 1 / 4, 1: 3 / 8, 0: 3 / 8})
    # Without a retry a refusal ends it: R 1/2, AR 1/4, AA 1/4.
    assert accepted([0.5], 2) == pytest.approx({2: 1 / 4, 1: 1 / 4, 0: 1 / 2})


@pytest.mark.parametrize(("retries", "tests"), [(1, 3), (2, 5), (3, 10)])
def test_levels_are_those_of_a_run(retries: int, tests: int) -> None:
    budget = ErrorBudget(ALPHA, retries, tests)
    for level in levels(FIRST_SHARE, retries, tests, tests - 1):
        assert budget.level() == pytest.approx(level)
        budget = budget.spend(accepted=False)


def test_a_line_of_the_table() -> None:
    line = row(205, 0.10, 3, 1)
    assert (line["positives"], line["differ on"], line["tests"], line["retries"]) == ("205", "10%", "3", "1")
    assert line["1/2, C(M, r)"] == "0.72, 1.35"
    assert line["0.75, C(M-1, r)"] == "0.76, 1.57"
