"""The picture of a sweep: how sparse each setting gets, against how much more it misses."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

from lightning_classprune.job.sweep.job_rows import Job
from lightning_classprune.job.sweep.sweep import Setting, frontier, settings, tally
from lightning_classprune.ledger.figure import ALLOWED, VERDICTS

LISTED = 16  # settings that the figure has room to name


def frontier_figure(jobs: Sequence[Job]) -> Figure:
    """Draw every setting's delivered density against the worst increase of a protected class' FN rate.

    A point is the mean over the seeds, its bars reach from the smallest to the largest. The staircase joins the
    settings that no other one beats; the numbers are those of the tables. Jobs that failed or still run are counted
    above. Touches no pyplot state.
    """
    result = Figure(figsize=(10.4, 5.8), dpi=120, layout="constrained")
    axes = result.subplots()
    groups = settings(jobs)
    best = frontier(groups)
    styles = {True: VERDICTS["accepted"], False: VERDICTS["refused"]}
    labels = {True: "mean over seeds; bars: all seeds", False: "no step accepted"}
    for pruned, style in styles.items():
        drawn = [one for one in groups if one.pruned is pruned]
        _settings(axes, drawn, str(style["color"]), str(style["marker"]), labels[pruned])
    if best:
        x, y = zip(*((1 - one.point[0], one.point[1]) for one in best), strict=True)
        label = "frontier: nothing is sparser and misses less"
        axes.step(x, y, where="pre", color=ALLOWED, linewidth=1.4, zorder=2)
        axes.plot(
            x, y, color=ALLOWED, marker="o", markersize=14, fillstyle="none", linestyle="none", label=label
        )
    _numbers(axes, groups, best)
    axes.axhline(0, color="black", linewidth=0.8, linestyle=":", label="as many missed as dense")
    axes.set_ylabel("increase of the miss rate on guard data, worst class")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(color="0.92", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(tally(jobs), loc="left", fontsize=10)
    _density_axis(axes, min([1 - value for one in groups for value in one.sparsities], default=1.0))
    result.legend(loc="outside lower center", ncols=2, frameon=False)
    if len(groups) <= LISTED:
        names = [f"{number}: {one.label}" for number, one in enumerate(groups, start=1)]
        empty = [Line2D([], [], linestyle="none") for _ in names]
        result.legend(empty, names, loc="outside right upper", handlelength=0, fontsize=8, frameon=False)
    return result


def _settings(axes: Axes, groups: Sequence[Setting], color: str, marker: str, label: str) -> None:
    for one in groups:
        x, y = 1 - one.point[0], one.point[1]
        axes.errorbar(
            x,
            y,
            xerr=[[x - (1 - max(one.sparsities))], [1 - min(one.sparsities) - x]],
            yerr=[[y - min(one.increases)], [max(one.increases) - y]],
            color=color,
            ecolor="0.6",
            elinewidth=1,
            marker=marker,
            markersize=8,
            markeredgecolor="white",
            linestyle="none",
            zorder=3,
            label=label if one is groups[0] else None,
        )
        seeds = [1 - sparsity for sparsity in one.sparsities]
        axes.scatter(seeds, one.increases, s=7, color=color, alpha=0.7, linewidths=0, zorder=4)


def _numbers(axes: Axes, groups: Sequence[Setting], best: Sequence[Setting]) -> None:
    places: dict[tuple[float, float], list[int]] = {}
    for number, one in enumerate(groups, start=1):
        places.setdefault(one.point, []).append(number)
    on_frontier = {one.point for one in best}
    for (sparsity, increase), numbers in places.items():
        axes.annotate(
            ", ".join(map(str, numbers)),
            (1 - sparsity, increase),
            xytext=(6, 5),
            textcoords="offset points",
            fontsize=9,
            weight="bold" if (sparsity, increase) in on_frontier else "normal",
            zorder=5,
        )


def _density_axis(axes: Axes, smallest: float) -> None:
    axes.set_xscale("log")
    axes.set_xlim(1.2, max(min(smallest, 0.5), 1e-9) / 1.4)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g}%"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("prunable weights kept (dense on the left)")
