"""The data modules: who goes where, what a batch holds, and what a model is told."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lightning_classprune.job.data.base import SplitDataModule, TensorBatches, tensor_splits
from lightning_classprune.job.data.images import ImageFolderData, TorchvisionData
from lightning_classprune.job.data.npz import NpzData, value_of_test
from lightning_classprune.job.data.small import BreastCancerData, ElpvData
from lightning_classprune.job.data.splits import FRACTIONS, PARTS, renormalised, split_indices

QUARTERS = {"train": 0.25, "val": 0.25, "guard": 0.25, "test": 0.25}


def labels_of(data: SplitDataModule, part: str) -> torch.Tensor:
    return torch.cat([y for _, y in getattr(data, f"{part}_dataloader")()])


# --- splits ---------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=300),
    st.lists(st.integers(0, 9), min_size=4, max_size=4).filter(any),
    st.integers(0, 5),
)
def test_every_sample_is_in_exactly_one_part(labels: list[int], shares: list[int], seed: int) -> None:
    fractions = {name: share / sum(shares) for name, share in zip(PARTS, shares, strict=True)}
    y = torch.tensor(labels)
    parts = split_indices(y, fractions, seed)
    assert torch.cat(list(parts.values())).sort().values.tolist() == list(range(len(y)))
    for name, index in parts.items():
        for label in set(labels):
            n = int((y == label).sum())
            assert abs(int((y[index] == label).sum()) - n * fractions[name]) <= 1


@given(st.lists(st.integers(0, 20), min_size=1, max_size=200), st.integers(0, 5))
def test_groups_stay_together(groups: list[int], seed: int) -> None:
    group = torch.tensor(groups)
    parts = split_indices(group % 2, FRACTIONS, seed, group)
    assert torch.cat(list(parts.values())).sort().values.tolist() == list(range(len(group)))
    homes: dict[int, str] = {}
    for name, index in parts.items():
        for value in group[index].tolist():
            assert homes.setdefault(value, name) == name


def test_split_is_seeded() -> None:
    y = torch.arange(100) % 2
    first, again, other = (split_indices(y, FRACTIONS, seed)["guard"] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_bad_fractions_are_named() -> None:
    y = torch.zeros(4, dtype=torch.long)
    with pytest.raises(ValueError, match=r"fractions=.*sum to 1"):
        split_indices(y, {"train": 0.5, "test": 0.4}, 0)
    with pytest.raises(ValueError, match=r"shares must lie in \[0, 1\]"):
        split_indices(y, {"train": 1.5, "test": -0.5}, 0)
    with pytest.raises(ValueError, match="must be positive"):
        renormalised({"train": 0, "val": 0, "test": 1}, ("train", "val"))
    with pytest.raises(ValueError, match="groups has shape"):
        split_indices(y, FRACTIONS, 0, torch.zeros(3, dtype=torch.long))


# --- the common base ------------------------------------------------------------------------------------------------


class Toy(SplitDataModule):
    loads = 0

    def load(self) -> Any:
        self.loads += 1
        x = torch.randint(
            0, 256, (40, 3, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
        )
        y = torch.arange(40) % 2
        return tensor_splits(x, y, ["no", "yes"], split_indices(y, QUARTERS, 0), flip_dims=(-1,))


def test_facts_come_from_the_training_part() -> None:
    data = Toy(batch_size=4)
    with pytest.raises(RuntimeError, match=r"setup\(\)"):
        _ = data.class_names
    data.setup()
    data.setup("fit")
    assert data.loads == 1
    assert (data.class_names, data.class_counts, data.num_classes) == (["no", "yes"], [5, 5], 2)
    assert (data.in_channels, data.image_size, data.in_features) == (3, (4, 5), 60)


def test_no_loader_drops_and_only_training_shuffles() -> None:
    data = Toy(batch_size=4)
    data.setup()
    for part in ("val", "guard", "test"):
        first, again = ([y.tolist() for _, y in getattr(data, f"{part}_dataloader")()] for _ in range(2))
        assert first == again
        assert [len(y) for y in first] == [4, 4, 2]
    torch.manual_seed(0)
    orders = [torch.cat([x.sum((1, 2, 3)) for x, _ in data.train_dataloader()]) for _ in range(2)]
    assert len(orders[0]) == 10
    assert not torch.equal(*orders)
    assert torch.allclose(orders[0].sort().values, orders[1].sort().values)


def test_training_batches_are_normalised_and_mirrored() -> None:
    data = Toy(batch_size=10)
    data.setup()
    plain = torch.cat([x for x, _ in data.train_dataloader()])
    assert plain.dtype == torch.float32
    assert torch.allclose(plain.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(plain.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5)


def test_normalization_is_what_gives_the_pixels_back() -> None:
    data = Toy(batch_size=10)
    data.setup()
    mean, std = data.normalization
    assert mean.shape == std.shape == (3, 1, 1)
    x, _ = next(iter(data.test_dataloader()))
    stored = data.splits.parts["test"]
    assert isinstance(stored, TensorBatches)
    assert torch.equal(data.raw(x), stored.x)
    assert torch.equal(data.raw(x[0]), stored.x[0])


def test_mirrors_each_sample_on_its_own_and_never_the_stored_one() -> None:
    x = torch.arange(600, dtype=torch.float32).view(200, 1, 1, 3)
    batches = TensorBatches(x, torch.zeros(200), torch.zeros(1, 1, 1), torch.ones(1, 1, 1), (-1,))
    before = x.clone()
    torch.manual_seed(0)
    seen, _ = batches.__getitems__(list(range(200)))
    mirrored = (seen == x.flip(-1)).all(-1).flatten()
    assert 70 < mirrored.sum() < 130
    assert ((seen == x).all(-1).flatten() ^ mirrored).all()
    assert torch.equal(x, before)


def test_one_sample_has_no_batch_dimension_and_constant_channels_stay_finite() -> None:
    x = torch.full((8, 1, 2, 2), 7, dtype=torch.uint8)
    splits = tensor_splits(
        x, torch.arange(8) % 2, ["a", "b"], split_indices(torch.arange(8) % 2, QUARTERS, 0)
    )
    image, label = splits.parts["val"][0]
    assert image.shape == (1, 2, 2)
    assert label.shape == ()
    assert torch.isfinite(image).all()


def test_bad_loader_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="batch_size=0"):
        Toy(batch_size=0)
    with pytest.raises(ValueError, match="num_workers=-1"):
        Toy(num_workers=-1)


def test_a_class_without_training_samples_is_named() -> None:
    class Lacking(SplitDataModule):
        def load(self) -> Any:
            y = torch.zeros(8, dtype=torch.long)
            return tensor_splits(torch.zeros(8, 2), y, ["a", "b"], split_indices(y, QUARTERS, 0))

    with pytest.raises(ValueError, match=r"no training sample of \['b'\]"):
        Lacking().setup()


# --- the sets that packages ship ------------------------------------------------------------------------------------


def test_elpv_is_what_it_says() -> None:
    data = ElpvData()
    data.setup()
    assert data.class_names == ["functional", "defective"]
    assert (data.in_channels, data.image_size) == (1, (64, 64))
    sizes = {part: torch.bincount(labels_of(data, part)).tolist() for part in PARTS}
    assert np.sum(list(sizes.values()), axis=0).tolist() == [2624 - 821, 821]
    assert sizes["guard"] == [451, 205]
    assert sizes["train"] == data.class_counts
    x, y = next(iter(data.guard_dataloader()))
    assert x.shape == (64, 1, 64, 64)
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)


def test_breast_cancer_is_standardised_by_training_statistics() -> None:
    data = BreastCancerData(batch_size=1000)
    data.setup()
    assert data.class_names == ["malignant", "benign"]
    assert (data.in_features, data.image_size) == (30, ())
    x, _ = next(iter(data.train_dataloader()))
    assert torch.allclose(x.mean(0), torch.zeros(30), atol=1e-5)
    assert not torch.allclose(next(iter(data.val_dataloader()))[0].mean(0), torch.zeros(30), atol=1e-3)
    assert sum(int((labels_of(data, part) == 0).sum()) for part in PARTS) == 212


# --- npz ------------------------------------------------------------------------------------------------------------


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


# --- folders and torchvision ----------------------------------------------------------------------------------------


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
    with pytest.raises(ValueError, match="in_channels=2"):
        ImageFolderData(str(tmp_path), in_channels=2)
    tree(tmp_path / "train", 4)
    tree(tmp_path / "val", 4)
    os.rename(tmp_path / "val" / "good", tmp_path / "val" / "ugly")
    with pytest.raises(ValueError, match="val has classes"):
        ImageFolderData(str(tmp_path)).setup()


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
