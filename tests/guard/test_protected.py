"""Protected classes, from every way in which users name them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from lightning_classprune.guard.protected import Protected, check_names, read_protected
from lightning_classprune.guard.tolerance import FNTolerance

NAMES = ("intact", "cracked", "7")


@pytest.mark.parametrize(
    ("key", "index"),
    [(1, 1), (np.int64(1), 1), ("cracked", 1), ("1", 1), ("intact", 0), (2, 2), ("7", 2), ("2", 2)],
)
def test_an_index_a_name_or_an_index_as_text(key: Any, index: int) -> None:
    (one,) = read_protected({key: 0.05}, NAMES, 0.95, None)
    assert one == Protected(index, NAMES[index], FNTolerance(rate=0.05))


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (True, "yes"), (False, "off"), (1e5, "1e5"), (float("inf"), "inf"), (float("nan"), "nan"), (0.5, ".5"),
        (2019, "2019"), ("yes", "yes"), ("2019", "2019"), ("a=b", "a=b"), ("p: q, r|s", "p: q, r|s"),
    ],
)  # fmt: skip
def test_what_yaml_makes_of_a_name_is_that_name(key: Any, name: str) -> None:
    names = ("fine", "yes", "off", "1e5", "inf", "nan", ".5", "2019", "a=b", "10", "p: q, r|s")
    (one,) = read_protected({key: 0.05}, names, 0.95, None)
    assert one.name == name


@pytest.mark.parametrize(
    ("key", "names", "message"),
    [
        (
            True,
            ("yes", "on"),
            "unknown class True; .*YAML reads yes, no, on, off, true and false as such: quote",
        ),
        (True, ("off", "no"), "unknown class True"),
        (
            1,
            ("1", "2"),
            r"1 is the index of class '2' and the name of another; .*'1' or '2'.*protect\.1=\.\.\.",
        ),
        (0, ("2", "1", "0"), "0 is the index of class '2' and the name of another"),
        (1e5, ("a", "b"), "unknown class 100000.0"),
        ("9" * 5000, ("a", "b"), "unknown class"),
    ],
)
def test_a_key_that_may_mean_two_classes_or_none_is_refused(key: Any, names: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_protected({key: 0.05}, names, 0.95, None)


@pytest.mark.parametrize(
    "name", ["yes", "a=b", "a:b", "a,b", "a|b", "$a$", "$x_{", "[red]x", "é", "日本", "a" * 200]
)
def test_any_text_of_one_line_is_a_name(name: str) -> None:
    check_names("class_names", ["fine", name])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("\x1b[2J", r"class_names\[1\]='\\x1b\[2J' holds a line break, a control character"),
        ("a\nb", "holds a line break"),
        ("a\u2028b", "holds a line break"),
        ("a\x00", "control character"),
        ("\udcff", "control character"),
        ("a\u202eb", "turns the direction"),
        ("a" * 100_000, r"class_names\[1\] has 100000 characters; must have at most 200"),
        ("", "must be a name"),
        (" ", "must be a name"),
        ("fine", "the name 'fine' stands there twice"),
        (1, "must be a name, as text"),
    ],
)
def test_what_no_table_or_log_can_hold_is_no_name(name: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        check_names("class_names", ["fine", name])
    assert len(str(caught.value)) < 500


def test_the_order_is_the_users() -> None:
    count = FNTolerance(count=2)
    read = read_protected({"7": 0, "intact": count}, NAMES, 0.95, None)
    assert [(one.index, one.name) for one in read] == [(2, "7"), (0, "intact")]
    assert [one.tolerance for one in read] == [FNTolerance(rate=0.0), count]


@pytest.mark.parametrize("protect", [{}, None, 1, [1], "cracked", ((1, 0.05),)])
def test_something_must_be_protected(protect: Any) -> None:
    with pytest.raises(ValueError, match=r"protect=.* must map at least one class to its tolerance"):
        read_protected(protect, NAMES, 0.95, None)


@pytest.mark.parametrize("key", [3, -1, "crack", "-1", "3", "", 1.0, True, None])
def test_an_unknown_class_is_named_with_the_allowed(key: Any) -> None:
    with pytest.raises(ValueError, match=r"unknown class .*allowed are 0 to 2 or 'intact', 'cracked', '7'"):
        read_protected({key: 0.05}, NAMES, 0.95, None)
    with pytest.raises(ValueError, match=r"allowed are 0 to 1, or names with class_names=\[...\]"):
        read_protected({key if key != 1.0 else 2: 0.05}, ("0", "1"), 0.95, None)


@pytest.mark.parametrize(
    "protect", [{1: 0.1, "cracked": 0.1}, {"cracked": 0.1, "1": 0.2}, {1: 0.1, "1": 0.1}]
)
def test_a_class_is_protected_once(protect: Any) -> None:
    with pytest.raises(ValueError, match="protect: class 'cracked' is given twice"):
        read_protected(protect, NAMES, 0.95, None)


@pytest.mark.parametrize("value", [1.5, -0.1, True, "0.1", None])
def test_a_tolerance_out_of_range_names_its_class(value: Any) -> None:
    with pytest.raises(ValueError, match=r"protect\['cracked'\]: FNTolerance"):
        read_protected({"cracked": value}, NAMES, 0.95, None)


def test_a_factor_needs_the_point_rule() -> None:
    protect = {"cracked": FNTolerance(factor=1.5)}
    assert len(read_protected(protect, NAMES, None, None)) == 1
    with pytest.raises(ValueError, match=r"protect\['cracked'\]: FNTolerance: factor needs confidence=None"):
        read_protected(protect, NAMES, 0.95, None)


def test_what_is_saved_is_primitives() -> None:
    (one,) = read_protected({1: FNTolerance(count=2, recall_floor=0.5)}, NAMES, 0.95, None)
    saved = one.saved()
    assert json.loads(json.dumps(saved)) == saved
    assert saved == {
        "index": 1,
        "name": "cracked",
        "tolerance": {"rate": None, "count": 2, "factor": None, "recall_floor": 0.5},
        "max_fp_rise": None,
    }


# --- what false alarms may do ---


def rises(max_fp_rise: Any) -> dict[str, float | None]:
    read = read_protected({"cracked": 0.05, "intact": 0.1}, NAMES, 0.95, max_fp_rise)
    return {one.name: one.max_fp_rise for one in read}


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (None, {"cracked": None, "intact": None}),
        (0.1, {"cracked": 0.1, "intact": 0.1}),
        ({"cracked": 0.1, "intact": None}, {"cracked": 0.1, "intact": None}),
        ({0: 0.2, "1": 0.1}, {"cracked": 0.1, "intact": 0.2}),
    ],
)
def test_a_rise_of_false_alarms_is_for_all_classes_or_by_class(given: Any, read: Any) -> None:
    assert rises(given) == read


@pytest.mark.parametrize("given", [{"cracked": 0.1}, {"cracked": 0.1, "intact": 0.1, "7": 0.1}, {"7": 0.1}])
def test_a_mapping_must_name_just_the_protected_classes(given: Any) -> None:
    with pytest.raises(ValueError, match=r"Guard\.max_fp_rise=.* must name the protected classes"):
        rises(given)


@pytest.mark.parametrize(
    ("given", "why"), [({"crack": 0.1}, "unknown class 'crack'"), ({1: 0.1, "1": 0.1}, "given twice")]
)
def test_a_mapping_with_other_names_is_refused(given: Any, why: str) -> None:
    with pytest.raises(ValueError, match=f"Guard.max_fp_rise: .*{why}"):
        rises(given)


# --- what a tolerance allows among other positives ---


@pytest.mark.parametrize(
    ("tolerance", "cases", "missed", "positives", "rise"),
    [
        (FNTolerance(rate=0.05), 80, 20, 205, 0.05),
        (FNTolerance(count=10), 82, 20, 205, 10 / 205),  # of the guard's positives, whatever validation has
        (FNTolerance(count=10), 205, 20, 205, 10 / 205),
        (FNTolerance(factor=1.5), 80, 20, 200, 0.5 * 50 / 200),  # the guard's misses at validation's rate
        (FNTolerance(count=3), 0, 0, 0, 1.0),
        (FNTolerance(count=300), 80, 20, 205, 1.0),
    ],
)
def test_a_tolerance_in_counts_is_one_of_guard_positives(
    tolerance: FNTolerance, cases: int, missed: int, positives: int, rise: float
) -> None:
    assert Protected(1, "c", tolerance).rise_among(cases, missed, positives) == pytest.approx(rise)
