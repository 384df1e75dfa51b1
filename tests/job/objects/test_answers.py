"""What is kept of the objects that a network finds: counts, files, new false alarms, and which pictures are shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from lightning_classprune.guard.objects import ALARMS, OBJECT, Found
from lightning_classprune.job.objects.answers import (
    Alarms,
    ObjectAnswers,
    counted,
    found_arrays,
    found_from,
    new_alarms,
)
from lightning_classprune.job.objects.pictures import (
    ObjectPictures,
    most_telling,
    read_object_pictures,
    write_object_pictures,
)
from lightning_classprune.job.scores_file import read_scores, write_scores

# Samples 0 and 1 are of unit 5, sample 2 of unit 6; objects of class 1, one row each, then a row of alarms a sample.
SAMPLE = [0, 0, 1, 2, 0, 1, 2]
UNIT = [5, 5, 5, 6, 5, 5, 6]
KIND = [[OBJECT, 1]] * 4 + [[ALARMS, 1]] * 3
BOX = [[0, 0, 4, 4], [6, 6, 9, 9], [1, 1, 3, 3], [2, 2, 8, 8], *[[0, 0, 0, 0]] * 3]


def answers(value: list[int], alarms: list[tuple[int, list[float]]]) -> ObjectAnswers:
    found = Found(
        sample=torch.tensor(SAMPLE),
        unit=torch.tensor(UNIT),
        kind=torch.tensor(KIND),
        value=torch.tensor(value),
        box=torch.tensor(BOX, dtype=torch.float32),
        order=torch.arange(len(SAMPLE)),
        names=("background", "cell"),
        cluster="one",
        noun="objects",
        rule="found by chance",
    )
    sample, boxes = [one for one, _ in alarms], [box for _, box in alarms]
    return ObjectAnswers(
        found,
        Alarms(
            torch.tensor(sample, dtype=torch.int64),
            torch.ones(len(sample), dtype=torch.int64),
            torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        ),
    )


DENSE = answers([1, 1, 0, 1, 1, 0, 0], [(0, [10, 10, 14, 14])])
DELIVERED = answers([0, 1, 1, 0, 2, 0, 0], [(0, [10, 10, 14, 13]), (0, [20, 20, 24, 24])])
PICTURES = ObjectPictures(
    {0: np.zeros((8, 8), np.uint8), 2: np.ones((8, 8), np.uint8)},
    0.5,
    torch.tensor([0]),
    torch.tensor([1]),
    torch.tensor([[20.0, 20, 24, 24]]),
)
SAMPLES = {"guard": [("a.png", 5), ("b.png", 5), ("c.png", 6)]}


def test_counts_are_of_objects_and_of_units() -> None:
    assert counted(DELIVERED.found) == {
        "samples": 3,
        "accuracy": None,
        "units": 2,
        "classes": {
            "cell": {"support": 4, "fn": 2, "fp": 2, "recall": 0.5, "units": 2, "units_fn": 2, "units_fp": 1}
        },
    }


def test_files_give_back_what_was_written(tmp_path: Path) -> None:
    arrays = found_arrays(DENSE.found)
    again = found_from(arrays, DENSE.found.value.numpy())
    assert again.same_decisions(DENSE.found)
    assert (again.names, again.rule, again.cluster) == (("background", "cell"), "found by chance", "one")
    write_scores(tmp_path / "s.npz", {"guard": {"dense": DENSE, "delivered": DELIVERED}})
    both = read_scores(tmp_path / "s.npz")["guard"]
    for name, one in (("dense", DENSE), ("delivered", DELIVERED)):
        read = both[name]
        assert isinstance(read, ObjectAnswers)
        assert read.found.same_decisions(one.found)
        assert torch.equal(read.alarms.box, one.alarms.box)


def test_a_false_alarm_that_only_moved_is_not_new() -> None:
    assert new_alarms(DENSE, DELIVERED, 0, 1).tolist() == [[20, 20, 24, 24]]
    assert len(new_alarms(DENSE, DELIVERED, 1, 1)) == 0


def test_pictures_are_those_that_changed_else_those_with_misses(tmp_path: Path) -> None:
    assert most_telling(DENSE, DELIVERED, "cell") == [0, 1, 2]
    assert most_telling(DENSE, DENSE, "cell") == [1]
    write_object_pictures(tmp_path / "p.npz", PICTURES)
    again = read_object_pictures(tmp_path / "p.npz")
    assert again.scale == 0.5
    assert again.alarms(0, 1).tolist() == [[20, 20, 24, 24]]
