"""The picture of the ledger."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from lightning_classprune.ledger.figure import figure
from tests.support.rows import counts, ledger_row


def row(
    round_: int, verdict: str, fn: int, support: int = 205, tolerance: float | None = 0.05
) -> dict[str, Any]:
    dense = verdict == "baseline"
    tested: dict[str, Any] = {}
    if not dense:
        bound = None if tolerance is None else (fn - 53) / 205 + 0.04
        tested = {"p_value": 0.01, "upper_bound": bound, "tolerance": tolerance}
    of_class = counts(support, fn, fp=fn, **tested)
    return dict(ledger_row(round_, verdict, {"defective": of_class}, sparsity=1 - 0.65**round_))


FN = [53, 44, 40, 32, 37, 36, 44, 41, 43, 50, 61]
ROWS = [row(0, "baseline", 53)]
ROWS += [row(k, "accepted", fn) for k, fn in enumerate(FN[1:-1], start=1)]
ROWS += [row(10, "unproven", 61), row(10, "refused", 78)]


def test_draws_without_pyplot(tmp_path: Path) -> None:
    before = set(sys.modules)
    path = tmp_path / "ledger.png"
    figure(ROWS).savefig(path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert "matplotlib.pyplot" not in set(sys.modules) - before


def test_shows_the_tolerance_and_every_verdict() -> None:
    drawn = figure(ROWS)
    upper, lower = drawn.axes
    assert (upper.get_ylabel(), lower.get_ylabel()) == (
        "false negatives",
        "false alarms of 450 (not guarded)",
    )
    edges = [line.get_ydata()[0] for line in upper.lines if len(set(line.get_ydata())) == 1]
    assert pytest.approx(53 + 0.05 * 205) in edges
    labels = {text.get_text() for text in drawn.legends[0].get_texts()}
    assert {
        "dense baseline",
        "accepted",
        "refused",
        "unproven",
        "delivered",
        "within tolerance",
        "not excluded",
    } == labels
    assert "round 9" in drawn.get_suptitle()


def test_sparser_is_further_right_and_all_points_are_inside() -> None:
    upper = figure(ROWS).axes[0]
    left, right = upper.get_xlim()
    assert left > 1 > 0.65**10 > right
    assert upper.get_ylim()[0] <= 0 < 78 < upper.get_ylim()[1]


@pytest.mark.parametrize(
    "rows",
    [
        ROWS[:1],
        [row(0, "baseline", 0, support=0), row(1, "unproven", 0, support=0)],
        [row(0, "baseline", 53), row(1, "accepted", 40, tolerance=None)],
        [row(0, "baseline", 0), row(1, "accepted", 0)],
        [row(0, "baseline", 53), row(20, "accepted", 53), row(40, "refused", 200)],
        [row(0, "baseline", 53), {**row(1, "refused", 0), "classes": {}}],
        [{**row(0, "baseline", 53), "classes": {}}],
    ],
)
def test_odd_ledgers_draw(rows: list[dict[str, Any]]) -> None:
    FigureCanvasAgg(figure(rows)).draw()


def test_a_column_per_class() -> None:
    rows = [dict(r, classes={**r["classes"], "cracked": r["classes"]["defective"]}) for r in ROWS]
    assert len(figure(rows).axes) == 4


def test_a_class_name_is_no_formula() -> None:
    name = r"cost $\nothing$"
    rows = [{**r, "classes": {name: r["classes"]["defective"]}} for r in ROWS]
    FigureCanvasAgg(figure(rows)).draw()


def test_an_empty_ledger_is_an_error() -> None:
    with pytest.raises(ValueError, match="rows is empty"):
        figure([])


def test_leaves_global_settings_alone() -> None:
    before = dict(matplotlib.rcParams)
    figure(ROWS)
    assert dict(matplotlib.rcParams) == before


def test_a_notebook_shows_the_figure_as_the_value_of_a_cell() -> None:
    drawn = figure(ROWS)
    assert drawn._repr_png_().startswith(b"\x89PNG")  # what IPython asks an object for
    formatters = pytest.importorskip("IPython.core.formatters")
    data, _ = formatters.DisplayFormatter().format(drawn)
    assert data["image/png"].startswith(b"\x89PNG")


def test_an_abandoned_round_has_no_misses_to_draw() -> None:
    rows = [ROWS[0], row(1, "abandoned", 0) | {"classes": {}}, ROWS[1] | {"round": 1}]
    axes = figure(rows).axes[0]
    drawn = [tuple(point) for c in axes.collections for point in c.get_offsets().tolist()]
    assert {fn for _, fn in drawn} == {53, FN[1]}
