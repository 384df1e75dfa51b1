"""The summary of a sweep, as files beside its run folders: summary.csv, .md, .html and .png."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment

from lightning_classprune import files
from lightning_classprune.job.sweep.frontier_figure import frontier_figure
from lightning_classprune.job.sweep.job_rows import Job, read_jobs
from lightning_classprune.job.sweep.sweep import (
    frontier,
    settings,
    short_key,
    short_value,
    tally,
    to_csv,
    varying,
)

CAVEAT = (
    "Miss rates and false-alarm rates are those of the delivered networks on guard data, the worst class; the dense "
    "networks' stand beside them. Each job's confidence holds for that job alone. A job picked from many by its guard "
    "counts looks better than it is: read its test counts, or judge it once more on fresh guard data."
)
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
<p><img src="summary.png" alt="Miss rate and false-alarm rate against the delivered sparsity"></p>
<h2>Settings</h2>{{ table(settings) }}
<h2>Jobs</h2>{{ table(jobs) }}
<p>{{ caveat }}</p></body></html>
"""
)

ERRORS = ("missed, guard", "false alarms, guard", "missed, test", "false alarms, test")
Cell = str | tuple[str, str]  # text, or text and what it links to


def write_summary(sweep_dir: str | os.PathLike[str]) -> list[Job]:
    """Write the summary of `sweep_dir` into it, each file whole or not at all, and return its jobs.

    Raises:
        ValueError: There is no run folder below it.
    """
    root, jobs = Path(sweep_dir), read_jobs(sweep_dir)
    files.sweep(root)
    while True:
        _write(root, jobs)
        now = read_jobs(sweep_dir)
        if [job.state for job in now] == [job.state for job in jobs]:
            return jobs
        # Another job ended meanwhile, and its own summary may have been replaced by this older one.
        jobs = now


def _write(root: Path, jobs: Sequence[Job]) -> None:
    files.write_text(root / "summary.csv", to_csv(jobs))
    files.write_text(root / "summary.md", to_markdown(jobs))
    files.write_text(root / "summary.html", to_html(jobs))
    with files.replacing(root / "summary.png") as part:
        frontier_figure(jobs).savefig(part, format="png")


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


def _setting_table(jobs: Sequence[Job]) -> list[list[Cell]]:
    groups = settings(jobs)
    best = frontier(groups)
    rows: list[list[Cell]] = [
        ["#", "setting", "seeds", "sparsity", "miss rate", "dense", "false-alarm rate", "dense", "frontier"]
    ]
    for number, one in enumerate(groups, start=1):
        misses, alarms = one.dense_rates
        spread = [_spread(one.sparsities, ".1%"), _spread(one.miss_rates, ".1%"), f"{misses:.1%}"]
        spread += [_spread(one.alarm_rates, ".1%"), f"{alarms:.1%}"]
        mark = "yes" if one in best else "" if one.pruned else "no step accepted"
        rows.append([str(number), one.label, str(len(one.jobs)), *spread, mark])
    return rows


def _job_table(jobs: Sequence[Job]) -> list[list[Cell]]:
    keys = varying(jobs)
    classes = list(dict.fromkeys(name for job in jobs for name in job.classes))
    head: list[Cell] = ["job", *map(short_key, keys), "seed", "state", "sparsity"]
    head += [f"{name} {what}: dense > now / of" for name in classes for what in ERRORS]
    rows = [[*head, "rounds accepted / refused", "last verdict", "epochs", "seconds"]]
    for number, job in enumerate(jobs, start=1):
        row: list[Cell] = [(str(number), job.report or job.name)]
        row += [*(short_value(job.overrides.get(key, "")) for key in keys), job.seed or ""]
        row += [f"{job.state}: {_short(job.error)}" if job.error else job.state]
        row += [_number(job.sparsity, ".1%")]
        for name in classes:
            row += _errors(job, name)
        row += [f"{job.accepted} / {job.refused}", job.verdict or "", str(job.epochs), f"{job.seconds:.0f}"]
        rows.append(row)
    return rows


def _errors(job: Job, name: str) -> list[str]:
    one = job.classes.get(name)
    if one is None:
        return [""] * len(ERRORS)
    told = []
    for dense, now in ((one.guard_dense, one.guard), (one.test_dense, one.test)):
        if now is None:
            told += ["", ""]
            continue
        misses, alarms = ("", "") if dense is None else (f"{dense.missed} > ", f"{dense.alarms} > ")
        told += [f"{misses}{now.missed} / {now.positives}", f"{alarms}{now.alarms} / {now.negatives}"]
    return told


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
