"""What a report says first: one line, what is amiss, and the sentence that claims no more than the ledger bears."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_classprune.job.unprotected import ARROW
from lightning_classprune.ledger.rows import Row, delivered_row, dense_row
from lightning_classprune.ledger.text import achievement

NAMED = 2  # classes that one line has room for


def title(rows: Sequence[Row], finished: bool) -> str:
    """One line: the sparsity, and both sides of the price."""
    dense, final = dense_row(rows), delivered_row(rows)
    if dense is None or final is None:
        return "No network was judged"
    if final is dense:
        return "The dense network, unchanged" if finished else "No pruning step stands yet"
    told = []
    for name, counts in list(final["classes"].items())[:NAMED]:
        before = dense["classes"][name]
        missed = f"{name} missed {before['fn']} {ARROW} {counts['fn']} of {counts['support']}"
        told.append(f"{missed}, false alarms {before['fp']} {ARROW} {counts['fp']} of {counts['negatives']}")
    rest = len(final["classes"]) - len(told)
    more = [f"and {rest} more classes"] if rest > 0 else []
    so_far = "" if finished else "So far "
    return f"{so_far}{final['sparsity']:.1%} sparsity: {'; '.join([*told, *more])}"


def alerts(rows: Sequence[Row]) -> list[str]:
    """A sentence for every class whose false alarms are shown to be more, guarded or not."""
    dense, final = dense_row(rows), delivered_row(rows)
    if dense is None or final is None:
        return []
    said = []
    for name, counts in final["classes"].items():
        if counts["fp_risen"]:
            before, allowed = dense["classes"][name]["fp"], counts["max_fp_rise"]
            limit = (
                "they were not guarded"
                if allowed is None
                else f"a rise of {100 * allowed:.3g} points was allowed"
            )
            rise = f"{name}: {before} {ARROW} {counts['fp']} false alarms of {counts['negatives']}"
            said.append(f"{rise}, more than chance explains; {limit}.")
    return said


def sentence(rows: Sequence[Row], finished: bool) -> str:
    """What was achieved, or how far a run has come."""
    if finished:
        return achievement(rows)
    if not rows:
        return "No network was judged."
    if len(rows) == 1:
        return "Only the dense network was judged so far."
    return f"So far: {achievement(rows)}"


def notice(status: Mapping[str, Any]) -> dict[str, str] | None:
    """Why what the page shows is not the end of it; None of a finished run."""
    if status["state"] == "finished":
        return None
    if status["state"] == "failed":
        return {"kind": "failed", "title": "This run failed.", "text": status["error"] or "It left no error."}
    if status["state"] == "interrupted":
        text = (
            "The guard has not judged what was kept: go on with classprune resume=RUN, or judge it as it stands with "
            "classprune-judge RUN."
        )
        return {"kind": "interrupted", "title": "This run was interrupted.", "text": text}
    text = "It was going on, or had been killed, when this page was written; what it delivers is not settled."
    return {"kind": "running", "title": "This run has not finished.", "text": text}
