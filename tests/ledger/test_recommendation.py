"""The recommendation: by hand from small ledgers, and no claim that the rows do not bear."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_classprune.guard import statistics
from lightning_classprune.ledger.recommendation import recommendation
from tests.support.rows import counts, ledger_row


def row(
    verdict: str,
    density: float,
    missed: int = 0,
    found: int = 0,
    p: float | None = None,
    support: int = 205,
    level: float | None = 0.05,
    tolerance: float | None = 0.05,
) -> dict[str, Any]:
    of_class = counts(
        support, 53 + missed - found, newly_missed=missed, newly_found=found, p_value=p, tolerance=tolerance
    )
    compared = verdict != "abandoned"
    return {
        **ledger_row(0, verdict, {"defective": of_class} if compared else {}, sparsity=1 - density),
        "level": level if compared and verdict != "baseline" else None,
    }


DENSE = row("baseline", 1.0)


def test_what_is_proven_what_was_refused_and_what_would_help() -> None:
    """8 missed and 4 found of 205 leave .05 - 4/205 = .0305; 12 of 205 differ."""
    rows = [DENSE, row("accepted", 0.012, 3, 8, 0.001), row("unproven", 0.005, 8, 4, 0.11)]
    needed = statistics.positives_needed(12 / 205, 0.05 - 4 / 205, 0.05, 0.8)
    assert 205 < needed < 600
    assert recommendation(rows) == (
        "98.8% sparsity is proven; 99.5% sparsity was not proven (defective: 8 newly missed, 4 newly found of 205); "
        f"about {needed - 205} more guard positives of defective would likely prove it."
    )


def test_the_counts_of_a_near_miss() -> None:
    """3 newly missed of 205 leave .037 - 3/205 of the tolerance, for which 283 positives are needed; p is .0528."""
    rows = [DENSE, row("accepted", 0.012, 3, 8, 0.001), row("unproven", 0.005, 3, 0, 0.0528, tolerance=0.037)]
    assert recommendation(rows) == (
        "98.8% sparsity is proven; 99.5% sparsity was not proven (defective: 3 newly missed, 0 newly found of 205); "
        "about 78 more guard positives of defective would likely prove it."
    )


def test_a_rise_beyond_the_tolerance_is_not_cured_by_more_data() -> None:
    rows = [DENSE, row("accepted", 0.012, 3, 8, 0.001), row("refused", 0.005, 40, 4, 0.99)]
    assert recommendation(rows) == (
        "98.8% sparsity is proven; 99.5% sparsity was refused (defective: 40 newly missed, 4 newly found of 205); "
        "more positives of defective would not prove it: the rise in this sample is not below the limit."
    )


def test_no_number_where_none_is_within_reach() -> None:
    rows = [DENSE, row("unproven", 0.5, 30, 20, 0.5, tolerance=0.0493)]
    assert "no number of positives of defective within reach would likely prove it" in recommendation(rows)


def test_the_densest_failure_beyond_the_delivered_network_counts() -> None:
    rows = [
        DENSE,
        row("refused", 0.3, 30, 0, 0.9),
        row("accepted", 0.5, 0, 0, 0.001),
        row("refused", 0.1, 31, 0, 0.9),
        row("refused", 0.2, 32, 0, 0.9),
    ]
    assert recommendation(rows).startswith(
        "50% sparsity is proven; 70% sparsity was refused (defective: 30 newly"
    )
    assert "31" not in recommendation(rows)


def test_a_denser_failure_that_was_overtaken_is_no_news() -> None:
    rows = [DENSE, row("refused", 0.3, 30, 0, 0.9), row("accepted", 0.25, 0, 0, 0.001)]
    assert recommendation(rows) == "75% sparsity is proven; nothing sparser was tried."


def test_abandoned_candidates_are_named_as_untested() -> None:
    rows = [DENSE, row("abandoned", 0.025), row("accepted", 0.16, 0, 4, 0.001), row("abandoned", 0.05)]
    assert recommendation(rows) == (
        "84% sparsity is proven; 97.5% sparsity, 95% sparsity were given up on validation data, untested."
    )
    assert recommendation(rows[:2]) == "97.5% sparsity was given up on validation data, untested."


def test_the_point_rule_proves_nothing() -> None:
    rows = [DENSE, row("accepted", 0.2, level=None), row("refused", 0.1, 30, 1, level=None)]
    assert recommendation(rows) == (
        "80% sparsity was accepted by its counts, which do not exclude chance; 90% sparsity was refused (defective: "
        "30 newly missed, 1 newly found of 205)."
    )


def test_a_diverged_candidate_has_no_counts() -> None:
    assert recommendation([DENSE, row("refused", 0.1) | {"classes": {}}]) == "90% sparsity was refused."


@pytest.mark.parametrize("rows", [[], [DENSE]])
def test_nothing_judged_nothing_said(rows: list[dict[str, Any]]) -> None:
    assert recommendation(rows) == ""


@settings(deadline=None, max_examples=20)
@given(st.integers(20, 400), st.data())
def test_a_number_of_positives_is_named_only_where_the_counts_are_within_the_tolerance(
    support: int, data: st.DataObject
) -> None:
    missed = data.draw(st.integers(0, support // 2))
    found = data.draw(st.integers(0, support // 2))
    said = recommendation([DENSE, row("unproven", 0.5, missed, found, 0.5, support=support)])
    within = (missed - found) / support < 0.05
    assert ("would not prove it" in said) == (not within)
    assert ("more guard positives" in said) <= within


def test_channels_are_said_to_be_channels() -> None:
    rows = [
        {**one, "units": "channels"}
        for one in (DENSE, row("accepted", 0.5, 3, 8, 0.001), row("abandoned", 0.25))
    ]
    assert (
        recommendation(rows)
        == "50% of the channels is proven; 75% of the channels was given up on validation data, untested."
    )


def test_more_positives_are_not_advised_where_only_the_recall_floor_failed() -> None:
    low = row("unproven", 0.005, 3, 8, 0.2)
    low["classes"]["defective"]["upper_bound"] = 0.01
    said = recommendation([DENSE, low])
    assert "positives" not in said
    assert said.endswith("within its tolerance, but the recall is not shown to be above its floor.")


def test_what_failed_under_a_corruption_only_is_told_with_its_name() -> None:
    failed = row("unproven", 0.005, 3, 8, 0.001)
    there = row("unproven", 0.005, 8, 4, 0.11)["classes"]
    failed["corruptions"] = {"fog": {"verdict": "unproven", "reason": "", "classes": there}}
    said = recommendation([DENSE, row("accepted", 0.012, 3, 8, 0.001), failed])
    assert "not proven (defective under fog: 8 newly missed, 4 newly found of 205)" in said
    assert "more guard positives of defective under fog" in said
