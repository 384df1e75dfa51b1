"""What a report says first."""

from __future__ import annotations

import pytest

from lightning_classprune.job.report.headline import alerts, notice, sentence, title
from tests.job.report.pages import DELIVERED, DENSE, counts, example, row

BASE = row(0, "baseline", 0.0, {"crack": counts(DENSE, DENSE, 1, judged=False)})


def test_the_title_is_one_line_with_both_sides_of_the_price() -> None:
    rows = example().rows
    assert title(rows, True) == "60.0% sparsity: crack missed 1 → 2 of 4, false alarms 1 → 0 of 4"
    assert title(rows, False) == f"So far {title(rows, True)}"
    assert title([], True) == "No network was judged"
    assert title([BASE], True) == "The dense network, unchanged"
    assert title([BASE], False) == "No pruning step stands yet"


def test_of_many_classes_two_are_named() -> None:
    many = [
        row(i, verdict, i / 2, {name: counts(DENSE, DELIVERED, 1, judged=bool(i)) for name in "abcd"})
        for i, verdict in enumerate(("baseline", "accepted"))
    ]
    assert title(many, True).count("missed") == 2
    assert title(many, True).endswith("; and 2 more classes")


@pytest.mark.parametrize(("limit", "said"), [(0.1, "a rise of 10 points was allowed"), (None, "not guarded")])
def test_more_false_alarms_are_said_guarded_or_not(limit: float | None, said: str) -> None:
    now = counts(DENSE, DENSE, 1, judged=True, fp=3, fp_risen=True, max_fp_rise=limit)
    (alert,) = alerts([BASE, row(1, "accepted", 0.5, {"crack": now})])
    assert alert.startswith("crack: 1 → 3 false alarms of 4, more than chance explains; ")
    assert said in alert
    assert alerts(example().rows) == alerts([]) == []


def test_a_refused_network_raises_no_alert() -> None:
    now = counts(DENSE, DENSE, 1, judged=True, fp=4, fp_risen=True)
    assert alerts([BASE, row(1, "refused", 0.5, {"crack": now})]) == []


def test_what_is_not_the_end_is_said() -> None:
    assert notice({"state": "finished", "error": None}) is None
    kinds = [notice({"state": state, "error": None}) for state in ("failed", "interrupted", "running")]
    assert [one["kind"] for one in kinds if one] == ["failed", "interrupted", "running"]
    assert "classprune-judge" in str(kinds[1])


def test_a_sentence_for_every_stage() -> None:
    assert sentence([], False) == "No network was judged."
    assert sentence([BASE], False) == "Only the dense network was judged so far."
    assert sentence(example().rows, False) == f"So far: {sentence(example().rows, True)}"
