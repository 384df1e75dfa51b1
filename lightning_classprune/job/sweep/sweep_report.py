"""A sweep as files beside its run folders: summary.csv, .md, .html and .png."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

from lightning_classprune import files
from lightning_classprune.job.sweep.sweep import (
    Job,
    Setting,
    frontier,
    read,
    settings,
    short_key,
    short_value,
    tally,
    to_csv,
    varying,
)
from lightning_classprune.ledger.figure import ALLOWED, VERDICTS

CAVEAT = (
    "The rise is against each job's own dense network, and a poor one is easily beaten: compare the counts too. "
    "Each job's confidence holds for that job alone. A job picked from many by its guard counts looks better than "
    "it is: read its test counts, or judge it once more on fresh guard data."
)
LISTED = 16  # settings that the figure has room to name
PAGE = Environment(autoescape=True).from_string(
    """{% macro table(rows) %}<div class="scroll"><table>
<tr>{% for cell in rows[0] %}<th>{{ cell }}</th>{% endfor %}</tr>
{% for row in rows[1:] %}<tr>{% for cell in row %}<td>
{%- if cell is string %}{{ cell }}{% else %}<a href="{{ cell[1] | urlencode }}">{{ cell[0] }}</a>{% endif -%}
</td>{% endfor %}</tr>
{% endfor %}</table></div>{% endmacro -%}
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Sweep summary</title><style>
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em }
img { max-width: 100% } .scroll { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { border-bottom: 1px solid #ddd; padding: .25em .7em; text-align: left; vertical-align: top }
</style></head><body>
<h1>Sweep summary</h1><p>{{ tally }}.</p>
<p><img src="summary.png" alt="Delivered density against the increase of the miss rate"></p>
<h2>Settings</h2>{{ table(settings) }}
<h2>Jobs</h2>{{ table(jobs) }}
<p>{{ caveat }}</p></body></html>
"""
)

Cell = str | tuple[str, str]  # text, or text and what it links to


def write(sweep_dir: str | os.PathLike[str]) -> list[Job]:
    """Write the summary of `sweep_dir` into it, each file whole or not at all, and return its jobs.

    Raises:
        ValueError: There is no run folder below it.
    """
    root, jobs = Path(sweep_dir), read(sweep_dir)
    while True:
        _write(root, jobs)
        now = read(sweep_dir)
        if [job.state for job in now] == [job.state for job in jobs]:
            return jobs
        jobs = (
            now  # another job ended meanwhile, and its own summary may have been replaced by this older one
        )


def _write(root: Path, jobs: Sequence[Job]) -> None:
    files.write_text(root / "summary.csv", to_csv(jobs))
    files.write_text(root / "summary.md", to_markdown(jobs))
    files.write_text(root / "summary.html", to_html(jobs))
    with files.replacing(root / "summary.png") as part:
        figure(jobs).savefig(part, format="png")


def to_markdown(jobs: Sequence[Job]) -> str:
    """Return the tables of settings and jobs, with links to the jobs' reports."""
    parts = [f"# Sweep summary\n\n{tally(jobs)}.\n\n![frontier](summary.png)\n"]
    for title, rows in (("Settings", _setting_table(jobs)), ("Jobs", _job_table(jobs))):
        lines = ["| " + " | ".join(map(_markdown, row)) + " |" for row in rows]
        lines.insert(1, "|" + "---|" * len(rows[0]))
        parts.append(f"## {title}\n\n" + "\n".join(lines) + "\n")
    return "\n".join([*parts, CAVEAT + "\n"])


def to_html(jobs: Sequence[Job]) -> str:
    """Return the same as a page that shows `summary.png` beside it."""
    return PAGE.render(tally=tally(jobs), settings=_setting_table(jobs), jobs=_job_table(jobs), caveat=CAVEAT)


def figure(jobs: Sequence[Job]) -> Figure:
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


def _setting_table(jobs: Sequence[Job]) -> list[list[Cell]]:
    groups = settings(jobs)
    best = frontier(groups)
    rows: list[list[Cell]] = [["#", "setting", "seeds", "sparsity", "rise of miss rate", "frontier"]]
    for number, one in enumerate(groups, start=1):
        spread = [_spread(one.sparsities, ".1%"), _spread(one.increases, "+.1%")]
        mark = "yes" if one in best else "" if one.pruned else "no step accepted"
        rows.append([str(number), one.label, str(len(one.jobs)), *spread, mark])
    return rows


def _job_table(jobs: Sequence[Job]) -> list[list[Cell]]:
    keys = varying(jobs)
    classes = list(dict.fromkeys(name for job in jobs for name in job.classes))
    head: list[Cell] = ["job", *map(short_key, keys), "seed", "state", "sparsity", "rise of miss rate"]
    head += [
        f"{name} missed, {split}"
        for name in classes
        for split in ("guard: dense > now / of", "test: dense > now / of")
    ]
    rows = [[*head, "rounds accepted / refused", "last verdict", "epochs", "seconds"]]
    for number, job in enumerate(jobs, start=1):
        row: list[Cell] = [(str(number), job.report or job.name)]
        row += [*(short_value(job.overrides.get(key, "")) for key in keys), job.seed or ""]
        row += [f"{job.state}: {_short(job.error)}" if job.error else job.state]
        row += [_number(job.sparsity, ".1%"), _number(job.increase, "+.1%")]
        for name in classes:
            row += _misses(job, name)
        row += [f"{job.accepted} / {job.refused}", job.verdict or "", str(job.epochs), f"{job.seconds:.0f}"]
        rows.append(row)
    return rows


def _misses(job: Job, name: str) -> list[str]:
    misses = job.classes.get(name)
    if misses is None:
        return ["", ""]
    guard = f"{misses.guard_dense} > {misses.guard} / {misses.guard_support}"
    if misses.test is None:
        return [guard, ""]
    before = "" if misses.test_dense is None else f"{misses.test_dense} > "
    return [guard, f"{before}{misses.test} / {misses.test_support}"]


def _spread(values: Sequence[float], form: str) -> str:
    middle = format(sum(values) / len(values), form)
    return middle if len(values) == 1 else f"{middle} ({min(values):{form}} to {max(values):{form}})"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 160 else line[:157] + "..."


def _markdown(cell: Cell) -> str:
    if isinstance(cell, str):
        return cell.replace("|", r"\|")
    return f"[{_markdown(cell[0])}](<{cell[1]}>)"
