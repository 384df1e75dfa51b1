"""The ledger as a pandas frame, and its figure in a notebook."""

from __future__ import annotations

import math
import sys

import pytest

from lightning_classprune.ledger.frame import ledger_frame
from lightning_classprune.ledger.rows import ClassCounts
from tests.support.rows import counts, ledger_row
from tests.support.witness import watched_fit

pandas = pytest.importorskip("pandas")

COLUMNS = [
    "round", "attempt", "sparsity", "density", "verdict", "reason", "class", "corruption", "support", "fn", "recall",
    "newly_missed", "newly_found", "p_value", "upper_bound", "tolerance", "fp", "negatives", "new_alarms",
    "gone_alarms", "fp_p_value", "fp_upper_bound", "max_fp_rise", "fp_risen", "offset", "chance", "units", "objects",
    "objects_fn", "objects_newly_missed", "objects_newly_found", "objects_fp", "objects_new_alarms",
    "objects_gone_alarms", "rule", "level", "epochs", "seconds", "seed", "delivered",
]  # fmt: skip


def of_class(fn: int, p_value: float | None) -> ClassCounts:
    return counts(10, fn, newly_missed=1, p_value=p_value, tolerance=0.1)


ROWS = [
    ledger_row(0, "baseline", {"a": of_class(2, None), "b": of_class(3, None)}, reason="because"),
    ledger_row(1, "accepted", {"a": of_class(2, 0.01), "b": of_class(4, 0.02)}, reason="because"),
    ledger_row(2, "refused", reason="because"),  # its training diverged: nothing was counted
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


def test_every_corruption_has_a_row_of_its_own() -> None:
    there = {"verdict": "unproven", "reason": "too few", "classes": {"a": of_class(5, 0.3)}}
    frame = ledger_frame([ROWS[0], ROWS[1] | {"corruptions": {"fog": there}}])
    assert frame["corruption"].isna().tolist() == [True] * 4 + [False]
    last = frame.iloc[4]
    assert (last["corruption"], last["class"], last["fn"], last["verdict"]) == ("fog", "a", 5, "unproven")
    assert (last["round"], last["sparsity"], last["delivered"]) == (1, 0.5, True)


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
    for name in ("support", "fn", "newly_missed", "newly_found", "fp", "negatives", "new_alarms"):
        assert frame[name].tolist() == [c[name] for c in by_hand]
    assert math.isclose(frame["upper_bound"][1], by_hand[1]["upper_bound"])
    assert frame["sparsity"].tolist() == [0, 0.5, 0.75]


def test_without_pandas_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "lightning-classprune\[notebook\]"'):
        ledger_frame(ROWS)
