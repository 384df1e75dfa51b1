"""Augmentations of a user's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torchvision.transforms import v2

from lightning_classprune.job.data.augmentation import augmented, check_augment

IMAGE = torch.arange(3 * 4 * 4, dtype=torch.uint8).view(3, 4, 4)


def test_steps_follow_each_other() -> None:
    steps = [v2.RandomHorizontalFlip(p=1.0), v2.RandomVerticalFlip(p=1.0)]
    assert torch.equal(augmented(steps, IMAGE), IMAGE.flip(-1, -2))
    check_augment(steps, IMAGE)
    check_augment([v2.RandomCrop(2), v2.Resize(4)], IMAGE)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([v2.RandomCrop(2)], r"augment\[0\], RandomCrop: makes uint8 \(3, 2, 2\) of uint8 \(3, 4, 4\)"),
        ([v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32)], r"augment\[1\], ToDtype: makes float32"),
        ([v2.Normalize([0.5], [0.5])], r"augment\[0\], Normalize: fails on a uint8 \(3, 4, 4\) image"),
        (["flip"], r"augment\[0\], str: 'flip' is no transform"),
    ],
)
def test_what_is_no_image_any_more_is_refused(steps: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_augment(steps, IMAGE)
