"""What all data modules share: what a batch holds, and what a model is told."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torchvision.transforms import v2

from lightning_classprune.job.data.base import SplitDataModule, TensorBatches, tensor_splits
from lightning_classprune.job.data.splits import split_indices

QUARTERS = {"train": 0.25, "val": 0.25, "guard": 0.25, "test": 0.25}


def labels_of(data: SplitDataModule, part: str) -> torch.Tensor:
    return torch.cat([y for _, y in getattr(data, f"{part}_dataloader")()])


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


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(8, 1, 4, 4), r"x is torch.float32 \(8, 1, 4, 4\); must be uint8 images"),
        (torch.zeros(8, 1, 4, 4, dtype=torch.int16), r"x is torch.int16"),
        (torch.zeros(8, 4, dtype=torch.uint8), r"x is torch.uint8 \(8, 4\)"),
        (torch.zeros(7, 4), "x holds 7 samples, y 8 labels"),
        (torch.tensor([[0.0, 1.0]] * 7 + [[2.0, float("inf")]]), "row 7, column 1 is inf"),
    ],
)
def test_samples_that_would_be_exported_otherwise_than_trained_on_are_refused(
    x: torch.Tensor, message: str
) -> None:
    y = torch.arange(8) % 2
    with pytest.raises(ValueError, match=message):
        tensor_splits(x, y, ["a", "b"], split_indices(y, QUARTERS, 0))


@pytest.mark.parametrize("name", ["${oc.env:HOME}", "???", "a\x1b[2J", "no"])
def test_a_name_that_a_configuration_would_read_otherwise_is_refused(name: str) -> None:
    class Named(SplitDataModule):
        def load(self) -> Any:
            y = torch.arange(8) % 2
            return tensor_splits(torch.zeros(8, 2), y, ["no", name], split_indices(y, QUARTERS, 0))

    with pytest.raises(ValueError, match="class name"):
        Named().setup()


def test_augmentations_take_the_place_of_mirroring_in_training_alone() -> None:
    x = torch.randint(0, 256, (8, 1, 2, 2), dtype=torch.uint8)
    y = torch.arange(8) % 2
    indices = split_indices(y, QUARTERS, 0)
    splits = tensor_splits(x, y, ["a", "b"], indices, (-1,), augment=[v2.Lambda(lambda image: 255 - image)])
    mean, std = splits.normalization
    for part, index in indices.items():
        seen, _ = splits.parts[part].__getitems__(list(range(len(index))))  # type: ignore[attr-defined]
        expected = 255 - x[index] if part == "train" else x[index]
        torch.testing.assert_close(seen, (expected / 255 - mean) / std)
