"""The ledger: one plain dict per judged round, on disk, on screen, and in one sentence."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from rich import box
from rich.table import Table
from rich.text import Text

from lightning_classprune import files
from lightning_classprune.ledger.rows import Row, delivered_row, dense_row, round_label, units_of

STYLES = {
    "baseline": "bold",
    "accepted": "green",
    "refused": "red",
    "unproven": "yellow",
    "abandoned": "magenta",
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

    `missed` is false negatives / support; `newly` the positives that only the candidate misses (+) and that only
    the dense network missed (-); `bound/allowed` the largest rise of the miss rate that the data do not exclude
    and the rise that is allowed. Below it: which round is delivered, and why the others were not accepted.
    """
    result = Table(
        title="Ledger", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True
    )
    result.add_column("round", justify="right")
    result.add_column("sparsity", justify="right")
    result.add_column("class", overflow="fold", max_width=24)
    for name in ("missed", "recall", "newly", "p", "bound/allowed"):
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
        if not row["classes"]:
            result.add_row(*head, *[""] * 6, verdict)
    result.caption = Text("\n".join(_notes(rows, final)), style="default not italic")
    result.caption_justify = "left"
    return result


def achievement(rows: Sequence[Row]) -> str:
    """Return one sentence that claims what the ledger bears and no more."""
    dense, final = dense_row(rows), delivered_row(rows)
    if dense is None or final is None:
        return "Nothing was judged, so nothing was pruned: the network is as it was trained."
    if final is dense:
        if len(rows) == 1:
            return "No pruning step was tried: the dense network is delivered."
        last = rows[-1]
        reason = (last.get("reason") or "").rstrip(". ") or f"it was {last['verdict']}"
        return (
            "No pruning step was proven safe: the dense network is delivered unchanged, because at "
            f"{last['sparsity']:.1%} sparsity {reason}."
        )
    parts = [_claim(name, final, dense, _certainty(rows, final)) for name in final["classes"]]
    return f"{final['sparsity']:.1%} of the prunable {units_of(rows)} are gone: {'; '.join(parts)}."


def _cells(row: Row, counts: Mapping[str, Any]) -> list[str]:
    compared = row["verdict"] != "baseline"
    return [
        f"{counts['fn']}/{counts['support']}",
        _number(counts["recall"], ".3f"),
        f"+{counts['newly_missed']} -{counts['newly_found']}" if compared else "",
        _number(counts.get("p_value"), ".2g") if compared else "",
        f"{_number(counts.get('upper_bound'), '.3f')}/{_number(counts.get('tolerance'), '.3g')}"
        if compared
        else "",
    ]


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _notes(rows: Sequence[Row], final: Row | None) -> list[str]:
    notes = (
        []
        if final is None
        else [f"* delivered: round {round_label(final, rows)}, sparsity {final['sparsity']:.2%}"]
    )
    for row in rows:
        if row["verdict"] in ("refused", "unproven", "abandoned") and row.get("reason"):
            notes.append(f"Round {round_label(row, rows)} {row['verdict']}: {row['reason']}")
    return notes


def _claim(name: str, final: Row, dense: Row, certainty: str | None) -> str:
    now, before = final["classes"][name], dense["classes"][name]
    counts = (
        f"class {name!r} missed {now['fn']} of {now['support']} against {before['fn']} for the dense network"
    )
    tolerance = now.get("tolerance")
    if certainty is None or tolerance is None or now.get("p_value") is None:
        return f"{counts} (only counts were compared; chance is not excluded)"
    return f"{counts}, and a rise of more than {tolerance:.4g} in its miss rate is excluded {certainty}"


def _certainty(rows: Sequence[Row], final: Row) -> str | None:
    """Word the error level of the deciding test.

    Up to the first refusal the accepted rounds are one fixed sequence, whose level is the claim's own. After a
    refusal the next candidate depended on the data, so only the level of that test is named.
    """
    level = final.get("level")
    if level is None:
        return None
    before = rows[: next(i for i, row in enumerate(rows) if row is final)]
    if any(row["verdict"] in ("refused", "unproven") for row in before):
        return f"by a test at level {level:.3g}, after earlier refusals"
    return f"at {100 * (1 - level):.4g}% confidence"
