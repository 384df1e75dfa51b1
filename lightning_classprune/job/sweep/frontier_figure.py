"""The picture of a sweep: how sparse each setting gets, against what it misses and how often it calls wolf."""

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
LABELS = ("miss rate", "false-alarm rate")


def frontier_figure(jobs: Sequence[Job]) -> Figure:
    """Draw every setting's delivered sparsity against its miss rate, above, and its false-alarm rate, below.

    Rates are those of guard data, the worst class. A point is the mean over the seeds, its bars reach from the smallest
    to the largest; a hollow marker is the mean of the dense networks. Rings mark the settings that no other one beats;
    the numbers are those of the tables. Jobs that failed or still run are counted above. Touches no pyplot state.
    """
    result = Figure(figsize=(10.4, 8.2), dpi=120, layout="constrained")
    panels = result.subplots(2, sharex=True)
    groups = settings(jobs)
    best = frontier(groups)
    for side, (axes, label) in enumerate(zip(panels, LABELS, strict=True), start=1):
        _settings(axes, groups, side)
        if best:
            x, y = zip(*((1 - one.point[0], one.point[side]) for one in best), strict=True)
            axes.plot(
                x,
                y,
                color=ALLOWED,
                marker="o",
                markersize=14,
                fillstyle="none",
                linestyle="none",
                label="frontier: nothing is sparser and errs less",
            )
        _numbers(axes, groups, best, side)
        axes.set_ylabel(f"{label} on guard data, worst class")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.grid(color="0.92", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_title(tally(jobs), loc="left", fontsize=10)
    _sparsity_axis(panels[1], min([1 - value for one in groups for value in one.sparsities], default=1.0))
    handles, said = panels[0].get_legend_handles_labels()
    once = dict(zip(said, handles, strict=True))
    result.legend(list(once.values()), list(once), loc="outside lower center", ncols=2, frameon=False)
    if len(groups) <= LISTED:
        names = [f"{number}: {one.label}" for number, one in enumerate(groups, start=1)]
        empty = [Line2D([], [], linestyle="none") for _ in names]
        result.legend(empty, names, loc="outside right upper", handlelength=0, fontsize=8, frameon=False)
    return result


def _settings(axes: Axes, groups: Sequence[Setting], side: int) -> None:
    styles = {True: VERDICTS["accepted"], False: VERDICTS["refused"]}
    labels = {True: "mean over seeds; bars: all seeds", False: "no step accepted"}
    for one in groups:
        style, rates = styles[one.pruned], one.miss_rates if side == 1 else one.alarm_rates
        x, y, color = 1 - one.point[0], one.point[side], str(style["color"])
        dense = one.dense_rates[side - 1]
        axes.plot([1.0, x], [dense, y], color="0.75", linewidth=0.8, zorder=1)
        axes.plot(
            1.0,
            dense,
            color=color,
            marker="s",
            markersize=7,
            fillstyle="none",
            linestyle="none",
            zorder=3,
            label="dense networks",
        )
        axes.errorbar(
            x,
            y,
            xerr=[[x - (1 - max(one.sparsities))], [1 - min(one.sparsities) - x]],
            yerr=[[y - min(rates)], [max(rates) - y]],
            color=color,
            ecolor="0.6",
            elinewidth=1,
            marker=str(style["marker"]),
            markersize=8,
            markeredgecolor="white",
            linestyle="none",
            zorder=3,
            label=labels[one.pruned],
        )
        seeds = [1 - sparsity for sparsity in one.sparsities]
        axes.scatter(seeds, rates, s=7, color=color, alpha=0.7, linewidths=0, zorder=4)


def _numbers(axes: Axes, groups: Sequence[Setting], best: Sequence[Setting], side: int) -> None:
    places: dict[tuple[float, float], list[int]] = {}
    for number, one in enumerate(groups, start=1):
        places.setdefault((one.point[0], one.point[side]), []).append(number)
    on_frontier = {(one.point[0], one.point[side]) for one in best}
    for (sparsity, rate), numbers in places.items():
        axes.annotate(
            ", ".join(map(str, numbers)),
            (1 - sparsity, rate),
            xytext=(6, 5),
            textcoords="offset points",
            fontsize=9,
            weight="bold" if (sparsity, rate) in on_frontier else "normal",
            zorder=5,
        )


def _sparsity_axis(axes: Axes, smallest: float) -> None:
    """Sparsity, on a log scale of what is kept."""
    axes.set_xscale("log")
    axes.set_xlim(1.2, max(min(smallest, 0.5), 1e-9) / 1.4)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * (1 - value):.4g}%"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("sparsity (dense on the left)")
