"""Paired counts: what follows from them, and what cannot be."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_classprune.guard.evidence import Evidence, paired


def test_evidence_derives_the_candidate():
    evidence = Evidence(support=205, baseline_missed=53, newly_missed=15, newly_found=7)
    assert evidence.fn == 61
    assert evidence.recall == pytest.approx(144 / 205)
    assert Evidence(0, 0, 0, 0).recall is None


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ((-1, 0, 0, 0), ">= 0"),
        ((5, 6, 0, 0), "baseline_missed at most support"),
        ((5, 2, 0, 3), "newly_found must be at most baseline_missed"),
        ((5, 2, 4, 0), "newly_missed must be at most support - baseline_missed"),
    ],
)
def test_evidence_must_be_consistent(counts, message):
    with pytest.raises(ValueError, match=message):
        Evidence(*counts)


def test_paired_counts_by_hand():
    #        stayed found, newly missed, newly found, stayed missed, and two cases that do not count
    cases = torch.tensor([True, True, True, True, False, False])
    before = torch.tensor([True, True, False, False, True, False])
    now = torch.tensor([True, False, True, False, False, True])
    assert paired(cases, before, now) == Evidence(4, 2, 1, 1)
    assert paired(~cases, before, now) == Evidence(2, 1, 1, 1)


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), max_size=30))
def test_paired_counts_agree_with_the_definition(drawn: list[tuple[bool, bool, bool]]) -> None:
    cases, before, now = torch.tensor(drawn, dtype=torch.bool).reshape(-1, 3).T
    found = paired(cases, before, now)
    assert found.support == sum(case for case, _, _ in drawn)
    assert found.baseline_missed == sum(case and not was for case, was, _ in drawn)
    assert found.fn == sum(case and not is_ for case, _, is_ in drawn)
    back = paired(cases, now, before)
    assert (back.newly_missed, back.newly_found) == (found.newly_found, found.newly_missed)
