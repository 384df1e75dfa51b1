"""Instances: maps and stacks of masks say the same, rules by hand, bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lightning_classprune.guard.instances import InstanceSegmentation, layers
from lightning_classprune.guard.objects import Reading

HOW = Reading(("rest", "cell"), (1,), 0.0, (0.0,))
MAP = torch.tensor([[1, 1, 0, 2, 2], [1, 1, 0, 2, 2], [0, 0, 0, 7, 7]])


def stack(numbers: torch.Tensor) -> torch.Tensor:
    return torch.stack([numbers == one for one in numbers.unique() if one])


def seen(given: Any, target: Any, how: Reading = HOW, **options: Any) -> Any:
    return InstanceSegmentation(**options).read([given], [target], how)[1][1]


CLAIM = torch.tensor([[1, 0, 0, 3, 3], [1, 1, 0, 3, 3], [0, 0, 0, 3, 3]])


@pytest.mark.parametrize(
    ("options", "found", "alarms"),
    [
        ({}, [True, True, False], 0),  # IoU .75, 4/6, 2/6
        ({"iou": 0.7}, [True, False, False], 1),
        ({"rule": "coverage"}, [True, True, True], 0),
        ({"rule": "coverage", "iou": 0.8}, [False, True, True], 0),
        ({"rule": "centroid"}, [True, True, False], 0),
    ],
)
def test_by_hand_and_by_every_form(options: Any, found: list[bool], alarms: int) -> None:
    forms = [{"map": CLAIM}, {"masks": stack(CLAIM)}, {"masks": stack(CLAIM)[:, None].float() * 0.9}]
    targets = [{"map": MAP}, {"masks": stack(MAP)}, {"map": MAP.numpy().astype(np.uint16)}]
    for given in forms:
        for target in targets:
            one = seen(given, target, **options)
            assert one.found[:, 0].tolist() == found
            assert one.alarms.tolist() == [[alarms]]
            assert one.box.tolist() == [[0, 0, 2, 2], [3, 0, 5, 2], [3, 2, 5, 3]]
            assert one.area.tolist() == [4, 4, 2]


def test_masks_that_overlap_are_claimed_by_falling_score() -> None:
    masks = torch.stack([MAP == 1, (MAP == 1) | (MAP == 2), MAP == 2])
    given = {"masks": masks, "scores": torch.tensor([0.6, 0.9, 0.4]), "labels": torch.ones(3)}
    one = seen(given, {"map": MAP})
    assert one.found[:, 0].tolist() == [True, False, False]
    assert one.alarms.tolist() == [[1]]
    low = seen(given, {"map": MAP}, score_threshold=0.3)
    assert low.found[:, 0].tolist() == [True, True, False]


def test_classes_and_marks_to_ignore() -> None:
    three = Reading(("rest", "cell", "dirt"), (1,), 0.0, (0.0,))
    target = {"map": MAP, "labels": [1, 2, 1], "ignore": [0, 0, 1]}
    one = seen({"map": CLAIM, "labels": [1, 1]}, target, three)
    assert one.found[:, 0].tolist() == [True]
    assert one.alarms.tolist() == [[1]]
    inside = seen({"map": torch.where(MAP == 7, 1, 0), "labels": [1]}, target, three)
    assert inside.alarms.tolist() == [[0]]


def test_nothing_in_an_image() -> None:
    nothing = {"map": torch.zeros(3, 5, dtype=torch.int64)}
    assert seen(nothing, nothing).alarms.tolist() == [[0]]
    assert seen({"masks": torch.zeros(0, 3, 5), "labels": []}, {"map": MAP}).found.tolist() == [[False]] * 3
    empty = {"masks": torch.zeros(0, 3, 5), "labels": []}
    for rule in ("iou", "coverage", "centroid"):
        for none in (nothing, empty):
            assert seen({"map": CLAIM}, none, rule=rule).alarms.tolist() == [[2]]
            assert seen(none, {"map": MAP}, rule=rule).found.tolist() == [[False]] * 3
            assert seen(none, empty, rule=rule).box.tolist() == []


def test_no_object_of_the_class_among_masks_that_overlap() -> None:
    three = Reading(("rest", "cell", "dirt"), (1,), 0.0, (0.0,))
    target = {"masks": torch.stack([MAP == 1, MAP > 0]), "labels": [2, 2]}
    one = seen({"masks": torch.stack([MAP == 1, MAP > 0]), "labels": [2, 1]}, target, three)
    assert (len(one.found), one.alarms.tolist()) == (0, [[1]])


@pytest.mark.parametrize(
    ("given", "target", "message"),
    [
        ({"map": CLAIM}, {"map": MAP[:2]}, r"of size \(3, 5\) and its target of \(2, 5\)"),
        ({"map": CLAIM.float()}, {"map": MAP}, r"a map of shape \(3, 5\) and dtype float32"),
        ({"map": -CLAIM}, {"map": MAP}, "whole numbers are needed"),
        ({"masks": CLAIM}, {"map": MAP}, r"masks of shape \(3, 5\); \(m, H, W\) are needed, or a 'map'"),
        (
            {"map": CLAIM},
            {"masks": torch.zeros(2, 3, 5)},
            "mask 0 of the target of image 0 of a batch has no pixel",
        ),
        ({"map": CLAIM}, {}, "has no 'masks'"),
        ({"map": CLAIM, "labels": [1, 5]}, {"map": MAP}, "labels from 1 to 5"),
    ],
)
def test_what_makes_no_sense_is_refused(given: Any, target: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"predict: .*{message}"):
        seen(given, target)


@pytest.mark.parametrize("options", [{"iou": 0.4}, {"iou": 1}, {"rule": "dice"}, {"score_threshold": 0}])
def test_bad_arguments_are_refused_by_name(options: Any) -> None:
    with pytest.raises(ValueError, match=r"^InstanceSegmentation\.\w+="):
        InstanceSegmentation(**options)


def test_a_map_is_numbered_in_turn() -> None:
    read = layers({"map": MAP}, "target", "here")
    assert (read.count, read.areas.tolist()) == (3, [4, 4, 2])
    assert read.only(np.array([False, True, True])).areas.tolist() == [4, 2]
