"""Boxes: torchvision's format, COCO's rule with crowds, the threshold of the score as an offset, bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lightning_classprune.guard.boxes import Detection, match_boxes, score_biases
from lightning_classprune.guard.lists import boxes, dicts, labelled
from lightning_classprune.guard.objects import Reading
from lightning_classprune.guard.task import NaNScoresError

HOW = Reading(("rest", "red", "white"), (1, 2), 0.0, (0.0,))
TARGET = {
    "boxes": torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10], [0, 20, 30, 40]]),
    "labels": torch.tensor([1, 1, 2]),
}


def prediction(*told: tuple[list[float], int, float]) -> dict[str, Any]:
    return {
        "boxes": torch.tensor([box for box, _, _ in told], dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor([label for _, label, _ in told], dtype=torch.int64),
        "scores": torch.tensor([score for *_, score in told], dtype=torch.float32),
    }


HALF = Detection()


def seen(given: Any, target: Any = TARGET, kind: Detection = HALF, how: Reading = HOW) -> Any:
    return kind.read([given], [target], how)[1]


def test_by_hand() -> None:
    given = prediction(
        ([0, 0, 10, 10], 1, 0.9),  # finds the first
        ([0, 0, 10, 9], 1, 0.8),  # which is taken: a false alarm
        ([21, 0, 31, 10], 1, 0.4),  # would find the second, below the threshold
        ([0, 20, 30, 40], 1, 0.7),  # of another class: a false alarm
        ([0, 20, 30, 39], 2, 0.5),  # at the threshold
        ([50, 50, 60, 60], 2, 0.49),
    )
    found = seen(given)
    assert found[1].found[:, 0].tolist() == [True, False]
    assert found[2].found[:, 0].tolist() == [True]
    assert (found[1].alarms.tolist(), found[2].alarms.tolist()) == ([[2]], [[0]])
    lower = seen(given, kind=Detection(score_threshold=0.3))
    assert lower[1].found[:, 0].tolist() == [True, True]
    assert lower[2].alarms.tolist() == [[1]]


def test_a_bias_is_another_threshold_of_the_score() -> None:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(40, 2, generator=generator) * 30
    boxes_ = torch.cat([corner, corner + 8], 1)
    target = {
        "boxes": boxes_[:20] + torch.randn(20, 4, generator=generator),
        "labels": torch.ones(20, dtype=torch.int64),
    }
    given = {
        "boxes": boxes_,
        "scores": torch.rand(40, generator=generator),
        "labels": torch.ones(40, dtype=torch.int64),
    }
    biases = (0.0, 0.3, -0.3)
    several = seen(given, target, how=Reading(HOW.names, (1,), 0.0, biases))[1]
    for place, bias in enumerate(biases):
        one = seen(given, target, Detection(score_threshold=0.5 - bias))[1]
        assert one.found[:, 0].tolist() == several.found[:, place].tolist()
        assert one.alarms[:, 0].tolist() == several.alarms[:, place].tolist()
        kept = given["scores"].double() >= 0.5 - bias  # what is left out beforehand changes nothing
        assert (
            seen({k: v[kept] for k, v in given.items()}, target, Detection(score_threshold=0.01))[1].found[
                :, 0
            ]
            == one.found[:, 0]
        ).all()


@pytest.mark.parametrize("mark", ["iscrowd", "ignore"])
def test_what_lies_in_a_crowd_counts_neither_way(mark: str) -> None:
    target = TARGET | {mark: torch.tensor([0, 1, 0])}
    given = prediction(([20, 0, 25, 10], 1, 0.9), ([24, 0, 30, 10], 1, 0.9), ([26, 0, 40, 10], 1, 0.9))
    found = seen(given, target)[1]
    assert found.found[:, 0].tolist() == [False]
    assert found.alarms.tolist() == [[1]]  # the last lies in it by less than half


def test_no_boxes_at_all() -> None:
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    empty = seen(prediction(), nothing)
    assert (len(empty[1].found), empty[1].alarms.tolist()) == (0, [[0]])
    assert seen({"boxes": [], "labels": [], "scores": []}, TARGET)[1].found.tolist() == [[False], [False]]
    assert match_boxes(
        np.zeros((0, 4)), np.zeros(0), np.zeros((0, 4)), np.zeros((0, 4)), 0.5
    ).scores.shape == (0,)


def test_an_untrained_networks_boxes_without_area_match_nothing() -> None:
    given = prediction(([5, 5, 5, 5], 1, 0.9), ([9, 9, 3, 3], 1, 0.9))
    assert seen(given)[1].alarms.tolist() == [[2]]


def test_biases_keep_the_threshold_inside() -> None:
    for threshold in (0.5, 0.05, 0.9):
        tried = [threshold - bias for bias in score_biases(threshold)]
        assert 0 < min(tried) < max(tried) < 1
        assert len(tried) >= 47


@pytest.mark.parametrize(
    ("given", "target", "message"),
    [
        (torch.zeros(2, 2), torch.zeros(2), r"\(list of dicts, list of dicts\).*task=Segmentation"),
        ([{}, {}], [{}], "2 predictions for 1 targets"),
        ([{"scores": []}], [TARGET], "the prediction of image 0 of a batch has no 'boxes'; it has .'scores'"),
        ([prediction()], [{"boxes": TARGET["boxes"]}], "the target of image 0 of a batch has no 'labels'"),
        ([prediction()], [TARGET | {"labels": torch.tensor([1, 2])}], "3 objects, 2 labels"),
        (
            [prediction()],
            [TARGET | {"labels": torch.tensor([1, 2, 3])}],
            "labels from 1 to 3; 0 to 2 are allowed",
        ),
        ([prediction()], [TARGET | {"labels": ["cell"] * 3}], r"labels \['cell', .*whole numbers are needed"),
        (
            [prediction()],
            [TARGET | {"labels": torch.tensor([1, 0.5, 1])}],
            r"labels \[1.0, 0.5, 1.0\]; whole",
        ),
        (
            [prediction()],
            [TARGET | {"boxes": torch.tensor([[0, 0, 9, torch.inf]] * 3)}],
            "a target box of image 0 of a batch is infinite",
        ),
        (
            [prediction()],
            [TARGET | {"boxes": torch.tensor([[3.0, 0, 3, 9]] * 3)}],
            r"a box without an area, \[3.0, 0.0",
        ),
        (
            [prediction()],
            [TARGET | {"boxes": torch.full((3, 4), torch.nan)}],
            "a target box of image 0 of a batch is NaN",
        ),
        ([prediction()], [TARGET | {"boxes": torch.zeros(3, 5)}], r"boxes of shape \(3, 5\)"),
    ],
)
def test_what_makes_no_sense_is_refused(given: Any, target: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"predict.*{message}") as error:
        Detection().read(given, target, HOW)
    assert not isinstance(error.value, NaNScoresError)


@pytest.mark.parametrize("name", ["boxes", "scores"])
def test_predictions_that_are_no_numbers_are_a_network_that_diverged(name: str) -> None:
    given = prediction(([0, 0, 1, 1], 1, 0.5))
    given[name] = torch.full_like(given[name], torch.nan)
    with pytest.raises(NaNScoresError):
        seen(given)


@pytest.mark.parametrize(
    "options", [{"iou": 0}, {"iou": 1}, {"score_threshold": 1.0}, {"score_threshold": "0.5"}]
)
def test_bad_arguments_are_refused_by_name(options: Any) -> None:
    with pytest.raises(ValueError, match=r"^Detection\.\w+="):
        Detection(**options)


def test_lists_are_read_whatever_holds_them() -> None:
    told = {
        "boxes": [[0, 0, 1, 1]],
        "labels": np.array([1]),
        "scores": torch.tensor([0.5], dtype=torch.bfloat16),
    }
    assert boxes(told, "prediction", "here").tolist() == [[0, 0, 1, 1]]
    read = labelled(told, 1, HOW, "prediction", "here")
    assert (read.labels.tolist(), read.scores.tolist(), read.ignored.tolist()) == ([1], [0.5], [False])
    assert labelled({}, 2, Reading(("a", "b"), (1,), 0.0, (0.0,)), "target", "here").labels.tolist() == [1, 1]
    assert len(dicts("Detection", [told], (told,))) == 1


@pytest.mark.parametrize("score", [1.5, -0.2, float("inf")])
def test_raw_scores_are_refused_and_rounded_ones_are_not(score: float) -> None:
    with pytest.raises(
        ValueError, match=r"scores from .* must lie between 0 and 1, .* torch.sigmoid"
    ) as error:
        seen(prediction(([0, 0, 10, 10], 1, score)))
    assert not isinstance(error.value, NaNScoresError)
    assert seen(prediction(([0, 0, 10, 10], 1, 1.0005)))[1].found.tolist() == [[True], [False]]


@pytest.mark.parametrize("name", ["background", "__background__"])
def test_an_object_of_the_background_is_refused(name: str) -> None:
    wrong = TARGET | {"labels": torch.tensor([0, 1, 2])}
    how = Reading((name, "red", "white"), (1, 2), 0.0, (0.0,))
    with pytest.raises(ValueError, match=r"an object of label 0, which is .*background.*: add 1"):
        seen(prediction(), wrong, how=how)
    assert seen(prediction(), wrong)[1].found.shape == (1, 1)  # where 0 is a class it is one
