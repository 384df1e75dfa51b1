"""The report of a run as one HTML page that needs nothing else: no server, no network, no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lightning_classprune.guard.objects import Found
from lightning_classprune.guard.outcomes import Decisions
from lightning_classprune.job.comparison import compared
from lightning_classprune.job.data.base import Sample
from lightning_classprune.job.final_test import Answers
from lightning_classprune.job.objects.answers import ObjectAnswers
from lightning_classprune.job.objects.pictures import ObjectPictures
from lightning_classprune.job.report import headline, origin
from lightning_classprune.job.report.comparison_section import COLUMNS, comparison_lines
from lightning_classprune.job.report.confusion import confusion_matrices
from lightning_classprune.job.report.figures import ledger_figures, roc_figures
from lightning_classprune.job.report.gallery import changed_samples
from lightning_classprune.job.report.ledger_section import HEADS, corruption_lines, data_lines, ledger_lines
from lightning_classprune.job.report.missed import missed_samples
from lightning_classprune.job.report.object_gallery import OUTLINES, missed_objects, outlined_objects
from lightning_classprune.job.report.pictures import Pixels
from lightning_classprune.job.scores_file import Scores
from lightning_classprune.job.unprotected import lost, warnings_of
from lightning_classprune.ledger.recommendation import recommendation
from lightning_classprune.ledger.rows import Row, delivered_row, dense_row, units_of

# The markers of the ledger's figure, as characters.
MARKS = {
    "baseline": "■",
    "accepted": "●",
    "refused": "✖",
    "unproven": "▲",
    "abandoned": "▼",
    "kept": "◆",
}


#: What a page says of objects in place of what it cannot show.
OF_OBJECTS = (
    "Objects have no ROC curve and no confusion matrix here: what is not found has no score, and what matches nothing "
    "belongs to no negative. Misses are counted by object, and tested by unit, for objects of one unit are missed "
    "together."
)


@dataclass(frozen=True)
class PageData:
    """What a run left behind; what is not there is left out of the page.

    Attributes:
        rows: The ledger.
        class_names: Of all classes or labels.
        protected: Indices of the protected ones.
        status: `state` (running, interrupted, finished, failed) and `error`.
        guard: Decisions of the `dense` and the `delivered` network, or what they found.
        scores: What both networks say of the guard and the test split.
        samples: What the samples of each split are called, and their classes.
        layers: Per prunable parameter of the delivered network: name, shape, kept and total weights.
        pictures: Guard index -> thumbnail.
        object_pictures: Guard pictures in which objects are found otherwise.
        test: Counts of the test split.
        environment: Versions, machine, git state and command.
        hashes: SHA-256 by file.
        config: The whole configuration as text.
        notes: What the run was, in a few words each.
    """

    rows: Sequence[Row]
    class_names: Sequence[str] = ()
    protected: Sequence[int] = ()
    status: Mapping[str, Any] = field(default_factory=lambda: {"state": "finished", "error": None})
    guard: Mapping[str, Decisions] | Mapping[str, Found] = field(default_factory=dict)
    scores: Scores = field(default_factory=dict)
    samples: Mapping[str, Sequence[Sample]] = field(default_factory=dict)
    layers: Sequence[Mapping[str, Any]] = ()
    pictures: Mapping[int, Pixels] = field(default_factory=dict)
    object_pictures: ObjectPictures | None = None
    test: Mapping[str, Any] | None = None
    environment: Mapping[str, Any] | None = None
    hashes: Mapping[str, str] = field(default_factory=dict)
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
    decided = {name: one for name, one in data.guard.items() if isinstance(one, Decisions)}
    objects = _of_objects(data.scores)
    changes = changed_samples(decided, data.class_names, data.protected, data.pictures, data.samples)
    ledger = ledger_lines(data.rows)
    losses = lost(data.scores, protected)
    return environment.get_template("report.html.j2").render(
        style=Markup(style),
        marks=MARKS,
        document=", ".join(protected),
        title=headline.title(data.rows, finished),
        alerts=[*headline.alerts(data.rows), *warnings_of(losses, delivered_row(data.rows))],
        unprotected=[one.in_words for one in losses],
        notice=headline.notice(data.status),
        finished=finished,
        sentence=headline.sentence(data.rows, finished),
        # Of a run that is going on, what stopped it is not known.
        advice=recommendation(data.rows) if finished else "",
        provenance=_provenance(data),
        final=_final(data.rows),
        dense_reason=_dense_reason(data.rows),
        kept={key: sum(layer[key] for layer in data.layers) for key in ("kept", "total")}
        if data.layers
        else None,
        comparison=comparison_lines(compared(data.scores, protected)) if data.scores else {},
        columns=COLUMNS,
        rocs=roc_figures(_of_classes(data.scores).get("test", {}), protected),
        left_out=OF_OBJECTS if objects else "",
        ledger=ledger,
        corruptions=corruption_lines(data.rows),
        heads=HEADS,
        units=units_of(data.rows),
        figures=ledger_figures(data.rows),
        drawn=[
            verdict
            for verdict in MARKS
            if any(row["verdict"] == verdict and row["classes"] for row in data.rows)
        ],
        layers=[{**layer, "sparsity": 1 - layer["kept"] / max(layer["total"], 1)} for layer in data.layers],
        matrices=confusion_matrices(_networks(data.rows, decided), data.class_names, data.protected),
        test=_test(data.test, protected),
        changes=changes,
        pictured=any(group["pictures"] for group in changes),
        outlined=outlined_objects(
            objects.get("guard", {}), data.object_pictures, data.samples, data.protected
        ),
        outlines=OUTLINES,
        missed=[
            *missed_samples(_of_classes(data.scores), data.samples, protected),
            *missed_objects(objects, data.samples, protected),
        ],
        class_names=[] if objects else data.class_names,
        data_lines=data_lines(data.samples, [] if objects else data.class_names),
        command=origin.command_line(data.environment),
        environment=origin.facts(data.environment),
        hashes=data.hashes,
        config=data.config,
    )


def _provenance(data: PageData) -> list[str]:
    started = [str(data.environment["started"]).replace("T", " ")[:16] + " UTC"] if data.environment else []
    return [*started, *data.notes]


def _final(rows: Sequence[Row]) -> dict[str, Any] | None:
    """Of the delivered network, what the verdict rests on."""
    final, dense = delivered_row(rows), dense_row(rows)
    if final is None or dense is None:
        return None
    classes = [
        {"name": name, **counts, "dense": dense["classes"].get(name)}
        for name, counts in final["classes"].items()
    ]
    return {
        "sparsity": final["sparsity"],
        "confidence": final["confidence"],
        "pruned": final is not dense,
        "classes": classes,
    }


def _dense_reason(rows: Sequence[Row]) -> str:
    dense = dense_row(rows)
    return "" if dense is None else dense["reason"]


def _networks(rows: Sequence[Row], decided: Mapping[str, Decisions]) -> dict[str, Decisions]:
    """The dense and the delivered network, or the dense one alone if it is delivered."""
    if not decided:
        return {}
    final = delivered_row(rows)
    if final is not None and final is dense_row(rows):
        return {"Dense network, delivered unchanged": decided["dense"]}
    return {"Dense network": decided["dense"], "Delivered network": decided["delivered"]}


def _of_classes(scores: Scores) -> dict[str, dict[str, Answers]]:
    """What is said of samples that have a class."""
    return _only(scores, Answers)


def _of_objects(scores: Scores) -> dict[str, dict[str, ObjectAnswers]]:
    """What is said of samples that hold objects."""
    return _only(scores, ObjectAnswers)


def _only(scores: Scores, kind: type[Any]) -> dict[str, dict[str, Any]]:
    found = {
        split: {network: one for network, one in networks.items() if isinstance(one, kind)}
        for split, networks in scores.items()
    }
    return {split: networks for split, networks in found.items() if networks}


def _test(test: Mapping[str, Any] | None, protected: Sequence[str]) -> dict[str, Any] | None:
    if not test or not test["samples"]:
        return None
    before = test.get("dense", {})
    rows = [
        {"name": name, "protected": name in protected, "dense": before.get(name), **one}
        for name, one in test["classes"].items()
    ]
    return {
        "samples": test["samples"],
        "accuracy": test["accuracy"],
        "rows": rows,
        "dense": bool(before),
        "units": test.get("units"),
    }
