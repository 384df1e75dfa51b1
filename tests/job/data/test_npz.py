"""Archives of images."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_classprune.job.data.archive import value_of_test
from lightning_classprune.job.data.base import SplitDataModule, TensorBatches
from lightning_classprune.job.data.npz import NpzData
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


LABELS = np.arange(120) // 5 % 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        # images
        (
            {"x": np.zeros((120, 4, 6, 1), np.float32)},
            r"set.npz: array 'x' is float32 from 0 to 0.*must be uint8",
        ),
        ({"x": np.full((120, 4, 6, 1), np.nan)}, r"'x' is float64 \(row 0 is not finite\)"),
        ({"x": np.full((120, 4, 6, 1), 4095, np.int16)}, "'x' is int16 from 4095 to 4095"),
        ({"x": np.zeros((120, 4, 6, 1), bool)}, "'x' is bool"),
        ({"x": np.zeros((120, 3, 24, 24), np.uint8)}, r"looks like \(samples, channels, height, width\)"),
        ({"x": np.zeros((120, 12, 24, 24), np.uint8)}, r"x.transpose\(0, 2, 3, 1\)"),
        ({"x": np.zeros((120, 24, 24), np.uint8)}, r"for grey images add the channels: x\[..., None\]"),
        ({"x": np.zeros((120, 72), np.uint8)}, r"has shape \(120, 72\)"),
        ({"x": np.zeros((119, 4, 6, 1), np.uint8)}, "'x' holds 119 images, 'y' 120 labels"),
        ({"x": None}, "array 'x' is not there; an archive needs 'x', or 'jpeg'"),
        # labels
        ({"y": LABELS + np.eye(120)[7] * 0.5}, r"array 'y': row 7 is \d\.5; must be a whole number"),
        ({"y": LABELS + np.where(np.arange(120) == 3, np.nan, 0)}, "'y': row 3 is nan"),
        ({"y": LABELS + 1}, r"run from 1 to 3; must begin at 0: y - 1"),
        ({"y": LABELS * 4}, r"'y': row 5 is 4; allowed are 0 to 2, the classes 'fine', 'crack', 'hole'"),
        (
            {"y": np.eye(3)[LABELS]},
            r"'y' has shape \(120, 3\).*one-hot labels become indices by y.argmax\(1\)",
        ),
        ({"y": LABELS[:, None]}, r"'y' has shape \(120, 1\)"),
        (
            {"y": np.array(["fine"] * 119 + ["cracks"])},
            "'y': row 119 is 'cracks', which is none of the classes",
        ),
        ({"y": LABELS + 0j}, "'y' is complex128; must be whole numbers"),
        ({"y": np.zeros(0)}, "'y' is empty"),
        # names
        ({"classes": np.array(["fine", "crack", "fine"])}, "'classes': the name 'fine' stands there twice"),
        ({"classes": np.array([b"fine", b"crack", b"\xff"])}, "'classes': row 2 is .* not UTF-8"),
        ({"classes": np.array("fine")}, r"'classes' has shape \(\)"),
        ({"classes": None}, "has no array 'classes'"),
        ({"classes": np.array([object()] * 3)}, "array 'classes' cannot be read: Object arrays"),
        # what goes with each sample
        ({"block": np.arange(119)}, r"'block' has shape \(119,\), must be \(120,\)"),
        ({"block": np.full(120, np.nan)}, "'block': row 0 is nan, which names no group"),
        ({"split": np.zeros(7, int)}, r"'split' has shape \(7,\)"),
        ({"split": np.full(120, 0.5)}, "'split': row 0 is 0.5"),
        ({"split": np.array(["train"] * 120)}, "'split' is <U5; must be whole numbers"),
        ({"test_near_dup_of_train": np.zeros(120, int)}, "'test_near_dup_of_train' is int64; must be bool"),
    ],
)
def test_what_is_wrong_with_an_archive_is_said_with_array_and_row(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        NpzData(archive(tmp_path, **change), "set").setup()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"offsets": np.array([0, 10, 5])}, r"'offsets': row 1 is a file from 10 to 5"),
        ({"offsets": np.array([0, 10**9])}, r"'offsets': row 0 is a file from 0 to 1000000000; must lie in"),
        ({"offsets": np.array([-5, 10])}, r"'offsets': row 0 is a file from -5"),
        ({"offsets": np.array([[0, 1]])}, r"'offsets' has shape \(1, 2\)"),
        ({"size": np.array([4, 6])}, r"'size' is \[4, 6\]"),
        ({"size": np.array([4, 7, 1])}, r"'jpeg': row 0 cannot be used: has 4 x 6 pixels, 'size' says 4 x 7"),
        ({"size": np.array([10**6, 10**6, 3])}, "row 0 cannot be used: has 4 x 6 pixels"),
        ({"jpeg": np.zeros(50, np.float32)}, r"'jpeg' is float32"),
        ({"jpeg": np.zeros(50_000, np.uint8)}, "'jpeg': row 0 cannot be used: cannot identify"),
    ],
)
def test_jpegs_that_cannot_be_read_are_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    files = [jpeg(i) for i in range(120)]
    stored = {
        "jpeg": np.frombuffer(b"".join(files), np.uint8),
        "offsets": np.cumsum([0] + [len(file) for file in files]),
        "size": np.array([4, 6, 1]),
    } | change
    with pytest.raises(ValueError, match=message):
        NpzData(archive(tmp_path, x=None, **stored), "set").setup()


def test_a_file_that_is_cut_short_or_no_archive_is_named(tmp_path: Path) -> None:
    archive(tmp_path)
    content = (tmp_path / "set.npz").read_bytes()
    for name, written in (("half", content[: len(content) // 2]), ("text", b"hello"), ("empty", b"")):
        (tmp_path / f"{name}.npz").write_bytes(written)
        with pytest.raises(ValueError, match=f"{name}.npz is not an .npz archive"):
            NpzData(str(tmp_path), name).setup()
    with (tmp_path / "one.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(ValueError, match=r"one.npz holds one array"):
        NpzData(str(tmp_path), "one").setup()
    flipped = bytearray(content)
    flipped[len(content) // 4] ^= 255  # inside the pixels
    (tmp_path / "flipped.npz").write_bytes(bytes(flipped))
    with pytest.raises(ValueError, match=r"flipped.npz: array 'x' cannot be read: Bad CRC"):
        NpzData(str(tmp_path), "flipped").setup()


@pytest.mark.parametrize(
    "change",
    [
        {"y": LABELS.astype(np.float64)},
        {"y": LABELS.astype(np.uint8)},
        {"y": np.array(["fine", "crack", "hole"])[LABELS]},
        {"y": np.array([b"fine", b"crack", b"hole"])[LABELS]},
        {"classes": np.array([b"fine", b"crack", b"hole"])},
        {"block": np.array([f"photo {i // 5:02d}" for i in range(120)])},
    ],
)
def test_other_ways_to_write_the_same_give_the_same(change: dict[str, Any], tmp_path: Path) -> None:
    read = []
    for name, what in (("as_ever", {}), ("otherwise", change)):
        read.append(NpzData(archive(tmp_path, name, **what), name))
        read[-1].setup()
    assert read[0].class_names == read[1].class_names
    for part in PARTS:
        ours, theirs = (data.splits.parts[part] for data in read)
        assert isinstance(ours, TensorBatches)
        assert isinstance(theirs, TensorBatches)
        assert torch.equal(ours.y, theirs.y)
        assert torch.equal(ours.x, theirs.x)


def test_images_that_are_nearly_constant_or_dark_are_warned_of(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (120, 4, 6, 1), np.uint8)
    x[[17, 99]] = 255
    with pytest.warns(UserWarning, match=r"2 of 120 images are nearly constant.*such as '17', '99'"):
        NpzData(archive(tmp_path, x=x), "set").setup()
    with pytest.warns(UserWarning, match="the brightest pixel of all 120 images is 15 of 255"):
        NpzData(archive(tmp_path, "dim", x=x // 17), "dim").setup()
