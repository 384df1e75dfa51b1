"""The ledger as a picture: misses and false alarms of each protected class against the share of weights kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from io import BytesIO
from typing import Any, Literal

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from lightning_classprune.ledger.rows import Row, delivered_row, dense_row, stands, units_of

# Okabe & Ito's colour-blind safe palette; each verdict has its own marker as well.
VERDICTS: dict[str, dict[str, Any]] = {
    "baseline": {"color": "#000000", "marker": "s", "label": "dense baseline"},
    "accepted": {"color": "#0072B2", "marker": "o", "label": "accepted"},
    "refused": {"color": "#D55E00", "marker": "X", "label": "refused"},
    "unproven": {"color": "#E69F00", "marker": "^", "label": "unproven"},
    "abandoned": {"color": "#CC79A7", "marker": "v", "label": "abandoned"},
}
ALLOWED = "#009E73"
GRID, WHISKER = "0.9", "0.45"


def figure(rows: Sequence[Row]) -> LedgerFigure:
    """Draw the ledger, one column of axes per protected class: false negatives above, false alarms below.

    The x axis is the sparsity, on a log scale of what is kept, dense on the left. The
    shaded band ends at the tolerance; a whisker reaches to the worst value that the data do not exclude, so a round
    is accepted where its whisker ends inside the band. Touches no pyplot state: save it with
    `figure(rows).savefig(path)`; a notebook shows it as the value of a cell.

    Raises:
        ValueError: `rows` is empty.
    """
    if not rows:
        raise ValueError(
            "rows is empty: there is no judged round to draw; expected at least the baseline row"
        )
    names = list(dict.fromkeys(name for row in rows for name in row["classes"]))
    size = (1 + 6.2 * max(len(names), 1), 6.4)
    result = LedgerFigure(figsize=size, dpi=120, layout="constrained")
    grid = result.subplots(2, max(len(names), 1), sharex=True, squeeze=False)
    for (upper, lower), name in zip(grid.T, names, strict=False):
        judged = [row for row in rows if name in row["classes"]]
        _misses(upper, judged, name)
        _alarms(lower, judged, name)
        _density_axis(lower, rows)
    handles: dict[str, Artist] = {}
    for axes in grid.flat:
        drawn, labels = axes.get_legend_handles_labels()
        handles |= dict(zip(map(str, labels), drawn, strict=True))
    result.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=4, frameon=False)
    final = delivered_row(rows)
    if final is not None:
        result.suptitle(
            f"Delivered: round {final['round']}, {final['sparsity']:.2%} of the prunable {units_of(rows)} removed"
        )
    return result


class LedgerFigure(Figure):
    """A figure that a notebook shows as the value of a cell: Figure itself counts on pyplot for that."""

    def _repr_png_(self) -> bytes:
        with BytesIO() as file:
            self.savefig(file, format="png")
            return file.getvalue()


def _misses(axes: Axes, rows: Sequence[Row], name: str) -> None:
    support = rows[0]["classes"][name]["support"]
    axes.set_title(f"{name} ({support} guard cases)", parse_math=False)
    axes.set_ylabel("false negatives")
    bounds = [row["classes"][name]["upper_bound"] for row in rows]
    allowed = _first([row["classes"][name]["tolerance"] for row in rows])
    _counts(axes, rows, name, "fn", support, bounds, allowed)


def _alarms(axes: Axes, rows: Sequence[Row], name: str) -> None:
    negatives = rows[0]["classes"][name]["negatives"]
    allowed = _first([row["classes"][name]["max_fp_rise"] for row in rows])
    axes.set_ylabel(f"false alarms of {negatives}" + ("" if allowed is not None else " (not guarded)"))
    bounds = [row["classes"][name]["fp_upper_bound"] for row in rows]
    _counts(axes, rows, name, "fp", negatives, bounds, allowed)


def _counts(
    axes: Axes,
    rows: Sequence[Row],
    name: str,
    key: Literal["fn", "fp"],
    cases: int,
    bounds: Sequence[float | None],
    allowed: float | None,
) -> None:
    """Counts of every round, the dense network's, what is allowed, and what is not excluded."""
    dense = dense_row(rows)
    _points(axes, rows, name, key)
    if dense is None or name not in dense["classes"]:
        return
    base = dense["classes"][name][key]
    for row, bound in zip(rows, bounds, strict=True):
        if row["verdict"] != "baseline" and bound is not None:
            _whisker(axes, row, row["classes"][name][key], base + bound * cases)
    axes.axhline(base, color=VERDICTS["baseline"]["color"], linewidth=0.8, linestyle=":")
    if allowed is not None:
        _band(axes, 0, base + allowed * cases)
    axes.set_ylim(0, 1.06 * max(axes.dataLim.y1, 1))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))


def _points(axes: Axes, rows: Sequence[Row], name: str, key: Literal["fn", "fp"]) -> None:
    standing = [row for row in rows if stands(row)]
    axes.plot(*_xy(standing, name, key), color=VERDICTS["accepted"]["color"], linewidth=1.2, zorder=2)
    for verdict, style in VERDICTS.items():
        x, y = _xy([row for row in rows if row["verdict"] == verdict], name, key)
        if x:
            axes.scatter(x, y, s=52, zorder=4, edgecolors="white", linewidths=0.6, **style)
    final = delivered_row(rows)
    if final is not None:
        x, y = _xy([final], name, key)
        axes.scatter(
            x, y, s=190, facecolors="none", edgecolors="black", linewidths=1.4, zorder=5, label="delivered"
        )
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _xy(rows: Sequence[Row], name: str, key: Literal["fn", "fp"]) -> tuple[list[float], list[float]]:
    return [1 - row["sparsity"] for row in rows], [row["classes"][name][key] for row in rows]


def _whisker(axes: Axes, row: Row, start: float, end: float) -> None:
    axes.plot(
        [1 - row["sparsity"]] * 2,
        [start, end],
        color=WHISKER,
        linewidth=1,
        marker="_",
        markersize=9,
        markevery=[1],
        zorder=3,
        label="not excluded",
    )


def _band(axes: Axes, low: float, high: float) -> None:
    axes.axhspan(low, high, color=ALLOWED, alpha=0.10, linewidth=0, zorder=0, label="within tolerance")
    edge = high if low == 0 else low
    axes.axhline(edge, color=ALLOWED, linewidth=1.2, linestyle="--", zorder=1)


def _first(values: Sequence[float | None]) -> float | None:
    return next((value for value in values if value is not None), None)


def _density_axis(axes: Axes, rows: Sequence[Row]) -> None:
    smallest = min(1 - row["sparsity"] for row in rows)
    axes.set_xscale("log")
    axes.set_xlim(1.15, min(smallest, 0.9) / 1.15)
    decades = -math.log10(max(smallest, 1e-12))
    subs = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if decades < 1 else (1.0, 2.0, 5.0) if decades < 2.5 else (1.0,)
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * (1 - value):.4g}%"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(f"sparsity of the prunable {units_of(rows)}")
