"""Archives of pictures whose objects have a box each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_classprune.job.data.boxes_npz import BoxesNpz
from tests.job.data.object_archives import boxes

COUNT = 60


def test_boxes_go_to_their_pictures(tmp_path: Path) -> None:
    data = BoxesNpz(boxes(tmp_path), "set", flip=False)
    data.setup()
    assert data.class_names == ["background", "big", "small"]
    pictures: Any = data.splits.parts["guard"]
    for (name, _), target in zip(data.splits.samples["guard"], pictures.targets, strict=True):
        assert target["labels"].tolist() == [[], [1], [1, 2]][int(name) % 3]
        assert target["boxes"].tolist() == [[2, 2, 12, 12], [16, 16, 26, 26]][: int(name) % 3]


def test_one_class_needs_no_names_and_names_may_stand_for_numbers(tmp_path: Path) -> None:
    one = BoxesNpz(boxes(tmp_path, box_class=None, box_classes=None), "set")
    one.setup()
    assert one.class_names == ["background", "object"]
    text = np.array(["big"] * (COUNT // 2) + ["small"] * (COUNT // 2))
    named = BoxesNpz(boxes(tmp_path, box_class=text), "set")
    named.setup()
    assert named.num_classes == 3


def test_a_pixel_beyond_the_picture_is_cut_off(tmp_path: Path) -> None:
    box = np.tile(np.array([[-0.5, 1, 6, 32.9]], np.float32), (COUNT, 1))
    data = BoxesNpz(boxes(tmp_path, box=box), "set", flip=False)
    data.setup()
    pictures: Any = data.splits.parts["train"]
    found = next(one["boxes"] for one in pictures.targets if len(one["boxes"]))
    assert found[0].tolist() == [0, 1, 6, 32]


def changed(row: int, *box: float) -> Any:
    made = np.tile(np.array([[1, 1, 6, 6]], np.float32), (COUNT, 1))
    made[row] = box
    return made


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"box": changed(3, 1, 1, 1, 6)}, r"row 3 is \[1.0, 1.0, 1.0, 6.0\], which has no area.*x1 \+ width"),
        ({"box": changed(4, 1, np.nan, 4, 6)}, "row 4 .* not finite"),
        ({"box": changed(5, 1, 1, 40, 6)}, r"row 5 .* goes beyond the picture of 32 x 32 .*np\.clip"),
        ({"box": changed(5, 32.5, 1, 33, 6)}, "row 5 .* lies outside of the picture"),
        ({"box": changed(0, 1, 1, 6, 6) / 32}, "look like shares of the picture"),
        ({"box": changed(0, 1, 1, 6, 6)[:, :3]}, r"must be numbers \(boxes, 4\)"),
        ({"box": changed(0, 1, 1, 6, 6)[:0]}, "is empty"),
        ({"box": None}, "no array 'box'"),
        ({"box_image": np.arange(3)}, r"'box_image'.* must be \(60,\)"),
        ({"box_image": np.full(COUNT, 99)}, "row 0 is 99; allowed are 0 to 59, the pictures"),
        ({"box_class": np.full(COUNT, 2)}, "row 0 is 2; allowed are 0 to 1"),
        ({"box_class": np.full(COUNT, -1)}, "row 0 is -1; allowed are 0 to 1"),
        ({"box_class": np.repeat([1, 2], COUNT // 2)}, "must begin at 0: y - 1"),
        ({"box_class": np.zeros(3, int)}, r"'box_class'.* must be \(60,\)"),
        ({"box_classes": np.array(["big", "big"])}, "stands there twice"),
    ],
)
def test_what_is_wrong_is_said_with_the_mend(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        BoxesNpz(boxes(tmp_path, **change), "set").setup()
