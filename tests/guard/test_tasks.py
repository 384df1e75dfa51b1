"""The door to tasks: names that users import, what they are, and which go together with what."""

from __future__ import annotations

import io
import pickle
from typing import Any

import pytest
import torch

import lightning_classprune
from lightning_classprune import ClassAwarePruningCallback, Guard
from lightning_classprune.guard import tasks
from lightning_classprune.guard.classification import ClassesOrLabels
from lightning_classprune.guard.objects import ObjectTask
from lightning_classprune.guard.tasks import Detection, InstanceSegmentation, Segmentation, Tokens


def callback(**options: Any) -> ClassAwarePruningCallback:
    return ClassAwarePruningCallback(**({"num_classes": 3, "protect": {1: 0.05}} | options))


def test_users_find_them_behind_the_door() -> None:
    from lightning_classprune.tasks import Segmentation as Found  # type: ignore[import-not-found, unused-ignore]

    assert Found is Segmentation
    assert lightning_classprune.tasks is tasks


@pytest.mark.parametrize(
    "kind", [Segmentation(), InstanceSegmentation(), Detection(), Tokens(), Tokens(span=True)]
)
def test_each_makes_a_task_and_is_part_of_what_a_run_is(kind: Any) -> None:
    pruning = callback(task=kind)
    assert isinstance(pruning.settings.task, ObjectTask)
    assert pruning.settings.task.measure == f"share of {kind.noun} found"
    assert pruning.settings.card()["rule"] == kind.in_words
    saved = pruning.settings.state_dict()
    assert saved["task"]["object"].endswith(type(kind).__name__)
    file = io.BytesIO()
    torch.save(saved, file)
    file.seek(0)
    assert (
        torch.load(file, weights_only=True)
        == saved
        == callback(task=pickle.loads(pickle.dumps(kind))).settings.state_dict()
    )
    assert saved != callback().settings.state_dict()


def test_without_one_everything_is_as_before() -> None:
    pruning = callback()
    assert isinstance(pruning.settings.task, ClassesOrLabels)
    assert "task" not in pruning.settings.state_dict()
    assert "rule" not in pruning.settings.card()


def test_offsets_of_several_classes_that_compete_are_refused() -> None:
    guard = Guard(offset="validation")
    for kind in (Segmentation(), Tokens()):
        callback(task=kind, guard=guard)
        with pytest.raises(ValueError, match=r"Guard.offset='validation' with 2 protected classes and task="):
            callback(task=kind, guard=guard, protect={1: 0.05, 2: 0.05})
    callback(task=Detection(), guard=guard, protect={1: 0.05, 2: 0.05})
