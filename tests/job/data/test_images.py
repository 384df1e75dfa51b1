"""Folders of images, and torchvision's sets."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torchvision.transforms import v2

from lightning_classprune.job.data.images import ImageFolderData, TorchvisionData
from lightning_classprune.job.data.splits import PARTS
from tests.job.data.test_base import labels_of


def tree(root: Path, count: int = 20, mode: str = "RGB") -> Path:
    for label in ("bad", "good"):
        (root / label).mkdir(parents=True)
        for i in range(count):
            Image.new(mode, (12, 9 + i % 3), i).save(root / label / f"{i}.png")
    return root


def test_one_folder_tree_is_cut_into_four(tmp_path: Path) -> None:
    data = ImageFolderData(str(tree(tmp_path)), image_size=8, num_workers=0)
    data.setup()
    assert data.class_names == ["bad", "good"]
    assert [len(labels_of(data, part)) for part in PARTS] == [20, 4, 10, 6]
    x, y = next(iter(data.train_dataloader()))
    assert x.shape[1:] == (3, 8, 8)
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
    assert data.class_counts == [10, 10]
    assert data.normalization[0].shape == (3, 1, 1)
    red = data.raw(x)[:, 0].flatten(1)  # tree() paints each picture in one red, as deep as its number
    assert torch.equal(red.amax(1), red.amin(1))
    assert set(red[y == 0, 0].tolist()) <= set(range(20))
    assert len(set(red[y == 0, 0].tolist())) == 10
    samples = data.splits.samples
    assert [len(samples[part]) for part in PARTS] == [20, 4, 10, 6]
    assert len({name for its in samples.values() for name, _ in its}) == 40
    assert [label for _, label in samples["test"]] == labels_of(data, "test").tolist()
    assert all(name.startswith(("bad/", "good/")[label]) for name, label in samples["guard"])


def test_given_parts_are_used_and_missing_ones_cut_from_train(tmp_path: Path) -> None:
    tree(tmp_path / "train", 30)
    tree(tmp_path / "test", 5, "L")
    data = ImageFolderData(str(tmp_path), image_size=8, in_channels=1, num_workers=0)
    data.setup()
    assert len(labels_of(data, "test")) == 10
    assert sum(len(labels_of(data, part)) for part in ("train", "val", "guard")) == 60
    assert next(iter(data.guard_dataloader()))[0].shape[1:] == (1, 8, 8)
    for part in ("val", "guard"):
        tree(tmp_path / part, 4)
    data = ImageFolderData(str(tmp_path), image_size=8, num_workers=0)
    data.setup()
    assert [len(labels_of(data, part)) for part in PARTS] == [60, 8, 8, 10]


def test_folder_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a folder"):
        ImageFolderData(str(tmp_path / "nix")).setup()
    with pytest.raises(ValueError, match="root="):
        ImageFolderData(str(tmp_path)).setup()
    for arguments, message in (
        ({"in_channels": 2}, "in_channels=2"),
        ({"image_size": 0}, "image_size=0"),
        ({"std": [0.2, 0.0, 0.2]}, r"std=.*above 0"),
        ({"mean": [0.5]}, r"mean=\[0\.5\].*each of 3 channels"),
    ):
        with pytest.raises(ValueError, match=message):
            ImageFolderData(str(tmp_path), **arguments)
    tree(tmp_path / "train", 4)
    tree(tmp_path / "val", 4)
    os.rename(tmp_path / "val" / "good", tmp_path / "val" / "ugly")
    with pytest.raises(ValueError, match="val has classes"):
        ImageFolderData(str(tmp_path)).setup()


def test_what_is_in_no_part_or_class_is_said_and_files_of_both_kinds_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not through the logger, to which a job that ran in this process before may have given handlers of its own.
    said: list[str] = []
    monkeypatch.setattr("lightning_classprune.job.data.images.rank_zero_info", said.append)
    tree(tmp_path)
    (tmp_path / ".ipynb_checkpoints").mkdir()
    Image.new("L", (9, 9)).save(tmp_path / ".ipynb_checkpoints" / "1.png")
    deep = np.full((10, 12), 40_000, np.uint16)
    deep[0] = 0
    Image.fromarray(deep).save(tmp_path / "good" / "16.png")
    (tmp_path / "good" / "notes.txt").touch()
    data = ImageFolderData(str(tmp_path), image_size=10, num_workers=0)
    data.setup()
    assert data.class_names == ["bad", "good"]
    assert "not used: folders '.ipynb_checkpoints' (left by another program); files 1 .txt" in said[0]
    (place,) = (
        (part, number)
        for part, its in data.splits.samples.items()
        for number, (name, _) in enumerate(its)
        if name == "good/16.png"
    )
    x = data.raw(data.splits.parts[place[0]][place[1]][0])
    assert set(x.unique().tolist()) == {0, round(40_000 / 257)}


def test_a_file_that_is_cut_short_is_found_at_setup(tmp_path: Path) -> None:
    tree(tmp_path)
    content = (tmp_path / "good" / "7.png").read_bytes()
    (tmp_path / "good" / "7.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"1 of 40 images cannot be used: good/7\.png: "):
        ImageFolderData(str(tmp_path)).setup()


def test_images_of_one_group_stay_in_one_part(tmp_path: Path) -> None:
    tree(tmp_path)
    for label in ("bad", "good"):
        for i in range(20):
            (tmp_path / label / f"{i}.png").rename(tmp_path / label / f"p{i // 4}_{i}.png")
    with pytest.warns(UserWarning, match="suggest 5 groups, such as 'p0'"):
        ImageFolderData(str(tmp_path), num_workers=0).setup()
    data = ImageFolderData(str(tmp_path), groups="^[^_]+", num_workers=0)
    data.setup()
    homes: dict[str, set[str]] = {}
    for part, its in data.splits.samples.items():
        for name, _ in its:
            homes.setdefault(name.split("/")[1].split("_")[0], set()).add(part)
    assert len(homes) == 5
    assert all(len(parts) == 1 for parts in homes.values())
    os.renames(tmp_path / "bad" / "p1_4.png", tmp_path / "test" / "bad" / "p1_4.png")
    os.renames(tmp_path / "good" / "p1_4.png", tmp_path / "test" / "good" / "p1_4.png")
    for label in ("bad", "good"):
        os.renames(tmp_path / label, tmp_path / "train" / label)
    with pytest.raises(ValueError, match=r"groups: 'p1' is in train \('train/bad/p1_5.png'\) and in test"):
        ImageFolderData(str(tmp_path), groups="^[^_]+").setup()


def test_training_images_alone_are_augmented(tmp_path: Path) -> None:
    tree(tmp_path)
    steps = [v2.Lambda(lambda x: 255 - x)]
    data = ImageFolderData(str(tmp_path), image_size=8, augment=steps, num_workers=0)
    data.setup()
    for part in PARTS:
        x = torch.cat([data.raw(x) for x, _ in getattr(data, f"{part}_dataloader")()])
        red = x[:, 0].flatten(1).amax(1)
        assert bool((red >= 235).all() if part == "train" else (red < 20).all())
    with pytest.raises(ValueError, match=r"augment\[0\], RandomCrop: makes uint8 \(3, 4, 4\)"):
        ImageFolderData(str(tmp_path), image_size=8, augment=[v2.RandomCrop(4)]).setup()


def idx(path: Path, array: np.ndarray) -> None:
    """Write the file format of MNIST."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(int(n).to_bytes(4, "big") for n in array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def test_torchvision_set_from_local_files(tmp_path: Path) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, count in (("train", 100), ("t10k", 20)):
        idx(raw / f"{part}-images-idx3-ubyte", rng.integers(0, 256, (count, 28, 28)))
        idx(raw / f"{part}-labels-idx1-ubyte", np.arange(count) % 10)
    data = TorchvisionData("FashionMNIST", str(tmp_path), image_size=16)
    data.prepare_data()
    data.setup()
    assert data.class_names[:2] == ["T-shirt/top", "Trouser"]
    assert (data.in_channels, data.image_size) == (1, (16, 16))
    sizes = [len(labels_of(data, part)) for part in PARTS]
    assert sizes[3] == 20
    assert sum(sizes) == 120


def test_unknown_torchvision_set_is_named() -> None:
    for name in ("NoSuchSet", "ImageFolder", "vision"):
        with pytest.raises(ValueError, match=f"name='{name}'"):
            TorchvisionData(name, ".")


class Code:
    """A pickle that makes a folder when it is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self.folder,)


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100"])
def test_pickles_of_a_torchvision_set_that_are_not_the_published_ones_are_not_read(
    name: str, tmp_path: Path
) -> None:
    base = tmp_path / getattr(torchvision.datasets, name).base_folder
    base.mkdir()
    for file in ("data_batch_1", "test_batch", "batches.meta", "train", "test", "meta"):
        (base / file).write_bytes(pickle.dumps(Code(tmp_path / "made")))
    data = TorchvisionData(name, str(tmp_path), download=False)
    with pytest.raises(ValueError, match=f"{name} in root=.*not found or corrupted"):
        data.setup()
    assert not (tmp_path / "made").exists()
