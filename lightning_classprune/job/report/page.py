"""The report of a run as one HTML page that needs nothing else: no server, no network, no script."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.colors import to_hex

from lightning_classprune.guard.outcomes import Decisions
from lightning_classprune.job.report.confusion import confusion_matrices
from lightning_classprune.job.report.gallery import changed_samples
from lightning_classprune.job.report.inline_svg import inline_svg
from lightning_classprune.job.report.pictures import Pixels
from lightning_classprune.ledger.figure import ALLOWED, GRID, VERDICTS, WHISKER, figure
from lightning_classprune.ledger.recommendation import recommendation
from lightning_classprune.ledger.rows import Row, delivered_row, dense_row, round_label, units_of
from lightning_classprune.ledger.text import achievement

# The markers of the ledger's figure, as characters.
MARKS = {"baseline": "■", "accepted": "●", "refused": "✖", "unproven": "▲", "abandoned": "▼"}
# What the figure draws in fixed colours, in the page's own, which differ between light and dark.
COLORS = {
    "#000000": "currentColor",
    "#ffffff": "var(--page)",
    to_hex(GRID): "var(--rule)",
    to_hex(WHISKER): "var(--muted)",
    ALLOWED.lower(): "var(--allowed)",
} | {str(VERDICTS[name]["color"]).lower(): f"var(--{name})" for name in MARKS if name != "baseline"}
NOTHING = "\N{EN DASH}"


@dataclass(frozen=True)
class PageData:
    """What a run left behind; what is not there is left out of the page.

    Attributes:
        rows: The ledger.
        class_names: Of all classes or labels.
        protected: Indices of the protected ones.
        status: `state` (running, finished, failed) and `error`.
        guard: Decisions of the `dense` and the `delivered` network.
        layers: Per prunable parameter of the delivered network: name, shape, kept and total weights.
        pictures: Guard index -> thumbnail.
        test: Counts of the test split.
        environment: Versions, machine, git state and command.
        config: The whole configuration as text.
        notes: What the run was, in a few words each.
    """

    rows: Sequence[Row]
    class_names: Sequence[str] = ()
    protected: Sequence[int] = ()
    status: Mapping[str, Any] = field(default_factory=lambda: {"state": "finished", "error": None})
    guard: Mapping[str, Decisions] = field(default_factory=dict)
    layers: Sequence[Mapping[str, Any]] = ()
    pictures: Mapping[int, Pixels] = field(default_factory=dict)
    test: Mapping[str, Any] | None = None
    environment: Mapping[str, Any] | None = None
    config: str = ""
    notes: Sequence[str] = ()


def render(data: PageData) -> str:
    """Return the page: HTML5 that loads nothing and runs nothing, every text escaped."""
    environment = Environment(
        loader=PackageLoader("lightning_classprune.job.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    assert environment.loader is not None
    style, _, _ = environment.loader.get_source(environment, "report.css")
    finished = data.status["state"] == "finished"
    protected = [data.class_names[index] for index in data.protected]
    changes = changed_samples(data.guard, data.class_names, data.protected, data.pictures)
    return environment.get_template("report.html.j2").render(
        style=Markup(style),
        marks=MARKS,
        title=", ".join(protected),
        notice=_notice(data.status),
        finished=finished,
        sentence=_sentence(data.rows, finished),
        # Of a run that is going on, what stopped it is not known.
        advice=recommendation(data.rows) if finished else "",
        provenance=_provenance(data),
        final=_final(data),
        kept={key: sum(layer[key] for layer in data.layers) for key in ("kept", "total")}
        if data.layers
        else None,
        ledger=_ledger(data.rows),
        units=units_of(data.rows),
        figures=_figures(data.rows),
        layers=[{**layer, "density": layer["kept"] / max(layer["total"], 1)} for layer in data.layers],
        matrices=confusion_matrices(_networks(data), data.class_names, data.protected),
        test=_test(data.test, protected),
        changes=changes,
        pictured=any(group["pictures"] for group in changes),
        command=_command(data.environment),
        environment=_environment(data.environment),
        config=data.config,
    )


def _notice(status: Mapping[str, Any]) -> dict[str, str] | None:
    if status["state"] == "finished":
        return None
    if status["state"] == "failed":
        return {"kind": "failed", "title": "This run failed.", "text": status["error"] or "It left no error."}
    text = "It was going on, or had been killed, when this page was written; what it delivers is not settled."
    return {"kind": "running", "title": "This run has not finished.", "text": text}


def _sentence(rows: Sequence[Row], finished: bool) -> str:
    if finished:
        return achievement(rows)
    if not rows:
        return "No network was judged."
    if len(rows) == 1:
        return "Only the dense network was judged so far."
    return f"So far: {achievement(rows)}"


def _provenance(data: PageData) -> list[str]:
    started = [str(data.environment["started"]).replace("T", " ")[:16] + " UTC"] if data.environment else []
    return [*started, *data.notes]


def _final(data: PageData) -> dict[str, Any] | None:
    final, dense = delivered_row(data.rows), dense_row(data.rows)
    if final is None or dense is None:
        return None
    false_positives = {
        data.class_names[index]: {name: int(one.counts()[index, 1]) for name, one in data.guard.items()}
        for index in data.protected
    }
    classes = [
        {
            "name": name,
            **counts,
            "dense": dense["classes"][name]["fn"] if name in dense["classes"] else None,
            "fp": false_positives.get(name),
        }
        for name, counts in final["classes"].items()
    ]
    return {"sparsity": final["sparsity"], "pruned": final is not dense, "classes": classes}


def _ledger(rows: Sequence[Row]) -> list[dict[str, Any]]:
    final = delivered_row(rows)
    return [
        {
            "label": round_label(row, rows),
            "verdict": row["verdict"],
            "sparsity": row["sparsity"],
            "delivered": row is final,
            "reason": row.get("reason") or "",
            "cells": [_cells(row, name, counts) for name, counts in row["classes"].items()]
            or [{"name": NOTHING, "numbers": [""] * 7}],
        }
        for row in rows
    ]


def _cells(row: Row, name: str, counts: Mapping[str, Any]) -> dict[str, Any]:
    numbers = [f"{counts['fn']} of {counts['support']}", _number(counts["recall"], ".3f")]
    if row["verdict"] == "baseline":
        return {"name": name, "numbers": [*numbers, *[""] * 5]}
    judged = [
        _number(counts.get(key), form)
        for key, form in (("p_value", ".2g"), ("upper_bound", "+.3f"), ("tolerance", "+.3g"))
    ]
    return {"name": name, "numbers": [*numbers, counts["newly_missed"], counts["newly_found"], *judged]}


def _number(value: float | None, form: str) -> str:
    return NOTHING if value is None else format(value, form).replace("-", "\N{MINUS SIGN}")


def _figures(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One figure a protected class, so that each fits a narrow screen."""
    names = dict.fromkeys(name for row in rows for name in row["classes"])
    result = []
    for number, name in enumerate(names):
        own = [row.copy() for row in rows]
        for row in own:
            row["classes"] = {key: counts for key, counts in row["classes"].items() if key == name}
        said = [
            f"{1 - row['sparsity']:.2%} kept, {row['verdict']}: {row['classes'][name]['fn']} missed"
            for row in own
            if row["classes"]
        ]
        alt = f"False negatives and recall of {name} against the share of weights kept. {'; '.join(said)}."
        drawn = figure(own)
        drawn.set_size_inches(4.9, 6.2)  # a telephone's width at a legible type size
        drawn.suptitle("")  # the page says it, and explains the markers
        drawn.legends[0].remove()
        drawn.axes[0].set_title("")
        svg = inline_svg(drawn, f"figure{number}", COLORS)
        support = next(row["classes"][name]["support"] for row in own if row["classes"])
        result.append({"name": name, "support": support, "alt": alt, "svg": svg})
    return result


def _networks(data: PageData) -> dict[str, Decisions]:
    """The dense and the delivered network, or the dense one alone if it is delivered."""
    if not data.guard:
        return {}
    final = delivered_row(data.rows)
    if final is not None and final is dense_row(data.rows):
        return {"Dense network, delivered unchanged": data.guard["dense"]}
    return {"Dense network": data.guard["dense"], "Delivered network": data.guard["delivered"]}


def _test(test: Mapping[str, Any] | None, protected: Sequence[str]) -> dict[str, Any] | None:
    if not test or not test["samples"]:
        return None
    rows = [{"name": name, "protected": name in protected, **one} for name, one in test["classes"].items()]
    return {"samples": test["samples"], "accuracy": test["accuracy"], "rows": rows}


def _command(environment: Mapping[str, Any] | None) -> str:
    if not environment or not environment["command"]:
        return ""
    program, *arguments = environment["command"]
    name = PurePath(program).name
    start = ["python", "-m", "lightning_classprune"] if name == "__main__.py" else [name]
    return shlex.join([*start, *arguments])


def _environment(environment: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    if not environment:
        return []
    git = environment["git"]
    machine = environment["accelerators"] or [f"CPU, {environment['cores']} cores"]
    pairs = {
        "started": environment["started"],
        "folder": environment["folder"],
        "commit": f"{git['commit'][:12]}{', with changes' if git['dirty'] else ''}" if git else None,
        "machine": ", ".join(machine),
        "platform": environment["platform"],
        "threads": environment["threads"],
        "python": environment["python"],
        **environment["versions"],
    }
    return [(key, str(value)) for key, value in pairs.items() if value is not None]
