"""Archives of images."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_classprune.job.data.base import SplitDataModule, TensorBatches
from lightning_classprune.job.data.npz import NpzData, value_of_test
from lightning_classprune.job.data.splits import PARTS


def jpeg(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (6, 4), value).save(file, "JPEG", quality=95)
    return file.getvalue()


def archive(folder: Path, name: str = "set", **change: Any) -> str:
    """120 grey images of one value each, in 24 blocks of 5; class = block % 3; the last 6 blocks are the test part."""
    block = np.arange(120) // 5
    arrays: dict[str, Any] = {
        "x": np.broadcast_to(np.arange(120, dtype=np.uint8)[:, None, None, None], (120, 4, 6, 1)),
        "y": (block % 3).astype(np.int64),
        "classes": np.array(["fine", "crack", "hole"]),
        "split": (block >= 18).astype(np.int8),
        "split_names": np.array(["train", "test"]),
        "block": block,
    } | change
    np.savez(folder / f"{name}.npz", **{key: value for key, value in arrays.items() if value is not None})
    return str(folder)


def numbers(data: SplitDataModule, part: str) -> list[int]:
    """Return which of the images 0..119 are in the part."""
    batches = data.splits.parts[part]
    assert isinstance(batches, TensorBatches)
    return sorted(batches.x[:, 0, 0, 0].tolist())


def test_npz_keeps_the_test_part_and_whole_blocks(tmp_path: Path) -> None:
    near = np.zeros(120, bool)
    near[[0, 95]] = True
    data = NpzData(archive(tmp_path, test_near_dup_of_train=near), "set")
    data.setup()
    assert numbers(data, "test") == [i for i in range(90, 120) if i != 95]
    homes = {part: {i // 5 for i in numbers(data, part)} for part in ("train", "val", "guard")}
    assert set.union(*homes.values()) == set(range(18))
    assert sum(map(len, homes.values())) == 18
    assert len(homes["train"]) > len(homes["guard"]) > 0
    assert data.class_names == ["fine", "crack", "hole"]
    assert (data.in_channels, data.image_size) == (1, (4, 6))


def test_npz_jpeg_equals_raw(tmp_path: Path) -> None:
    files = [jpeg(2 * i) for i in range(120)]
    offsets = np.cumsum([0] + [len(file) for file in files])
    pixels = {
        "jpeg": np.frombuffer(b"".join(files), np.uint8),
        "offsets": offsets,
        "size": np.array([4, 6, 1]),
    }
    data = NpzData(archive(tmp_path, x=None, **pixels), "set")
    data.setup()
    batches = data.splits.parts["test"]
    assert isinstance(batches, TensorBatches)
    assert batches.x.shape == (30, 1, 4, 6)
    expected = 2 * torch.arange(90, 120).view(-1, 1, 1, 1)
    assert (batches.x.int() - expected).abs().max() <= 1


def test_npz_one_class_against_the_rest_without_unknown_labels(tmp_path: Path) -> None:
    y = (np.arange(120) // 5 % 3).astype(np.int64)
    y[:10] = -1
    data = NpzData(archive(tmp_path, y=y), "set", one_vs_rest="crack")
    data.setup()
    assert data.class_names == ["rest", "crack"]
    assert sum(len(numbers(data, part)) for part in PARTS) == 110
    for part in PARTS:
        batches = data.splits.parts[part]
        assert isinstance(batches, TensorBatches)
        assert torch.equal(batches.y, (batches.x[:, 0, 0, 0] // 5 % 3 == 1).long())


def test_npz_without_a_split_cuts_all_four_parts(tmp_path: Path) -> None:
    for arguments, change in (({"split": "random"}, {}), ({}, {"split": None, "split_names": None})):
        data = NpzData(archive(tmp_path, **change), "set", groups="none", **arguments)
        data.setup()
        assert [len(numbers(data, part)) for part in PARTS] == [60, 12, 30, 18]


def test_npz_other_split_array_leaves_out_what_it_does_not_hold(tmp_path: Path) -> None:
    split = np.full(120, -1)
    split[:60], split[60:90] = 0, 2
    names = np.array(["-1 not in set", "0 train", "1 val", "2 test"])
    data = NpzData(archive(tmp_path, other=split, other_names=names), "set", split="other")
    data.setup()
    assert numbers(data, "test") == list(range(60, 90))
    assert sum(len(numbers(data, part)) for part in PARTS) == 90


def test_npz_errors_say_what_there_is(tmp_path: Path) -> None:
    root = archive(tmp_path)
    for arguments, message in (
        ({"name": "nix"}, r"name='nix'.*\['set'\]"),
        ({"name": "set", "split": "nix"}, "no array 'nix'.*'block'"),
        ({"name": "set", "groups": "nix"}, "no array 'nix'"),
        ({"name": "set", "one_vs_rest": "nix"}, "one_vs_rest='nix'.*'crack'"),
    ):
        with pytest.raises(ValueError, match=message):
            NpzData(root, **arguments).setup()
    with pytest.raises(ValueError, match="split=random"):
        value_of_test(np.array(["train", "val"]))
    archive(tmp_path, "evil", y=np.array([object()] * 120))
    with pytest.raises(ValueError, match="allow_pickle"):
        NpzData(root, "evil").setup()
