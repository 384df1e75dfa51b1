"""Archives of pictures whose objects have a mask each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_classprune.job.data.instances_npz import InstancesNpz
from tests.job.data.object_archives import masks

ROWS = [(i, number) for i in range(60) for number in range(1, 1 + i % 3)]


def classes(**change: Any) -> dict[str, Any]:
    """One row an object; the first of a picture is of class 2 and the second of class 1."""
    arrays = {
        "label_classes": np.array(["background", "thin", "thick"]),
        "obj_image": np.array([i for i, _ in ROWS]),
        "obj_id": np.array([number for _, number in ROWS]),
        "obj_class": np.array([3 - number for _, number in ROWS]),
    }
    return arrays | change


def test_labels_follow_the_numbers_of_the_map(tmp_path: Path) -> None:
    data = InstancesNpz(masks(tmp_path, **classes()), "set", flip=False)
    data.setup()
    assert data.class_names == ["background", "thin", "thick"]
    for part in ("train", "guard"):
        pictures: Any = data.splits.parts[part]
        for (name, _), target in zip(data.splits.samples[part], pictures.targets, strict=True):
            assert target["labels"].tolist() == [[], [2], [2, 1]][int(name) % 3]
            assert int(target["map"].max()) == int(name) % 3


def test_one_class_needs_no_rows_and_may_have_a_name(tmp_path: Path) -> None:
    data = InstancesNpz(masks(tmp_path, label_classes=np.array(["none", "nucleus"])), "set")
    data.setup()
    assert data.class_names == ["background", "nucleus"]


def test_a_class_that_no_object_has_is_left_out(tmp_path: Path) -> None:
    names = np.array(["background", "sky", "thin", "thick"])
    root = masks(tmp_path, **classes(label_classes=names, obj_class=classes()["obj_class"] + 1))
    data = InstancesNpz(root, "set")
    with pytest.warns(UserWarning, match="no object of 'sky'"):
        data.setup()
    assert data.class_names == ["background", "thin", "thick"]


@pytest.mark.parametrize("value", [1, 255])
def test_masks_of_a_class_in_place_of_numbers_are_suspected(tmp_path: Path, value: int) -> None:
    maps = (np.load(Path(masks(tmp_path)) / "set.npz")["instances"] > 0).astype(np.uint8) * value
    with pytest.warns(UserWarning, match=r"no picture has more than one object.*ndimage\.label"):
        InstancesNpz(masks(tmp_path, instances=maps), "set").setup()


MAPS = np.zeros((60, 32, 32), np.int32)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"instances": MAPS.astype(np.float32)}, r"is float32; must be whole numbers.*ndimage\.label"),
        ({"instances": MAPS.astype(bool)}, "is bool; must be whole numbers"),
        ({"instances": MAPS}, "0 everywhere, so there are no objects"),
        ({"instances": MAPS - 1}, "picture 0 holds -1"),
        ({"instances": MAPS[:, :8]}, r"has shape \(60, 8, 32\), must be \(60, 32, 32\)"),
        ({"instances": MAPS[..., None]}, r"x\[\.\.\., 0\]"),
        ({"instances": None}, "no array 'instances'"),
        ({"label_classes": np.array(["background", "a", "b"])}, "nothing says which object is of which"),
        ({"label_classes": np.array(["a", "background"])}, "'background' names what is no object"),
        (classes(obj_id=None), "'obj_id'.* is not there"),
        (classes(obj_id=np.ones(3, int)), "must be one row an object"),
        (classes(obj_class=np.full(len(ROWS), 3)), "row 0 is 3; allowed are 1 to 2"),
        (classes(obj_image=np.full(len(ROWS), 60)), "row 0 is 60; allowed are 0 to 59"),
        (classes(obj_id=np.ones(len(ROWS), int)), "row 2 is object 1 of picture 2 once more"),
        (classes(obj_id=np.arange(len(ROWS)) + 1), "has no pixel in 'instances'; leave its row out"),
        (
            {name: one[1:] if name.startswith("obj") else one for name, one in classes().items()},
            "nothing says of which class object 1 of picture 1 is",
        ),
    ],
)
def test_what_is_wrong_is_said_with_the_mend(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        InstancesNpz(masks(tmp_path, **change), "set").setup()
