"""The ledger on disk, on screen and in one sentence."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from lightning_classprune.ledger.rows import delivered_row
from lightning_classprune.ledger.text import achievement, read_jsonl, table, write_jsonl


def row(
    round_: int, sparsity: float, verdict: str, fn: int, reason: str = "", **change: Any
) -> dict[str, Any]:
    dense = verdict == "baseline"
    counts = {
        "support": 205,
        "fn": fn,
        "recall": 1 - fn / 205,
        "newly_missed": 0 if dense else 12,
        "newly_found": 0 if dense else 53 + 12 - fn,
        "p_value": None if dense else 0.0123,
        "upper_bound": None if dense else 0.031,
        "tolerance": None if dense else 0.05,
    }
    return {
        "round": round_,
        "attempt": 0,
        "sparsity": sparsity,
        "units": "weights",
        "verdict": verdict,
        "reason": reason,
        "classes": {"defective": counts},
        "level": None if dense else 0.05,
        "epochs": 8,
        "seconds": 12.5,
        "seed": 1,
        "validation_passes": 0,
    } | change


ROWS = [
    row(0, 0.0, "baseline", 53),
    row(1, 0.35, "accepted", 44),
    row(2, 0.5775, "accepted", 51),
    row(3, 0.7254, "unproven", 61, "the rise may be anything up to 0.09; 1,200 positives would be needed"),
]


def shown_in(rows: list[dict[str, Any]], width: int = 100) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"), color_system=None)  # noqa: SIM115
    console.print(table(rows))
    return console.export_text()


def test_lines_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "ledger.jsonl"
    write_jsonl(ROWS, path)
    assert read_jsonl(path) == ROWS
    assert [json.loads(line)["round"] for line in path.read_text().splitlines()] == [0, 1, 2, 3]
    assert [p.name for p in path.parent.iterdir()] == ["ledger.jsonl"]


@given(
    st.lists(
        st.dictionaries(st.text(), st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.text())
    )
)
def test_any_plain_rows_round_trip(rows: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_jsonl(rows, Path(folder) / "x")
        assert read_jsonl(Path(folder) / "x") == rows


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    write_jsonl(ROWS[:1], path)
    with pytest.raises(TypeError):
        write_jsonl([*ROWS, {"bad": object()}], path)
    with pytest.raises(ValueError, match="Out of range float"):
        write_jsonl([{"bad": float("nan")}], path)
    assert read_jsonl(path) == ROWS[:1]
    assert [p.name for p in tmp_path.iterdir()] == ["ledger.jsonl"]


def test_a_cut_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_text('{"round": 0}\n{"round": ')
    with pytest.raises(ValueError, match=r"ledger\.jsonl, line 2"):
        read_jsonl(path)
    path.write_text("3\n")
    with pytest.raises(ValueError, match="expected an object"):
        read_jsonl(path)


def test_delivered_is_the_last_that_stands() -> None:
    assert delivered_row([]) is None
    assert delivered_row(ROWS) is ROWS[2]
    assert delivered_row([ROWS[0], ROWS[3]]) is ROWS[0]


def test_table_fits_100_columns_and_says_all() -> None:
    shown = shown_in(ROWS)
    assert max(map(len, shown.splitlines())) <= 100
    assert "53/205" in shown
    assert "61/205" in shown
    assert "0.031/0.05" in shown
    assert "delivered: round 2, sparsity 57.75%" in shown
    assert shown.count("accepted *") == 1
    assert "Round 3 unproven: the rise" in shown
    assert "1,200" in " ".join(shown.split())


def test_table_with_markup_missing_recall_and_two_classes() -> None:
    absent = {"support": 0, "fn": 0, "recall": None, "newly_missed": 0, "newly_found": 0}
    rows = [row(0, 0.0, "baseline", 53)]
    rows[0]["classes"]["[b]odd"] = absent
    shown = shown_in(rows)
    assert "[b]odd" in shown
    assert "0/0" in shown
    assert "delivered: round 0" in shown
    assert shown_in([]).strip()


def test_retries_of_a_round_are_told_apart() -> None:
    rows = [ROWS[0], row(1, 0.35, "refused", 99, attempt=0), row(1, 0.2, "accepted", 51, attempt=1)]
    shown = shown_in(rows)
    assert "1.0" in shown
    assert "1.1" in shown


def test_achievement_claims_what_was_excluded() -> None:
    assert achievement(ROWS) == (
        "57.8% of the prunable weights are gone: class 'defective' missed 51 of 205 against 53 for the dense "
        "network, and a rise of more than 0.05 in its miss rate is excluded at 95% confidence."
    )


def test_achievement_counts_what_was_pruned() -> None:
    rows = [{**one, "units": "channels"} for one in ROWS]
    assert achievement(rows).startswith("57.8% of the prunable channels are gone: ")


def test_achievement_of_a_point_rule_claims_no_confidence() -> None:
    rows = [ROWS[0], row(1, 0.35, "accepted", 44, level=None)]
    assert "confidence" not in achievement(rows)
    assert "chance is not excluded" in achievement(rows)


def test_achievement_after_a_refusal_names_only_the_test() -> None:
    rows = [ROWS[0], row(1, 0.35, "refused", 99), row(1, 0.2, "accepted", 51, attempt=1, level=0.0125)]
    assert "by a test at level 0.0125, after earlier refusals" in achievement(rows)
    assert "confidence" not in achievement(rows)


def test_achievement_when_nothing_stood() -> None:
    sentence = achievement([ROWS[0], row(1, 0.35, "refused", 99, "46 newly missed, 2 at most.")])
    assert sentence == (
        "No pruning step was proven safe: the dense network is delivered unchanged, because at 35.0% sparsity "
        "46 newly missed, 2 at most."
    )
    assert achievement(ROWS[:1]) == "No pruning step was tried: the dense network is delivered."
    assert achievement([]).startswith("Nothing was judged")


def test_a_row_without_counts_is_shown() -> None:
    lost = row(1, 0.35, "refused", 0, "predict returned NaN scores", classes={}, level=None)
    assert "NaN scores" in achievement([ROWS[0], lost])
    assert "refused" in shown_in([ROWS[0], lost])


def test_an_abandoned_candidate_has_a_line_and_a_reason_but_no_counts() -> None:
    """It was not tested, so it is neither delivered nor does it change what the accepted rounds prove."""
    reason = "hopeless; no guard test was made"
    rows = [ROWS[0], row(1, 0.95, "abandoned", 0, reason, classes={}, level=None), ROWS[1] | {"attempt": 1}]
    shown = " ".join(shown_in(rows).split())
    assert "1.0 95.00% abandoned" in shown
    assert f"Round 1.0 abandoned: {reason}" in shown
    assert delivered_row(rows) is rows[2]
    assert achievement(rows) == achievement([rows[0], rows[2]])
    assert "95.0% sparsity hopeless" in achievement(rows[:2])
