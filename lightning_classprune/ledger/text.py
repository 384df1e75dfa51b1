"""The ledger: one plain dict per judged round, on disk, on screen, and in one sentence."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, cast

from rich import box
from rich.table import Table
from rich.text import Text

from lightning_classprune import files
from lightning_classprune.guard.dense import unfit
from lightning_classprune.guard.evidence import Evidence
from lightning_classprune.ledger.rows import ClassCounts, Row, delivered_row, dense_row, round_label, units_of

STYLES = {
    "baseline": "bold",
    "accepted": "green",
    "refused": "red",
    "unproven": "yellow",
    "abandoned": "magenta",
    "kept": "cyan",
}


def write_jsonl(rows: Iterable[Row], path: str | os.PathLike[str]) -> None:
    """Write one JSON object a line; whoever reads `path` finds the old file or the whole new one, never a part."""
    files.write_text(path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


def read_jsonl(path: str | os.PathLike[str]) -> list[Row]:
    """Read what `write_jsonl` wrote.

    Raises:
        ValueError: a line is not a JSON object; names the file and the line.
    """
    rows: list[Row] = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: not JSON ({error}); was the file cut short?") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number}: expected an object, got {type(row).__name__}")
        rows.append(cast(Row, row))
    return rows


def table(rows: Sequence[Row]) -> Table:
    """Return the ledger as a table for 100 columns: a line per round and protected class.

    A file that was judged beside its round has lines of its own below, and where units hold several objects or samples
    each, these have one below that of the units that were tested; each corruption of the guard has one too. `missed` is
    false negatives / support, `alarms` false alarms / negatives; `newly` the cases that only the candidate gets wrong
    (+) and that only the dense network got wrong (-); `rise` the largest rise of the rate that the data do not exclude
    and the rise that is allowed. Below it: which round is delivered, and why the others were not accepted.
    """
    result = Table(
        title="Ledger", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True
    )
    result.add_column("round", justify="right")
    result.add_column("sparsity", justify="right")
    result.add_column("class", overflow="fold", max_width=18)
    for name in ("missed", "newly", "rise", "alarms", "newly", "rise"):
        result.add_column(name, justify="right", no_wrap=True)
    result.add_column("verdict", no_wrap=True)
    final = delivered_row(rows)
    for row in rows:
        head = [round_label(row, rows), f"{row['sparsity']:.2%}"]
        verdict = Text(row["verdict"], style=STYLES.get(row["verdict"], ""))
        if row is final:
            verdict.append(" *")
        for name, counts in row["classes"].items():
            result.add_row(
                *head, Text(name), *_cells(row, counts), verdict, style="bold" if row is final else None
            )
            head, verdict = ["", ""], Text()
            if inside := _inside(row, counts):
                result.add_row(*head, Text(inside[0]), *inside[1:], verdict)
            for condition, there in row.get("corruptions", {}).items():
                if name in there["classes"]:
                    cells = _cells(row, there["classes"][name])
                    mark = "" if row["verdict"] == "baseline" else there["verdict"]
                    result.add_row(
                        *head,
                        Text(condition.replace("_", " ")),
                        *cells,
                        Text(mark, style=STYLES.get(mark, "")),
                    )
        if not row["classes"]:
            result.add_row(*head, *[""] * 7, verdict)
        for kind, one in row.get("files", {}).items():
            said = Text(one["verdict"], style=STYLES.get(one["verdict"], ""))
            for name, counts in one["classes"].items():
                result.add_row("", "", Text(f"  {kind}: {name}"), *_cells(row, counts), said)
                said = Text()
            if not one["classes"]:
                result.add_row("", "", Text(f"  {kind}"), *[""] * 6, said)
            for condition, there in one.get("corruptions", {}).items():  # ledgers of old have none
                for name, counts in there["classes"].items():
                    said = Text(there["verdict"], style=STYLES.get(there["verdict"], ""))
                    told = Text(f"  {kind}, {condition.replace('_', ' ')}: {name}")
                    result.add_row("", "", told, *_cells(row, counts), said)
    result.caption = Text("\n".join(_notes(rows, final)), style="default not italic")
    result.caption_justify = "left"
    return result


def achievement(rows: Sequence[Row]) -> str:
    """Return one sentence that claims what the ledger bears and no more."""
    dense, final = dense_row(rows), delivered_row(rows)
    if dense is None or final is None:
        return "Nothing was judged, so nothing was pruned: the network is as it was trained."
    if any(row["verdict"] == "kept" for row in rows):
        return "The guard has not judged what was kept yet: the dense network is what may be used."
    if final is dense:
        if len(rows) == 1:
            return (
                f"No pruning step was tried ({dense['reason'].rstrip('.')}): the dense network is delivered."
            )
        last = rows[-1]
        reason = last["reason"].rstrip(". ") or f"it was {last['verdict']}"
        return (
            "No pruning step was proven safe: the dense network is delivered unchanged, because at "
            f"{last['sparsity']:.1%} sparsity {reason}."
        )
    parts = [_claim(name, final, dense) for name in final["classes"]]
    parts += _claims_under_corruptions(final, dense)
    return f"{final['sparsity']:.1%} of the prunable {units_of(rows)} are gone: {'; '.join(parts)}."


def _cells(row: Row, counts: ClassCounts) -> list[str]:
    missed = [f"{counts['fn']}/{counts['support']}", "", ""]
    alarms = [f"{counts['fp']}/{counts['negatives']}", "", ""]
    if row["verdict"] != "baseline":
        missed[1:] = [
            f"+{counts['newly_missed']} -{counts['newly_found']}",
            f"{_number(counts['upper_bound'], '.3f')}/{_number(counts['tolerance'], '.3g')}",
        ]
        alarms[1:] = [
            f"+{counts['new_alarms']} -{counts['gone_alarms']}",
            "unguarded"
            if counts["max_fp_rise"] is None
            else f"{_number(counts['fp_upper_bound'], '.3f')}/{counts['max_fp_rise']:.3g}",
        ]
    return [*missed, *alarms]


def _inside(row: Row, counts: ClassCounts) -> list[str]:
    """What is said of the objects inside the units; nothing where each is one."""
    if not _has_objects(counts):
        return []
    changed = row["verdict"] != "baseline"
    return [
        "  objects" if counts["rule"] else "  samples",
        f"{counts['objects_fn']}/{counts['objects']}",
        f"+{counts['objects_newly_missed']} -{counts['objects_newly_found']}" if changed else "",
        "",
        f"{counts['objects_fp']}",
        f"+{counts['objects_new_alarms']} -{counts['objects_gone_alarms']}" if changed else "",
        "",
    ]


def _has_objects(counts: ClassCounts) -> bool:
    # Ledgers of old have no such counts.
    return bool(counts.get("rule")) or counts.get("objects", counts["support"]) != counts["support"]


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _notes(rows: Sequence[Row], final: Row | None) -> list[str]:
    notes = (
        []
        if final is None
        else [f"* delivered: round {round_label(final, rows)}, sparsity {final['sparsity']:.2%}"]
    )
    for row in rows:
        if row["verdict"] in ("refused", "unproven", "abandoned") and row["reason"]:
            notes.append(f"Round {round_label(row, rows)} {row['verdict']}: {row['reason']}")
        for kind, one in row.get("files", {}).items():
            if one["verdict"] != "accepted":
                notes.append(f"Round {round_label(row, rows)}, {kind} {one['verdict']}: {one['reason']}")
    return notes


def _claim(name: str, final: Row, dense: Row) -> str:
    now, before = final["classes"][name], dense["classes"][name]
    counts = (
        f"class {name!r} missed {now['fn']} of {now['support']} against {before['fn']} for the dense network, with "
        f"{now['fp']} false alarms of {now['negatives']} against {before['fp']}"
    )
    if _has_objects(now):
        called, rule = ("objects", f", {now['rule']}") if now["rule"] else ("samples", "")
        counts = (
            f"class {name!r} missed {now['objects_fn']} of {now['objects']} {called} against {before['objects_fn']} "
            f"for the dense network{rule}, with {now['objects_fp']} false alarms against {before['objects_fp']}; of "
            f"{now['support']} units, {now['fn']} count as missed against {before['fn']}, and of {now['negatives']} "
            f"{now['fp']} as having false alarms against {before['fp']}"
        )
    if now["fp_risen"]:
        counts += ", which is shown to be more"
    if (
        before["support"]
        and not now.get("rule")
        and (no_measure := unfit(_own(before, "fn", "support"), _own(before, "fp", "negatives")))
    ):
        counts += f" (which means little, for {no_measure})"
    if final["confidence"] is None or now["p_value"] is None or now["tolerance"] is None:
        return f"{counts} (only counts were compared; chance is not excluded)"
    at = f"{100 * final['confidence']:.4g}% confidence"
    averaged = " (averaged over units)" if _has_objects(now) else ""
    misses = f"a rise of more than {now['tolerance']:.4g} in its miss rate{averaged}"
    if now["max_fp_rise"] is None:
        return f"{counts}; {misses} is excluded at {at}, false alarms were not guarded"
    return f"{counts}; {misses} and of more than {now['max_fp_rise']:.4g} in its false-alarm rate are excluded at {at}"


def _claims_under_corruptions(final: Row, dense: Row) -> list[str]:
    """What is claimed beside, a part a corruption and class."""
    parts = []
    for condition, there in final.get("corruptions", {}).items():
        for name, now in there["classes"].items():
            before = dense["corruptions"][condition]["classes"][name]
            part = f"under {condition} it missed {now['fn']} of {now['support']} of {name!r} against {before['fn']}"
            if now["tolerance"] is not None and now["p_value"] is not None:
                part += f" (a rise of more than {now['tolerance']:.4g} is excluded)"
            parts.append(part)
    return parts


def _own(counts: ClassCounts, wrong: Literal["fn", "fp"], cases: Literal["support", "negatives"]) -> Evidence:
    """The dense network's own counts, as evidence."""
    return Evidence(counts[cases], counts[wrong], 0, 0)
