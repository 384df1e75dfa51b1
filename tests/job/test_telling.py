"""The terminal's last word: dense beside delivered."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from lightning_classprune.job.comparison import compared
from lightning_classprune.job.telling import final_table, tell
from lightning_classprune.job.unprotected import Lost
from tests.job.report.pages import RISEN, scores


def shown(table: object) -> str:
    console = Console(width=100, file=io.StringIO())
    with console.capture() as said:
        console.print(table)
    return " ".join(said.get().split())


def test_both_networks_on_both_splits() -> None:
    text = shown(final_table(compared(scores("crack"), ["crack"]), None))
    assert "crack guard missed 1 of 4 (25.0%) 2 of 4 (50.0%)" in text
    assert "false alarms 1 of 4 (25.0%) 0 of 4 (0.0%) AUC 0.875 0.875" in text
    assert "test missed 1 of 4" in text


def test_classes_that_nobody_protects_are_the_last_word(capsys: pytest.CaptureFixture[str]) -> None:
    losses = [Lost("rust", 12, 140, 300), *(Lost(f"class {place}", 0, 0, 9) for place in range(6))]
    tell(RISEN.rows, {}, losses)
    text = " ".join(capsys.readouterr().out.split())
    assert (
        "Nobody protects, of the guard: rust missed 12 \N{RIGHTWARDS ARROW} 140 of 300; class 0 missed"
        in text
    )
    assert "and 2 more classes." in text
    assert text.endswith("name it in protect if it matters.")


def test_what_is_not_known_is_a_dash_and_a_rise_is_coloured() -> None:
    both = compared({"guard": {"delivered": scores("crack")["guard"]["delivered"]}}, ["crack"])
    assert "missed - 2 of 4" in shown(final_table(both, None))
    risen = final_table(both, RISEN.rows[-1])
    styles = [str(getattr(cell, "style", "")) for cell in risen.columns[4].cells]
    assert styles == ["", "yellow", ""]
