"""The data that packages ship."""

from __future__ import annotations

import numpy as np
import torch

from lightning_classprune.job.data.small import BreastCancerData, ElpvData
from lightning_classprune.job.data.splits import PARTS
from tests.job.data.test_base import labels_of


def test_elpv_is_what_it_says() -> None:
    data = ElpvData()
    data.setup()
    assert data.class_names == ["functional", "defective"]
    assert (data.in_channels, data.image_size) == (1, (64, 64))
    sizes = {part: torch.bincount(labels_of(data, part)).tolist() for part in PARTS}
    assert np.sum(list(sizes.values()), axis=0).tolist() == [2624 - 821, 821]
    assert sizes["guard"] == [451, 205]
    assert sizes["train"] == data.class_counts
    guard = data.splits.samples["guard"]
    assert [label for _, label in guard] == labels_of(data, "guard").tolist()
    assert guard[0][0].startswith("cell")
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
