"""The ledger as the report's page shows it: a line a round and class, misses and false alarms beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_classprune.ledger.rows import ClassCounts, Row, delivered_row, dense_row, round_label

NOTHING = "\N{EN DASH}"
#: Heads of the numbers of a class, in the order of `numbers`.
HEADS = ("Missed", "New / gone", "Rise / limit", "False alarms", "New / gone", "Rise / limit")


def ledger_lines(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return a mapping a round: label, verdict, what it took, and its classes' numbers by head."""
    final = delivered_row(rows)
    return [
        {
            "label": round_label(row, rows),
            "verdict": row["verdict"],
            "sparsity": row["sparsity"],
            "delivered": row is final,
            "reason": row.get("reason") or "",
            "epochs": row["epochs"],
            "minutes": row["seconds"] / 60,
            "classes": (
                [{"name": name, "numbers": _numbers(row, counts)} for name, counts in row["classes"].items()]
                or [{"name": NOTHING, "numbers": [""] * len(HEADS)}]
            )
            + [
                {"name": f"{name}, {kind} file ({one['verdict']})", "numbers": _numbers(row, counts)}
                for kind, one in row.get("files", {}).items()
                for name, counts in one["classes"].items()
            ],
        }
        for row in rows
    ]


def corruption_lines(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return a mapping a corruption and class: both names, what the dense and the delivered network get wrong, rises.

    Empty where the guard has no corruptions, or no network was judged under them.
    """
    dense, final = dense_row(rows), delivered_row(rows)
    if dense is None or final is None:
        return []
    lines = []
    for corruption, there in final.get("corruptions", {}).items():
        for name, now in there["classes"].items():
            before = dense["corruptions"][corruption]["classes"][name]
            missed, *changes = _numbers(final, now)
            lines.append(
                {
                    "corruption": corruption,
                    "name": name,
                    "dense": f"{before['fn']} of {before['support']}",
                    "missed": missed,
                    "dense_alarms": f"{before['fp']} of {before['negatives']}",
                    "change": changes[0],
                    "rise": changes[1],
                    "alarms": changes[2],
                    "alarms_change": changes[3],
                    "alarms_rise": changes[4],
                }
            )
    return lines


def _numbers(row: Row, counts: ClassCounts) -> list[str]:
    missed, alarms = (
        f"{counts['fn']} of {counts['support']}",
        f"{counts['fp']} of {counts['negatives']}",
    )
    if row["verdict"] == "baseline":
        return [missed, "", "", alarms, "", ""]
    return [
        missed,
        _change(counts["newly_missed"], counts["newly_found"]),
        _rise(counts["upper_bound"], counts["tolerance"]),
        alarms,
        _change(counts["new_alarms"], counts["gone_alarms"]),
        _rise(counts["fp_upper_bound"], counts["max_fp_rise"]),
    ]


def _change(new: int, gone: int) -> str:
    return f"+{new} \N{MINUS SIGN}{gone}"


def _rise(bound: float | None, limit: float | None) -> str:
    """The largest rise that is not excluded, and the one that is allowed, in points."""
    if limit is None:
        return "not guarded"
    shown = NOTHING if bound is None else f"{100 * bound:.1f}".replace("-", "\N{MINUS SIGN}")
    return f"{shown} / {100 * limit:.3g}"


def data_lines(
    samples: Mapping[str, Sequence[tuple[str, int]]], class_names: Sequence[str]
) -> list[dict[str, Any]]:
    """Return a mapping a split: its name, its size and how many samples of each class it has."""
    return [
        {
            "split": split,
            "size": len(its),
            "classes": [sum(label == index for _, label in its) for index in range(len(class_names))],
        }
        for split, its in samples.items()
    ]
