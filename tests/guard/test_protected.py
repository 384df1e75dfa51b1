"""Protected classes, from every way in which users name them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from lightning_classprune.guard.protected import Protected, read_protected
from lightning_classprune.guard.tolerance import FNTolerance

NAMES = ("intact", "cracked", "7")


@pytest.mark.parametrize(
    ("key", "index"),
    [(1, 1), (np.int64(1), 1), ("cracked", 1), ("1", 1), ("intact", 0), (2, 2), ("7", 2), ("2", 2)],
)
def test_an_index_a_name_or_an_index_as_text(key: Any, index: int) -> None:
    (one,) = read_protected({key: 0.05}, NAMES, 0.95)
    assert one == Protected(index, NAMES[index], FNTolerance(rate=0.05))


def test_the_order_is_the_users() -> None:
    count = FNTolerance(count=2)
    read = read_protected({"7": 0, "intact": count}, NAMES, 0.95)
    assert [(one.index, one.name) for one in read] == [(2, "7"), (0, "intact")]
    assert [one.tolerance for one in read] == [FNTolerance(rate=0.0), count]


@pytest.mark.parametrize("protect", [{}, None, 1, [1], "cracked", ((1, 0.05),)])
def test_something_must_be_protected(protect: Any) -> None:
    with pytest.raises(ValueError, match=r"protect=.* must map at least one class to its tolerance"):
        read_protected(protect, NAMES, 0.95)


@pytest.mark.parametrize("key", [3, -1, "crack", "-1", "3", "", 1.0, True, None])
def test_an_unknown_class_is_named_with_the_allowed(key: Any) -> None:
    with pytest.raises(ValueError, match=r"unknown class .*allowed are 0 to 2 or 'intact', 'cracked', '7'"):
        read_protected({key: 0.05}, NAMES, 0.95)
    with pytest.raises(ValueError, match=r"allowed are 0 to 1, or names with class_names=\[...\]"):
        read_protected({key if key != 1.0 else 2: 0.05}, ("0", "1"), 0.95)


@pytest.mark.parametrize(
    "protect", [{1: 0.1, "cracked": 0.1}, {"cracked": 0.1, "1": 0.2}, {1: 0.1, "1": 0.1}]
)
def test_a_class_is_protected_once(protect: Any) -> None:
    with pytest.raises(ValueError, match="protect: class 'cracked' is given twice"):
        read_protected(protect, NAMES, 0.95)


@pytest.mark.parametrize("value", [1.5, -0.1, True, "0.1", None])
def test_a_tolerance_out_of_range_names_its_class(value: Any) -> None:
    with pytest.raises(ValueError, match=r"protect\['cracked'\]: FNTolerance"):
        read_protected({"cracked": value}, NAMES, 0.95)


def test_a_factor_needs_the_point_rule() -> None:
    protect = {"cracked": FNTolerance(factor=1.5)}
    assert len(read_protected(protect, NAMES, None)) == 1
    with pytest.raises(ValueError, match=r"protect\['cracked'\]: FNTolerance: factor needs confidence=None"):
        read_protected(protect, NAMES, 0.95)


def test_what_is_saved_is_primitives() -> None:
    (one,) = read_protected({1: FNTolerance(count=2, recall_floor=0.5)}, NAMES, 0.95)
    saved = one.saved()
    assert json.loads(json.dumps(saved)) == saved
    assert saved == {
        "index": 1,
        "name": "cracked",
        "tolerance": {"rate": None, "count": 2, "factor": None, "recall_floor": 0.5},
    }
