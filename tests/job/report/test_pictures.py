"""Thumbnails: what the network saw, small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_classprune.job.data.base import SplitDataModule, Splits, tensor_splits
from lightning_classprune.job.report import pictures
from lightning_classprune.job.run_folder import RunFolder
from lightning_classprune.pruning import masks
from tests.job.report.pages import (
    DELIVERED,
    DENSE,
    GUARD,
)


def test_changed_samples_of_a_class() -> None:
    assert pictures.changed(DENSE, DELIVERED, 1) == ([0, 1], [3])
    assert pictures.changed(DENSE, DELIVERED, 0) == ([], [7])


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_picture_is_what_the_network_saw(channels: int) -> None:
    stored = torch.randint(256, (channels, 20, 10), dtype=torch.uint8)
    mean, std = torch.rand(channels, 1, 1), torch.rand(channels, 1, 1) + 0.1
    picture = pictures.pixels((stored / 255 - mean) / std, (mean, std))
    if channels == 1:
        assert np.array_equal(picture, stored[0].numpy())
    elif channels == 3:
        assert np.array_equal(picture, stored.permute(1, 2, 0).numpy())
    else:
        assert np.abs(picture - stored.float().mean(0).numpy()).max() <= 0.51


def test_large_pictures_shrink_and_keep_their_shape() -> None:
    zero, one = torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
    assert pictures.pixels(torch.rand(3, 400, 200), (zero, one)).shape == (96, 48, 3)
    assert pictures.pixels(torch.rand(3, 2, 4000), (zero, one)).shape == (1, 96, 3)


class Noise(SplitDataModule):
    """Eight images, or eight table rows, in every part."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def load(self) -> Splits:
        x = torch.randint(256, (32, *self.shape), dtype=torch.uint8)
        x = x if len(self.shape) == 3 else x.float()
        indices = {part: torch.arange(8) + 8 * i for i, part in enumerate(("train", "val", "guard", "test"))}
        self.stored = x[indices["guard"]]
        return tensor_splits(x, torch.arange(32) % 2, ["sound", "crack"], indices)


def test_thumbnails_are_those_of_the_changed_guard_samples(tmp_path: Path) -> None:
    data = Noise((1, 6, 5))
    data.setup()
    taken = pictures.thumbnails(data, GUARD, [1])
    assert sorted(taken) == [0, 1, 3]
    assert all(np.array_equal(taken[i], data.stored[i, 0].numpy()) for i in taken)
    folder = RunFolder(tmp_path)
    folder.write_pictures(taken)
    read = folder.pictures()
    assert sorted(read) == [0, 1, 3]
    assert all(np.array_equal(read[i], taken[i]) for i in taken)
    folder.write_pictures({})
    assert folder.pictures() == {}


def test_a_table_has_no_thumbnails() -> None:
    data = Noise((5,))
    data.setup()
    assert pictures.thumbnails(data, GUARD, [1]) == {}


def test_layers_are_counted() -> None:
    kept = {"a": torch.tensor([[True, False], [True, True]]), "b": torch.zeros(3, dtype=torch.bool)}
    assert masks.layer_counts(kept) == [
        {"name": "a", "shape": [2, 2], "kept": 3, "total": 4},
        {"name": "b", "shape": [3], "kept": 0, "total": 3},
    ]
