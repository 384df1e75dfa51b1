"""The ledger as a pandas frame, and its figure in a notebook."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytest

from lightning_classprune.ledger.frame import ledger_frame
from tests.support.witness import watched_fit

pandas = pytest.importorskip("pandas")

COLUMNS = [
    "round", "attempt", "sparsity", "density", "verdict", "reason", "class", "support", "fn", "recall", "newly_missed",
    "newly_found", "p_value", "upper_bound", "tolerance", "level", "epochs", "seconds", "seed", "delivered",
]  # fmt: skip


def row(round_: int, verdict: str, classes: dict[str, Any], level: float | None = 0.05) -> dict[str, Any]:
    return {
        "round": round_,
        "attempt": 1,
        "sparsity": 1 - 0.5**round_,
        "units": "weights",
        "verdict": verdict,
        "reason": "because",
        "classes": classes,
        "level": level,
        "epochs": 8,
        "seconds": 1.5,
        "seed": 7,
    }


def counts(fn: int, p_value: float | None) -> dict[str, Any]:
    return {
        "support": 10,
        "fn": fn,
        "recall": 1 - fn / 10,
        "newly_missed": 1,
        "newly_found": 0,
        "p_value": p_value,
        "upper_bound": None,
        "tolerance": 0.1,
    }


ROWS = [
    row(0, "baseline", {"a": counts(2, None), "b": counts(3, None)}, level=None),
    row(1, "accepted", {"a": counts(2, 0.01), "b": counts(4, 0.02)}),
    row(2, "refused", {}),  # its training diverged: nothing was counted
]


def test_one_row_per_round_and_class() -> None:
    frame = ledger_frame(ROWS)
    assert list(frame.columns) == COLUMNS
    assert frame["round"].tolist() == [0, 0, 1, 1, 2]
    assert frame["class"].tolist()[:4] == ["a", "b", "a", "b"]
    assert frame["fn"].tolist()[:4] == [2, 3, 2, 4]
    assert frame["density"].tolist() == [1, 1, 0.5, 0.5, 0.25]
    assert frame["delivered"].tolist() == [False, False, True, True, False]
    assert frame["p_value"].isna().tolist() == [True, True, False, False, True]
    assert frame.iloc[4][["class", "support", "fn", "recall", "tolerance"]].isna().all()
    assert frame.iloc[4]["reason"] == "because"


def test_types_do_not_depend_on_what_is_missing() -> None:
    for rows in (ROWS, ROWS[:1], []):
        types = ledger_frame(rows).dtypes.astype(str)
        assert types["round"] == types["fn"] == types["seed"] == "Int64"
        assert types["recall"] == types["level"] == "Float64"
        assert types["delivered"] == "bool"
        assert list(types.index) == COLUMNS


def test_the_callback_gives_its_ledger() -> None:
    pruning = watched_fit(refuse=(2,), settings={"confidence": 0.95}).pruning
    frame = pruning.ledger_frame()
    assert frame["verdict"].tolist() == ["baseline", "accepted", "refused"]
    assert frame["delivered"].tolist() == [False, True, False]
    by_hand = [r["classes"]["1"] for r in pruning.ledger]
    for name in ("support", "fn", "newly_missed", "newly_found"):
        assert frame[name].tolist() == [c[name] for c in by_hand]
    assert math.isclose(frame["upper_bound"][1], by_hand[1]["upper_bound"])
    assert frame["sparsity"].tolist() == [0, 0.5, 0.75]


def test_without_pandas_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "lightning-classprune\[notebook\]"'):
        ledger_frame(ROWS)
