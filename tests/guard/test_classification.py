"""Classes and labels: what is decided of scores, with offsets and without, by hand and against `argmax`."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_classprune.guard.classification import Classes, ClassesOrLabels, Labels
from lightning_classprune.guard.outcomes import Decisions
from lightning_classprune.guard.task import NaNScoresError, Task

torch.set_num_threads(1)

NAN, INF = math.nan, math.inf


def names(num_classes: int) -> tuple[str, ...]:
    return tuple("abcdef"[:num_classes])


def decide(scores: Any, target: Any, num_classes: int, threshold: float = 0.0, **offsets: float) -> Decisions:
    """Of a network of which nothing but scores and targets is known; its last class is protected."""
    task = ClassesOrLabels(names(num_classes), [num_classes - 1], threshold)
    return task.outcomes(task.columns(scores, target), offsets)


def told(decisions: Decisions) -> tuple[list[Any], list[Any]]:
    return decisions.predicted.tolist(), decisions.target.tolist()


# --- what shapes and values mean ---


def test_the_largest_of_several_scores_wins_and_the_first_of_equals():
    scores = torch.tensor([[0.1, 3.0, 2.0], [-1.0, -2.0, -INF], [1.0, 1.0, 0.0]])
    decisions = decide(scores, torch.tensor([1, 0, 2]), 3, threshold=99.0)
    assert told(decisions) == ([1, 0, 0], [1, 0, 2])


@pytest.mark.parametrize("shape", [(5,), (5, 1)])
@pytest.mark.parametrize("target_shape", [(5,), (5, 1)])
@pytest.mark.parametrize("target_dtype", [torch.int64, torch.uint8, torch.bool, torch.float32])
def test_one_score_is_positive_at_or_above_the_threshold(shape, target_shape, target_dtype):
    scores = torch.tensor([-0.1, 0.0, 0.1, -INF, INF]).view(shape)
    wanted = torch.tensor([0, 1, 1, 0, 1]).to(target_dtype).view(target_shape)
    decisions = decide(scores, wanted, 2)
    assert told(decisions) == ([0, 1, 1, 0, 1], [0, 1, 1, 0, 1])
    assert decisions.target.dtype == decisions.predicted.dtype == torch.int64


def test_no_sigmoid_is_applied_whatever_the_range_of_the_batch():
    """torchmetrics would apply one to the first batch only, because a score of it leaves [0, 1]."""
    for scores, expected in (([0.2, 0.4, 3.0], [0, 0, 1]), ([0.2, 0.4, 0.6], [0, 0, 1])):
        assert decide(torch.tensor(scores), torch.zeros(3), 2, 0.5).predicted.tolist() == expected


def test_labels_are_yes_no_questions_each():
    scores = torch.tensor([[0.5, -1.0, 2.0], [-0.5, 0.0, -2.0]])
    decisions = decide(scores, torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]]), 3)
    assert told(decisions) == ([[1, 0, 1], [0, 1, 0]], [[1, 0, 0], [0, 1, 1]])


def test_two_columns_of_scores_are_classes_or_labels_by_the_target():
    scores = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
    assert decide(scores, torch.tensor([0, 1]), 2).predicted.tolist() == [0, 1]
    assert decide(scores, torch.tensor([[0], [1]]), 2).predicted.tolist() == [0, 1]
    assert decide(scores, torch.tensor([[0, 1], [1, 1]]), 2).predicted.tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_scores_of_any_precision(dtype):
    assert decide(torch.tensor([[1.0, 2.0]], dtype=dtype), torch.tensor([0]), 2).predicted.tolist() == [1]
    assert decide(torch.tensor([0.5, -0.5], dtype=dtype), torch.tensor([0, 0]), 2).predicted.tolist() == [
        1,
        0,
    ]


@pytest.mark.parametrize("shape", [(0, 3), (0,), (0, 1)])
def test_an_empty_batch_decides_nothing(shape):
    decisions = decide(torch.zeros(shape), torch.zeros(0), 3 if shape == (0, 3) else 2)
    assert decisions.predicted.shape == decisions.target.shape == (0,)
    assert len(decisions) == 0


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
        (three.bool(), labels, 3, "decisions of dtype bool, of which a sample has none or several"),
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
        decide(scores, target, num_classes)
    assert "predict" in str(error.value)
    assert not isinstance(error.value, NaNScoresError)


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 2)])
def test_nan_scores_are_an_error_of_their_own(shape):
    scores = torch.zeros(shape)
    scores[-1] = NAN
    with pytest.raises(NaNScoresError, match="predict returned NaN scores"):
        decide(scores, labels, 2)
    if shape == (4, 2):
        with pytest.raises(NaNScoresError):
            decide(scores, torch.zeros(4, 2), 2)


def test_each_of_the_two_tasks_can_be_used_alone() -> None:
    scores, target = torch.tensor([[2.0, 1.0], [1.0, 2.0]]), torch.tensor([[1, 0], [1, 1]])
    task = Labels(("a", "b"), [0], 1.5)
    assert task.fits(scores, target)
    assert not task.fits(scores, target[:, 0])
    assert told(task.outcomes(task.columns(scores, target), {})) == ([[1, 0], [0, 1]], [[1, 0], [1, 1]])
    assert told(decide(scores, target, 2, 1.5)) == ([[1, 0], [0, 1]], [[1, 0], [1, 1]])
    with pytest.raises(ValueError, match="one target a sample is needed"):
        Classes(("a", "b"), [0], 1.5).columns(scores, target)


# --- classes against argmax, whatever the scores ---

VALUES = st.sampled_from([-INF, -2.0, -0.5, -0.0, 0.0, 0.5, 1.0, 65504.0, INF])
OFFSETS = st.sampled_from([-3.0, -0.5, 0.0, 0.25, 1.0])
DTYPES = st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64])


@st.composite
def passes(draw: st.DrawFn) -> tuple[Tensor, Tensor, list[int]]:
    """Scores with many ties, targets, and any set of protected classes, all and none included."""
    classes, n = draw(st.integers(2, 5)), draw(st.integers(0, 6))
    rows = draw(st.lists(st.lists(VALUES, min_size=classes, max_size=classes), min_size=n, max_size=n))
    scores = torch.tensor(rows, dtype=draw(DTYPES)).reshape(n, classes)
    target = torch.tensor(draw(st.lists(st.integers(0, classes - 1), min_size=n, max_size=n)))
    return scores, target, sorted(draw(st.sets(st.integers(0, classes - 1))))


@given(passes())
def test_without_offsets_the_first_of_the_largest_scores_decides(
    drawn: tuple[Tensor, Tensor, list[int]],
) -> None:
    scores, target, protected = drawn
    task = Classes(names(scores.shape[1]), protected, 99.0)
    decisions = task.outcomes(task.columns(scores, target.reshape(-1)), {})
    assert decisions.predicted.dtype == torch.int64
    assert told(decisions) == (scores.argmax(1).tolist(), target.tolist())


@given(passes(), st.data())
def test_offsets_decide_as_a_bias_on_the_scores(
    drawn: tuple[Tensor, Tensor, list[int]], data: st.DataObject
) -> None:
    scores, target, protected = drawn
    given_ = {i: data.draw(OFFSETS) for i in protected if data.draw(st.booleans())}
    bias = torch.tensor([given_.get(i, 0.0) for i in range(scores.shape[1])], dtype=torch.float64)
    task = Classes(names(scores.shape[1]), protected, 99.0)
    columns = task.columns(scores, target.reshape(-1))
    decisions = task.outcomes(columns, {task.names[i]: value for i, value in given_.items()})
    assert decisions.predicted.tolist() == (scores.double() + bias).argmax(1).tolist()


@given(passes(), st.data())
def test_a_sweep_counts_what_is_decided_with_the_offset_whatever_the_scores(
    drawn: tuple[Tensor, Tensor, list[int]], data: st.DataObject
) -> None:
    """Infinite scores too: a class that is masked, an overflow of half precision."""
    scores, target, protected = drawn
    if not protected:
        return
    kind = data.draw(st.sampled_from(["classes", "one", "labels"]))
    if kind == "one":
        scores, target, protected = (
            scores[:, 0],
            target.clamp(max=1),
            [p for p in (0, 1) if p in protected] or [1],
        )
    classes = 2 if kind == "one" else scores.shape[1]
    task: Classes | Labels = (
        Labels(names(classes), protected, 0.25)
        if kind == "labels"
        else Classes(names(classes), protected, 0.25)
    )
    truth = (scores > 0.5).long() if kind == "labels" else target.reshape(-1)
    columns = task.columns(scores, truth)
    dense = task.outcomes(columns, {})
    name = task.names[data.draw(st.sampled_from(protected))]
    others = {task.names[i]: data.draw(OFFSETS) for i in protected if task.names[i] != name}
    sweep = task.sweep(columns, others, name, dense)
    for place, threshold in enumerate(sweep.tried.tolist()):
        assert np.isfinite(threshold)
        now = task.outcomes(columns, {**others, name: -threshold})
        for one in (task.names[i] for i in protected):
            counted = tuple(table.at(place) for table in sweep.counts(one, sweep.tried))
            assert counted == now.pairs(dense, one)


@given(st.lists(VALUES, max_size=8), OFFSETS, OFFSETS, OFFSETS)
def test_offsets_of_both_classes_shift_one_score(
    scores: list[float], of_zero: float, of_one: float, threshold: float
) -> None:
    task = Classes(("a", "b"), [0, 1], threshold)
    columns = task.columns(torch.tensor(scores), torch.zeros(len(scores)))
    for offsets, shift in (
        ({}, 0.0),
        ({"b": of_one}, of_one),
        ({"a": of_zero}, -of_zero),
        ({"a": of_zero, "b": of_one}, of_one - of_zero),
    ):
        wanted = [int(score + shift >= threshold) for score in scores]
        assert task.outcomes(columns, offsets).predicted.tolist() == wanted


def test_one_score_with_offsets_by_hand() -> None:
    scores, target = torch.tensor([-1.0, -0.5, 0.0, 0.5]), torch.zeros(4)
    assert decide(scores, target, 2, b=0.5).predicted.tolist() == [0, 1, 1, 1]
    assert decide(scores, target, 2, a=0.5).predicted.tolist() == [0, 0, 0, 1]
    assert decide(scores, target, 2, a=0.5, b=0.5).predicted.tolist() == [0, 0, 1, 1]


@given(passes(), st.data())
def test_offsets_shift_the_scores_of_protected_labels(
    drawn: tuple[Tensor, Tensor, list[int]], data: st.DataObject
) -> None:
    scores, _, protected = drawn
    offsets: Mapping[str, float] = {"abcdef"[i]: data.draw(OFFSETS) for i in protected}
    threshold, labels = data.draw(OFFSETS), (scores > 0).long()
    task = Labels(names(scores.shape[1]), protected, threshold)
    decisions = task.outcomes(task.columns(scores, labels), offsets)
    bias = torch.tensor([offsets.get(name, 0.0) for name in task.names], dtype=torch.float64)
    wanted = torch.where(bias != 0, scores.double() + bias >= threshold, scores >= threshold)
    assert told(decisions) == (wanted.long().tolist(), labels.tolist())


def test_only_the_scores_that_an_offset_can_change_are_kept() -> None:
    scores, target = torch.tensor([[1.0, 2.0, 3.0, 4.0], [4.0, 9.0, 2.0, 1.0]]), torch.tensor([0, 1])
    wanted, best, competing = Classes(names(4), [1], 0.0).columns(scores, target)
    assert (wanted.tolist(), best.tolist(), competing.tolist()) == ([0, 1], [3, 0], [[2, 4], [9, 4]])
    *_, kept = Labels(names(4), [3, 0], 0.0).columns(scores, torch.ones(2, 4))
    assert kept.tolist() == [[1, 4], [4, 1]]


# --- the pass as a whole ---

TASKS: list[Task] = [kind(("a", "b"), [1], 0.0) for kind in (Classes, Labels, ClassesOrLabels)]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: type(task).__name__)
def test_a_pass_without_a_batch_has_outcomes_without_a_case(task: Task) -> None:
    nothing = task.outcomes((), {"b": 1.0})
    assert len(nothing) == 0
    misses, alarms = nothing.pairs(nothing, "b")
    assert misses.support == alarms.support == nothing.mistakes(nothing).support == 0
    assert len(task.restored(nothing.state_dict())) == 0


@pytest.mark.parametrize("target", [torch.tensor([0, 1, 1]), torch.tensor([[0, 1], [1, 0], [1, 1]])])
def test_outcomes_know_their_names_and_come_back_from_a_file(target: Tensor) -> None:
    task = ClassesOrLabels(("a", "b"), [1], 0.0)
    scores = torch.tensor([[1.0, -2.0], [-3.0, 4.0], [5.0, 0.5]])
    decisions = task.outcomes(task.columns(scores, target), {})
    assert decisions.names == ("a", "b")
    file = io.BytesIO()
    torch.save(decisions.state_dict(), file)
    file.seek(0)
    back = task.restored(torch.load(file, weights_only=True))
    assert back.names == ("a", "b")
    assert back.same_cases(decisions)
    assert told(back) == told(decisions)
