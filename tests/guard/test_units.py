"""Units: ids, the draw, and the evidence of units by hand and against loops."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_classprune.guard.evidence import Evidence, Inside, paired
from lightning_classprune.guard.units import (
    NONE,
    NUMBER,
    TEXT,
    alarm_evidence,
    draw,
    drawn,
    read_ids,
    unit_evidence,
    wrong_ids,
)


@pytest.mark.parametrize(
    ("case", "ids"),
    [
        ([7, -3, 7], [7, -3, 7]),
        (torch.tensor([7, -3, 7]), [7, -3, 7]),
        (np.array([7, -3, 7], dtype=np.int32), [7, -3, 7]),
        ((torch.tensor(7), np.int64(-3), 7), [7, -3, 7]),
    ],
)
def test_numbers_are_ids(case: Any, ids: list[int]) -> None:
    assert read_ids(case, 3).tolist() == [[one, NUMBER] for one in ids]


def test_strings_are_ids_alike_in_every_process() -> None:
    ids = read_ids(["ann", "bob", "ann"], 3)
    assert ids[0, 0] == ids[2, 0] == -8270052116146162779 != ids[1, 0]
    assert ids[:, 1].tolist() == [TEXT] * 3
    assert torch.equal(read_ids(np.array(["ann", "bob", "ann"]), 3), ids)


def test_without_ids_every_sample_is_one() -> None:
    assert read_ids(None, 2).tolist() == [[0, NONE], [0, NONE]]
    assert read_ids([], 0).shape == (0, 2)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ([1, 2], "one case id a sample .*; got 2 for 3 samples"),
        ([1, None, 2], "the case id None; a whole number or a string is needed of every sample"),
        (torch.tensor([1.0, float("nan"), 2.0]), "the case id 1.0"),
        ([1, "", 2], "the case id ''"),
        ([True, False, True], "the case id True"),
        ([1, "ann", 2], "more than one type in a batch"),
        ("ann", "got 1 for 3 samples"),
        (torch.zeros(3, 2), r"got shape \(3, 2\) for 3 samples"),
        ([2**63, 1, 2], "the case id 9223372036854775808"),
    ],
)
def test_bad_ids_are_refused_and_blamed_on_predict(case: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"predict (must return|returned) .*{message}"):
        read_ids(case, 3)


def test_batches_must_have_ids_of_one_type() -> None:
    assert wrong_ids(torch.tensor([TEXT, TEXT])) is None
    assert "numbers and strings" in str(wrong_ids(torch.tensor([TEXT, NUMBER])))
    assert "no ids and strings" in str(wrong_ids(torch.tensor([TEXT, NONE])))


def test_the_draw_is_the_same_for_ever() -> None:
    before = torch.random.get_rng_state()
    assert draw(8).tolist() == [4, 5, 6, 2, 1, 0, 3, 7]
    assert torch.equal(torch.random.get_rng_state(), before)


def test_every_case_of_a_unit_is_drawn_as_often() -> None:
    """Over many units of four cases each: chi-squared with 3 degrees of freedom, beyond 16.3 once in a thousand."""
    unit = torch.arange(4000) // 4
    place = drawn(unit, torch.ones(4000, dtype=torch.bool), draw(4000)).nonzero().squeeze(1) % 4
    counts = torch.bincount(place, minlength=4)
    assert counts.sum() == 1000
    assert float(((counts - 250) ** 2 / 250).sum()) < 16.3


UNITS = st.lists(
    st.tuples(st.integers(0, 5), st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=40
)


@given(UNITS)
def test_one_case_of_each_unit_that_has_one(rows: list[tuple[int, bool, bool, bool]]) -> None:
    unit, cases, before, now = (torch.tensor(column) for column in zip(*rows, strict=True))
    order = draw(len(rows))
    taken = drawn(unit, cases, order)
    assert bool((~taken | cases).all())
    assert sorted(unit[taken].tolist()) == sorted(set(unit[cases].tolist()))
    for row in taken.nonzero().squeeze(1).tolist():
        rivals = cases & (unit == unit[row])
        assert order[row] == order[rivals].min()
    # The decisions have no part in it.
    one = unit_evidence("one", unit, cases, before, now, order, "cases")
    assert one.support == len(set(unit[cases].tolist()))
    assert (one.newly_missed, one.newly_found) == (
        int((taken & before & ~now).sum()),
        int((taken & ~before & now).sum()),
    )


@given(UNITS)
def test_any_and_betting_are_what_loops_say(rows: list[tuple[int, bool, bool, bool]]) -> None:
    unit, cases, before, now = (torch.tensor(column) for column in zip(*rows, strict=True))
    held = defaultdict(list)
    for one, case, then, later in rows:
        if case:
            held[one].append((then, later))
    missed = [(any(not b for b, _ in of), any(not a for _, a in of)) for of in held.values()]
    order = draw(len(rows))
    found = unit_evidence("any", unit, cases, before, now, order, "cases")
    assert (found.support, found.baseline_missed) == (len(held), sum(b for b, _ in missed))
    assert found.newly_missed == sum(a and not b for b, a in missed)
    assert found.newly_found == sum(b and not a for b, a in missed)
    whole = paired(cases, before, now)
    assert found.inside is not None
    assert (found.inside.cases, found.inside.now) == (whole.support, whole.fn)
    betting = unit_evidence("betting", unit, cases, before, now, order, "cases")
    assert betting.rises is not None
    means = {one: sum(b - a for b, a in of) / len(of) for one, of in held.items()}
    assert betting.rises == pytest.approx([means[one] for one in sorted(means)])


@given(UNITS)
def test_where_each_case_is_a_unit_all_three_are_the_plain_counts(rows: Any) -> None:
    _, cases, before, now = (torch.tensor(column) for column in zip(*rows, strict=True))
    unit, plain = torch.arange(len(rows)), paired(cases, before, now)
    for cluster in ("one", "any", "betting"):
        one = unit_evidence(cluster, unit, cases, before, now, draw(len(rows)), "cases")  # type: ignore[arg-type]
        assert (one.support, one.baseline_missed, one.newly_missed, one.newly_found) == (
            plain.support,
            plain.baseline_missed,
            plain.newly_missed,
            plain.newly_found,
        )


def test_false_alarms_of_a_unit_are_more_or_fewer() -> None:
    unit = torch.tensor([4, 4, 9, 9, 2])
    e = alarm_evidence(unit, torch.tensor([3, 0, 1, 1, 0]), torch.tensor([30, 0, 0, 1, 0]), "boxes", "a rule")
    assert e == Evidence(3, 2, 1, 1, 2, Inside(0, 5, 27, 1, "boxes", e.inside.how, "a rule"))  # type: ignore[union-attr]
    assert (e.fn, e.noun, e.cases) == (2, "units", (31, 0))
    # Two alarms in every unit, and one more in each: all are new, though none was without any.
    worse = alarm_evidence(unit, torch.full((5,), 2), torch.full((5,), 3), "boxes", None)
    assert (worse.baseline_missed, worse.newly_missed, worse.newly_found, worse.wrong) == (3, 3, 0, 3)
