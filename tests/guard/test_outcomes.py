"""Decisions: counts, pairs and mistakes by hand and by definition, and their way through a file."""

import io

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_classprune.guard.evidence import Evidence
from lightning_classprune.guard.outcomes import Decisions

torch.set_num_threads(1)


def outcomes(target, predicted, num_classes=2, names=()):
    return Decisions(torch.tensor(target), torch.tensor(predicted), num_classes, names)


# --- counts ---


def test_counts_of_classes_by_hand():
    #            tp of 0, fn of 1 (said 0), tp of 1, fn of 2 (said 1), tp of 0
    judged = outcomes([0, 1, 1, 2, 0], [0, 0, 1, 1, 0], 4)
    # tp, fp, tn, fn, support
    assert judged.counts().tolist() == [[2, 1, 2, 0, 2], [1, 1, 2, 1, 2], [0, 0, 4, 1, 1], [0, 0, 5, 0, 0]]


def test_counts_of_labels_by_hand():
    judged = outcomes([[1, 0], [1, 1], [0, 1]], [[1, 1], [0, 1], [0, 0]])
    assert judged.counts().tolist() == [[1, 0, 1, 1, 2], [1, 1, 0, 1, 2]]


def test_one_sample_and_none():
    assert outcomes([1], [0]).counts().tolist() == [[0, 1, 0, 0, 0], [0, 0, 0, 1, 1]]
    assert outcomes([[1, 0]], [[1, 0]]).counts().tolist() == [[1, 0, 0, 0, 1], [0, 0, 1, 0, 0]]
    empty = torch.zeros(0, dtype=torch.int64)
    assert Decisions(empty, empty, 3).counts().tolist() == [[0] * 5] * 3


def test_found_by_hand():
    positive, said = outcomes([0, 1, 2, 1], [1, 1, 0, 2], 3).found(1)
    assert positive.tolist() == [False, True, False, True]
    assert said.tolist() == [True, True, False, False]
    positive, said = outcomes([[1, 0], [0, 1]], [[0, 1], [1, 1]]).found(1)
    assert positive.tolist() == [False, True]
    assert said.tolist() == [True, True]


samples = st.lists(st.tuples(*[st.integers(0, 2)] * 3), min_size=1, max_size=30)


@given(samples)
def test_counts_agree_with_the_definition(drawn):
    judged = outcomes([t for t, _, _ in drawn], [p for _, p, _ in drawn], 3)
    for c in range(3):
        pairs = [(t == c, p == c) for t, p, _ in drawn]
        tp, fp, tn, fn = (pairs.count(pair) for pair in ((1, 1), (0, 1), (0, 0), (1, 0)))
        assert judged.counts()[c].tolist() == [tp, fp, tn, fn, tp + fn]


# --- pairs ---

# Six cases of three classes: of `b` one is newly missed and one newly found; one alarm is new and one is gone.
BEFORE = outcomes([1, 1, 1, 0, 0, 2], [1, 0, 1, 0, 1, 1], 3, ("a", "b", "c"))
NOW = outcomes([1, 1, 1, 0, 0, 2], [0, 1, 1, 1, 0, 1], 3, ("a", "b", "c"))


@pytest.mark.parametrize(
    ("name", "misses", "alarms"),
    [
        ("a", (2, 1, 1, 1), (4, 1, 1, 1)),
        ("b", (3, 1, 1, 1), (3, 2, 1, 1)),
        ("c", (1, 1, 0, 0), (5, 0, 0, 0)),
    ],
)
def test_misses_and_false_alarms_by_hand(name, misses, alarms):
    assert NOW.pairs(BEFORE, name) == (Evidence(*misses), Evidence(*alarms))


def test_mistakes_by_hand():
    assert NOW.mistakes(BEFORE) == Evidence(6, 3, 2, 2)
    assert BEFORE.mistakes(BEFORE) == Evidence(6, 3, 0, 0)


def test_pairs_of_a_label_by_hand():
    target = [[1, 1], [1, 0], [1, 1]]
    before = outcomes(target, [[1, 0], [0, 0], [1, 1]])
    now = outcomes(target, [[0, 1], [1, 1], [1, 0]])
    assert now.pairs(before, "0") == (Evidence(3, 1, 1, 1), Evidence(0, 0, 0, 0))
    assert now.pairs(before, "1") == (Evidence(2, 1, 1, 1), Evidence(1, 0, 1, 0))
    assert now.mistakes(before) == Evidence(6, 2, 3, 2)


def test_without_names_a_class_is_named_by_its_index():
    unnamed = Decisions(NOW.target, NOW.predicted, 3)
    assert unnamed.pairs(BEFORE, "1") == NOW.pairs(BEFORE, "b")


def test_a_miss_that_changes_its_wrong_class_is_still_a_miss():
    pair, _ = outcomes([2, 2], [1, 0], 3).pairs(outcomes([2, 2], [0, 1], 3), "2")
    assert pair == Evidence(2, 2, 0, 0)


@given(samples)
def test_pairs_counts_and_mistakes_tell_one_story(drawn):
    target, before, now = zip(*drawn, strict=True)
    baseline, candidate = outcomes(target, before, 3), outcomes(target, now, 3)
    for c in range(3):
        misses, alarms = candidate.pairs(baseline, str(c))
        _, fp_before, _, fn_before, support = baseline.counts()[c].tolist()
        fp_now, fn_now = candidate.counts()[c, 1].item(), candidate.counts()[c, 3].item()
        assert (misses.support, misses.baseline_missed, misses.fn) == (support, fn_before, fn_now)
        assert (alarms.support, alarms.baseline_missed, alarms.fn) == (
            len(drawn) - support,
            fp_before,
            fp_now,
        )
        back, _ = baseline.pairs(candidate, str(c))
        assert (back.newly_missed, back.newly_found) == (misses.newly_found, misses.newly_missed)
    pairs = [candidate.pairs(baseline, str(c))[0] for c in range(3)]
    wrong = candidate.mistakes(baseline)
    # Every case is a positive of one class, and a mistake is a miss of it.
    assert (wrong.support, wrong.baseline_missed) == (len(drawn), sum(p.baseline_missed for p in pairs))
    assert wrong.newly_missed == sum(pair.newly_missed for pair in pairs)
    assert wrong.newly_found == sum(pair.newly_found for pair in pairs)


@pytest.mark.parametrize("target", [[1, 0, 1], [1, 0], [], [[1, 0], [0, 1]]])
def test_pairs_of_different_samples_are_refused(target):
    other, dense = outcomes(target, target), outcomes([1, 1], [1, 0])
    assert not other.same_cases(dense)
    for compare in (lambda: other.pairs(dense, "1"), lambda: other.mistakes(dense)):
        with pytest.raises(ValueError, match=f"the guard data changed .* 2 samples then, {len(target)} now"):
            compare()


def test_cases_are_the_same_whatever_was_decided_of_them():
    assert NOW.same_cases(BEFORE)
    assert outcomes([1, 0], [0, 0]).same_cases(Decisions(torch.tensor([True, False]), torch.ones(2), 2))
    assert not outcomes([1, 0], [0, 0]).same_cases(outcomes([0, 1], [0, 0]))


# --- saving ---


@pytest.mark.parametrize("names", [(), ("a", "b", "c")])
@pytest.mark.parametrize("target", [[0, 2, 1], [[1, 0, 1], [0, 0, 1]], []])
def test_outcomes_come_back_from_a_file_in_two_bytes_a_decision(target, names):
    judged = outcomes(target, target, 3, names)
    file = io.BytesIO()
    torch.save(judged.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    assert state["predicted"].element_size() == 2
    back = Decisions.from_state_dict(state)
    assert torch.equal(back.target, judged.target.long())
    assert torch.equal(back.predicted, judged.predicted.long())
    assert (back.num_classes, back.names) == (3, names)
    assert torch.equal(back.counts(), judged.counts())
