"""Rows of a ledger, made by hand: every key that there is, and what a test does not say is blank."""

from __future__ import annotations

from typing import Any, cast

from lightning_classprune.ledger.rows import ClassCounts, Row


def counts(support: int = 205, fn: int = 53, **known: Any) -> ClassCounts:
    """What a row says of one class, of which nothing was tested and no false alarm was seen."""
    blank = {
        "support": support,
        "fn": fn,
        "recall": 1 - fn / support if support else None,
        "newly_missed": 0,
        "newly_found": 0,
        "p_value": None,
        "upper_bound": None,
        "tolerance": None,
        "fp": 0,
        "negatives": 450,
        "new_alarms": 0,
        "gone_alarms": 0,
        "fp_p_value": None,
        "fp_upper_bound": None,
        "max_fp_rise": None,
        "fp_risen": False,
        "offset": 0.0,
        "chance": None,
        "rule": None,
    }
    objects = {key: known.pop(key) for key in [*known] if key.startswith("objects") or key == "units"}
    told = _with(blank, known)
    same = {
        "units": "support",
        "objects": "support",
        "objects_fn": "fn",
        "objects_newly_missed": "newly_missed",
        "objects_newly_found": "newly_found",
        "objects_fp": "fp",
        "objects_new_alarms": "new_alarms",
        "objects_gone_alarms": "gone_alarms",
    }
    return cast(ClassCounts, {key: told[of] for key, of in same.items()} | told | objects)


def ledger_row(number: int, verdict: str, classes: dict[str, ClassCounts] | None = None, **known: Any) -> Row:
    """A row of a round; tested at 95% confidence unless it is the dense network's, or nothing was counted."""
    tested = bool(classes) and verdict != "baseline"
    blank = {
        "round": number,
        "attempt": 1,
        "sparsity": 1 - 0.5**number,
        "units": "weights",
        "verdict": verdict,
        "reason": "",
        "classes": classes or {},
        "corruptions": {},
        "level": 0.05 if tested else None,
        "confidence": 0.95,
        "epochs": 8,
        "seconds": 12.5,
        "seed": 7,
        "validation_passes": 0,
    }
    return cast(Row, _with(blank, known))


def _with(blank: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    assert known.keys() <= blank.keys(), known.keys() - blank.keys()
    return blank | known
