"""What archives of masks and of boxes have in common: parts by unit, mirroring, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_classprune.job.data.boxes_npz import BoxesNpz
from lightning_classprune.job.data.instances_npz import InstancesNpz
from lightning_classprune.job.data.objects import ObjectArchive, mirrored
from lightning_classprune.job.data.splits import PARTS
from tests.job.data import object_archives


def instances(folder: Path, **change: Any) -> InstancesNpz:
    return InstancesNpz(object_archives.masks(folder, **change), "set")


def boxes(folder: Path, **change: Any) -> BoxesNpz:
    return BoxesNpz(object_archives.boxes(folder, **change), "set")


@pytest.mark.parametrize("made", [instances, boxes])
def test_a_unit_is_in_one_part_and_batches_hold_pictures_objects_and_units(tmp_path: Path, made: Any) -> None:
    data: ObjectArchive = made(tmp_path)
    data.setup()
    units = {part: {unit for _, unit in data.splits.samples[part]} for part in PARTS}
    assert sum(map(len, units.values())) == len(set.union(*units.values())) == 30
    assert sum(len(its) for its in data.splits.samples.values()) == 60
    x, targets, of = next(iter(data.train_dataloader()))
    assert x.shape == (8, 1, 32, 32)
    assert [set(one) for one in targets] == [{data.splits.told_by, "labels"}] * 8
    assert set(of.tolist()) <= units["train"]
    labels = torch.cat([one["labels"] for *_, one in _each(data, "train")])
    assert data.class_counts == [
        len(data.splits.samples["train"]),
        *(int((labels == i).sum()) for i in range(1, data.num_classes)),
    ]
    again: ObjectArchive = type(data)(str(tmp_path), "set", seed=0)
    again.setup()
    assert again.splits.samples == data.splits.samples
    assert f"guard {len(data.splits.samples['guard'])} in {len(units['guard'])} units (" in data.told(
        "guard", [1]
    )


def _each(data: ObjectArchive, part: str) -> list[Any]:
    pictures: Any = data.splits.parts[part]
    return [(x, target) for x, target, _ in (pictures[i] for i in range(len(pictures)))]


def test_the_archives_own_test_part_and_what_is_left_out_of_it(tmp_path: Path) -> None:
    part = np.array([0] * 40 + [1] * 16 + [-1] * 4)
    data = instances(tmp_path, split=part, split_names=np.array(["train", "test"]))
    data.setup()
    assert [int(name) for name, _ in data.splits.samples["test"]] == list(range(40, 56))
    assert sum(len(its) for its in data.splits.samples.values()) == 56


def test_without_units_every_picture_is_one(tmp_path: Path) -> None:
    data = instances(tmp_path, block=None)
    data.setup()
    assert all(int(name) == unit for its in data.splits.samples.values() for name, unit in its)


@pytest.mark.parametrize("dim", [-1, -2])
def test_what_is_mirrored_moves_with_its_picture(dim: int) -> None:
    numbers = torch.zeros(6, 8, dtype=torch.int32)
    numbers[1:3, 2:7] = 1
    target = {"map": numbers, "boxes": torch.tensor([[2.0, 1.0, 7.0, 3.0]]), "labels": torch.ones(1)}
    made = mirrored(target, dim, numbers.shape[dim])
    rows, columns = made["map"].nonzero().T
    found = [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]
    assert made["boxes"].tolist() == [found]
    assert torch.equal(mirrored(made, dim, numbers.shape[dim])["map"], numbers)
    assert target["boxes"].tolist() == [[2, 1, 7, 3]]


def test_training_pictures_are_mirrored_with_their_objects_and_others_are_not(tmp_path: Path) -> None:
    data = instances(tmp_path)
    data.setup()
    bright = [bool((x[0][target["map"] > 0] > x.mean()).all()) for x, target in _each(data, "train") * 3]
    assert all(bright)
    assert torch.equal(_each(data, "guard")[0][0], _each(data, "guard")[0][0])


def test_blank_pictures_without_an_object_are_left_out(tmp_path: Path) -> None:
    x = np.load(Path(object_archives.masks(tmp_path)) / "set.npz")["x"]
    x[[0, 3]] = 7  # the first of each three holds no object
    data = instances(tmp_path, x=x)
    with pytest.warns(
        UserWarning, match="2 of 60 pictures are of one colour and hold no object, such as 0, 3"
    ):
        data.setup()
    assert sum(len(its) for its in data.splits.samples.values()) == 58


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"x": np.zeros((60, 32, 32, 1), np.float32)}, "images must be uint8"),
        ({"block": np.arange(59)}, r"'block'.* must be \(60,\)"),
        ({"block": np.repeat([0, 1], 30)}, "60 pictures in 2 units leave none for .*data.fractions"),
        ({"y": np.arange(59)}, r"'y'.* must be \(60,\)"),
        ({"x": None}, "an archive needs 'x'"),
    ],
)
def test_what_is_wrong_with_any_archive_is_said(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        instances(tmp_path, **change).setup()
