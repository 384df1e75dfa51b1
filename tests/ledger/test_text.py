"""The ledger on disk, on screen and in one sentence."""

from __future__ import annotations

import io
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
from tests.support.rows import counts, ledger_row


def row(
    round_: int, sparsity: float, verdict: str, fn: int, reason: str = "", **change: Any
) -> dict[str, Any]:
    of_class = {} if verdict == "baseline" else of_a_test(newly_missed=12, newly_found=53 + 12 - fn)
    made = ledger_row(
        round_,
        verdict,
        {"defective": counts(205, fn, fp=80, **of_class)},
        attempt=0,
        sparsity=sparsity,
        reason=reason,
    )
    return {**made, **change}


def of_a_test(**known: Any) -> dict[str, Any]:
    return {"p_value": 0.0123, "upper_bound": 0.031, "tolerance": 0.05} | known


def guarded(rows: list[dict[str, Any]], **known: Any) -> list[dict[str, Any]]:
    """The same rows of a run that guards false alarms too."""
    sides = {
        "fp_p_value": 0.02,
        "fp_upper_bound": 0.081,
        "max_fp_rise": 0.1,
        "fp": 91,
        "new_alarms": 14,
    } | known

    def of(one: dict[str, Any]) -> dict[str, Any]:
        return one["classes"]["defective"] | (sides if one["verdict"] != "baseline" else {})

    return [{**one, "classes": {"defective": of(one)}} for one in rows]


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
    rows = [row(0, 0.0, "baseline", 53)]
    rows[0]["classes"]["[b]odd"] = counts(0, 0)
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
        "network, with 80 false alarms of 450 against 80; a rise of more than 0.05 in its miss rate is excluded at "
        "95% confidence, false alarms were not guarded."
    )


def test_achievement_claims_both_sides_where_both_were_tested() -> None:
    assert achievement(guarded(ROWS)).endswith(
        "with 91 false alarms of 450 against 80; a rise of more than 0.05 in its miss rate and of more than 0.1 in its "
        "false-alarm rate are excluded at 95% confidence."
    )


@pytest.mark.parametrize("max_fp_rise", [None, 0.1])
def test_achievement_says_a_rise_of_false_alarms_guarded_or_not(max_fp_rise: float | None) -> None:
    risen = achievement(guarded(ROWS, fp_risen=True, max_fp_rise=max_fp_rise))
    assert "with 91 false alarms of 450 against 80, which is shown to be more" in risen
    assert ("false alarms were not guarded" in risen) == (max_fp_rise is None)


def test_achievement_counts_what_was_pruned() -> None:
    rows = [{**one, "units": "channels"} for one in ROWS]
    assert achievement(rows).startswith("57.8% of the prunable channels are gone: ")


def test_achievement_of_a_point_rule_claims_no_confidence() -> None:
    rows = [ROWS[0], row(1, 0.35, "accepted", 44, level=None, confidence=None)]
    assert "confidence" not in achievement(rows)
    assert "chance is not excluded" in achievement(rows)


def test_achievement_after_a_refusal_names_the_confidence_of_the_whole_run() -> None:
    """The test of a retry is at a smaller level, which pays for the others: the claim is the run's."""
    rows = [ROWS[0], row(1, 0.35, "refused", 99), row(1, 0.2, "accepted", 51, attempt=1, level=0.0125)]
    assert "excluded at 95% confidence" in achievement(rows)
    assert "0.0125" not in achievement(rows)


def test_achievement_of_an_open_run_claims_nothing_of_what_was_kept() -> None:
    kept = row(1, 0.35, "kept", 0, classes={}, level=None)
    assert achievement([ROWS[0], kept]) == (
        "The guard has not judged what was kept yet: the dense network is what may be used."
    )


def test_achievement_when_nothing_stood() -> None:
    sentence = achievement([ROWS[0], row(1, 0.35, "refused", 99, "46 newly missed, 2 at most.")])
    assert sentence == (
        "No pruning step was proven safe: the dense network is delivered unchanged, because at 35.0% sparsity "
        "46 newly missed, 2 at most."
    )
    only_dense = row(0, 0.0, "baseline", 53, "the job was stopped")
    assert achievement([only_dense]) == (
        "No pruning step was tried (the job was stopped): the dense network is delivered."
    )
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


def test_a_file_that_was_judged_has_a_line_and_a_reason() -> None:
    counted = counts(fn=60, newly_missed=9, newly_found=2)
    files = {
        "int8": {"verdict": "unproven", "reason": "too few", "classes": {"crack": counted}},
        "fp16": {"verdict": "refused", "reason": "the file's scores are NaN", "classes": {}},
    }
    shown = shown_in([ROWS[0], {**ledger_row(1, "accepted", {"crack": counts()}), "files": files}])
    assert "60/205" in next(
        line for line in shown.splitlines() if "int8: crack" in line and "unproven" in line
    )
    assert "Round 1, int8 unproven: too few" in shown
    assert "Round 1, fp16 refused: the file's scores are NaN" in shown


def in_fog(rows: list[dict[str, Any]], verdict: str = "accepted") -> list[dict[str, Any]]:
    """The same rows of a run that judges in fog too, where ten more are missed."""

    def of(one: dict[str, Any]) -> dict[str, Any]:
        there = {
            **one["classes"]["defective"],
            "fn": one["classes"]["defective"]["fn"] + 10,
            "upper_bound": 0.07,
        }
        return {"fog": {"verdict": verdict, "reason": "told", "classes": {"defective": there}}}

    return [{**one, "corruptions": of(one)} for one in rows]


def test_a_corruption_has_a_line_and_a_part_of_the_claim() -> None:
    rows = in_fog(ROWS[:3])
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(table(rows))
    lines = [line for line in console.export_text().splitlines() if " fog " in line]
    assert len(lines) == 3
    assert "61/205" in lines[2]
    assert "0.070/0.05" in lines[2]
    assert achievement(rows).endswith(
        "; under fog it missed 61 of 205 of 'defective' against 63 (a rise of more than 0.05 is excluded)."
    )


def test_a_file_has_a_line_of_its_own_for_each_corruption() -> None:
    (row,) = in_fog(ROWS[1:2])
    there = {"fog": {"verdict": "refused", "reason": "told", "classes": {"defective": counts(205, 77)}}}
    file = {"verdict": "refused", "reason": "in fog", "classes": row["classes"], "corruptions": there}
    shown = shown_in([ROWS[0], {**row, "files": {"int8": file}}])
    (line,) = [line for line in shown.splitlines() if "77/205" in line]
    assert "int8, fog" in line
    assert "refused" in line
