import io
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_classprune.guard.evidence import Evidence
from lightning_classprune.guard.outcomes import Decisions, evidence
from lightning_classprune.guard.task import NaNScoresError
from lightning_classprune.job.classifier import decide

torch.set_num_threads(1)

NAN, INF = math.nan, math.inf


def outcomes(target, predicted, num_classes=2):
    return Decisions(torch.tensor(target), torch.tensor(predicted), num_classes)


# --- decisions ---


def test_the_largest_of_several_scores_wins_and_the_first_of_equals():
    scores = torch.tensor([[0.1, 3.0, 2.0], [-1.0, -2.0, -INF], [1.0, 1.0, 0.0]])
    predicted, target = decide(scores, torch.tensor([1, 0, 2]), 3, threshold=99.0)
    assert predicted.tolist() == [1, 0, 0]
    assert target.tolist() == [1, 0, 2]


@pytest.mark.parametrize("shape", [(5,), (5, 1)])
@pytest.mark.parametrize("target_shape", [(5,), (5, 1)])
@pytest.mark.parametrize("target_dtype", [torch.int64, torch.uint8, torch.bool, torch.float32])
def test_one_score_is_positive_at_or_above_the_threshold(shape, target_shape, target_dtype):
    scores = torch.tensor([-0.1, 0.0, 0.1, -INF, INF]).view(shape)
    wanted = torch.tensor([0, 1, 1, 0, 1]).to(target_dtype).view(target_shape)
    predicted, target = decide(scores, wanted, 2, threshold=0.0)
    assert predicted.tolist() == [0, 1, 1, 0, 1]
    assert target.tolist() == [0, 1, 1, 0, 1]
    assert target.dtype == torch.int64


def test_no_sigmoid_is_applied_whatever_the_range_of_the_batch():
    """torchmetrics would apply one to the first batch only, because a score of it leaves [0, 1]."""
    for scores, expected in (([0.2, 0.4, 3.0], [0, 0, 1]), ([0.2, 0.4, 0.6], [0, 0, 1])):
        assert decide(torch.tensor(scores), torch.zeros(3), 2, threshold=0.5)[0].tolist() == expected


def test_labels_are_yes_no_questions_each():
    scores = torch.tensor([[0.5, -1.0, 2.0], [-0.5, 0.0, -2.0]])
    predicted, target = decide(scores, torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]]), 3, threshold=0.0)
    assert predicted.tolist() == [[1, 0, 1], [0, 1, 0]]
    assert target.tolist() == [[1, 0, 0], [0, 1, 1]]


def test_two_columns_of_scores_are_classes_or_labels_by_the_target():
    scores = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
    assert decide(scores, torch.tensor([0, 1]), 2, 0.0)[0].tolist() == [0, 1]
    assert decide(scores, torch.tensor([[0], [1]]), 2, 0.0)[0].tolist() == [0, 1]
    assert decide(scores, torch.tensor([[0, 1], [1, 1]]), 2, 0.0)[0].tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_scores_of_any_precision(dtype):
    assert decide(torch.tensor([[1.0, 2.0]], dtype=dtype), torch.tensor([0]), 2, 0.0)[0].tolist() == [1]
    assert decide(torch.tensor([0.5, -0.5], dtype=dtype), torch.tensor([0, 0]), 2, 0.0)[0].tolist() == [1, 0]


@pytest.mark.parametrize("shape", [(0, 3), (0,), (0, 1)])
def test_an_empty_batch_decides_nothing(shape):
    predicted, target = decide(torch.zeros(shape), torch.zeros(0), 3 if shape == (0, 3) else 2, 0.0)
    assert predicted.shape == target.shape == (0,)


one, two, three = torch.zeros(4), torch.zeros(4, 2), torch.zeros(4, 3)
labels = torch.zeros(4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("scores", "target", "num_classes", "message"),
    [
        (
            three,
            labels,
            2,
            r"scores \(4, 3\), target \(4,\) for num_classes=2.*must be \(n, 2\), \(n,\) or \(n, 1\)",
        ),
        (two, labels, 3, r"scores must be \(n, 3\)$"),
        (one, labels, 3, r"scores must be \(n, 3\)$"),
        (torch.zeros(4, 1), labels, 3, r"scores must be \(n, 3\)$"),
        (torch.zeros(4, 3, 2), labels, 3, "scores must be"),
        (torch.zeros(3, 3), labels, 3, "one target a sample is needed"),
        (torch.tensor(0.5), labels, 2, "one target a sample is needed"),
        (torch.tensor(0.5), torch.tensor(1), 2, "one target a sample is needed"),
        (three, torch.zeros(4, 2), 3, "one target a sample is needed, or multi-label targets"),
        (three, torch.zeros(4, 3, 1), 3, "one target a sample is needed"),
        (labels, labels, 2, "scores of dtype torch.int64; real scores are needed, not decisions"),
        (one.bool(), labels, 2, "scores of dtype torch.bool"),
        (three.to(torch.complex64), labels, 3, "scores of dtype torch.complex64"),
        ([0.1], labels, 2, "two tensors .* got list and Tensor"),
        (one, None, 2, "two tensors .* got Tensor and NoneType"),
        (three, labels - 1, 3, "targets from -1 to -1; whole numbers from 0 to 2 are allowed"),
        (three, labels + 3, 3, "targets from 3 to 3; whole numbers from 0 to 2"),
        (one, labels + 2, 2, "whole numbers from 0 to 1"),
        (three, torch.full((4,), 0.5), 3, "targets from 0.5 to 0.5"),
        (one, torch.full((4,), NAN), 2, "targets from nan"),
        (three, torch.full((4, 3), 2.0), 3, "targets from 2.0 to 2.0; whole numbers from 0 to 1"),
    ],
)
def test_what_makes_no_sense_is_refused_and_blamed_on_predict(scores, target, num_classes, message):
    with pytest.raises(ValueError, match=message) as error:
        decide(scores, target, num_classes, 0.0)
    assert "predict" in str(error.value)
    assert not isinstance(error.value, NaNScoresError)


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 2)])
def test_nan_scores_are_an_error_of_their_own(shape):
    scores = torch.zeros(shape)
    scores[-1] = NAN
    with pytest.raises(NaNScoresError, match="predict returned NaN scores"):
        decide(scores, labels, 2, 0.0)
    if shape == (4, 2):
        with pytest.raises(NaNScoresError):
            decide(scores, torch.zeros(4, 2), 2, 0.0)


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


def test_evidence_by_hand():
    #                 found both, newly missed, newly found, missed both, other class (said 1 at first)
    target = [1, 1, 1, 1, 0]
    before, now = [1, 1, 0, 0, 1], [1, 0, 1, 0, 0]
    assert evidence(outcomes(target, before), outcomes(target, now), 1) == Evidence(4, 2, 1, 1)
    assert evidence(outcomes(target, before), outcomes(target, now), 0) == Evidence(1, 1, 0, 1)


def test_evidence_of_a_label_by_hand():
    target = [[1, 1], [1, 0], [1, 1]]
    before, now = [[1, 0], [0, 0], [1, 1]], [[0, 1], [1, 1], [1, 0]]
    assert evidence(outcomes(target, before), outcomes(target, now), 0) == Evidence(3, 1, 1, 1)
    assert evidence(outcomes(target, before), outcomes(target, now), 1) == Evidence(2, 1, 1, 1)


def test_a_miss_that_changes_its_wrong_class_is_still_a_miss():
    assert evidence(outcomes([2, 2], [0, 1], 3), outcomes([2, 2], [1, 0], 3), 2) == Evidence(2, 2, 0, 0)


@given(samples)
def test_evidence_and_counts_tell_one_story(drawn):
    target, before, now = zip(*drawn, strict=True)
    baseline, candidate = outcomes(target, before, 3), outcomes(target, now, 3)
    for c in range(3):
        pair = evidence(baseline, candidate, c)
        *_, fn_before, support = baseline.counts()[c].tolist()
        fn_now = candidate.counts()[c, 3].item()
        assert (pair.support, pair.baseline_missed, pair.fn) == (support, fn_before, fn_now)
        back = evidence(candidate, baseline, c)
        assert (back.newly_missed, back.newly_found) == (pair.newly_found, pair.newly_missed)


@pytest.mark.parametrize("target", [[1, 0, 1], [1, 0], [], [[1, 0], [0, 1]]])
def test_pairs_of_different_samples_are_refused(target):
    other = Decisions(torch.tensor(target), torch.tensor(target), 2)
    with pytest.raises(ValueError, match=f"the guard data changed .* 2 samples then, {len(target)} now"):
        evidence(outcomes([1, 1], [1, 0]), other, 1)


# --- saving ---


@pytest.mark.parametrize("target", [[0, 2, 1], [[1, 0, 1], [0, 0, 1]], []])
def test_outcomes_come_back_from_a_file_in_two_bytes_a_decision(target):
    judged = outcomes(target, target, 3)
    file = io.BytesIO()
    torch.save(judged.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    assert state["predicted"].element_size() == 2
    back = Decisions.from_state_dict(state)
    assert torch.equal(back.target, judged.target.long())
    assert torch.equal(back.predicted, judged.predicted.long())
    assert back.num_classes == 3
    assert torch.equal(back.counts(), judged.counts())
