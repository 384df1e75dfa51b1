"""Networks that find objects with a mask each, by the inside and the border of them at every pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_classprune.job.data.objects import Target
from lightning_classprune.job.objects.torchvision_masks import torchvision_masks
from lightning_classprune.job.objects.unet import UNet

#: Probability of the inside from which on a pixel may belong to an object; the score says how sure that is.
SEED = 0.35
#: Pixels by which an object grows beyond its inside, where it is no background: borders are seen too thick.
GROWN = 3
#: Pieces of fewer pixels are no objects.
LEAST_AREA = 4

Floats = NDArray[np.float32]


class InstanceNetwork(nn.Module):
    """Scores of background, the inside of each class and the border `(n, classes + 1, H, W)`, and objects from them.

    An object is a connected piece of the inside, grown into the border around it. Its score is how sure it is no
    background: the mean of that probability.

    Args:
        trunk: Gives the scores.
        border_weight: How much more than others the pixels of borders weigh in the loss; 1 or more.

    Raises:
        ValueError: `border_weight` is below 1.
    """

    told_by: ClassVar[str] = "map"

    def __init__(self, trunk: nn.Module, border_weight: float = 3.0) -> None:
        super().__init__()
        if not border_weight >= 1:
            raise ValueError(f"border_weight={border_weight} must be at least 1")
        self.trunk, self.border_weight = trunk, float(border_weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores of pictures."""
        scores: Tensor = self.trunk(x)
        return scores

    def loss(self, x: Tensor, targets: Sequence[Target]) -> Tensor:
        """Cross-entropy of the pixels, of which those of borders, which are few, weigh more."""
        scores = self(x)
        border = scores.shape[1] - 1
        wanted = torch.stack([parts_of(one["map"], one["labels"], border) for one in targets])
        weight = scores.new_ones(border + 1)
        weight[border] = self.border_weight
        return cross_entropy(scores, wanted, weight)

    def read(self, scores: Tensor) -> list[dict[str, Tensor]]:
        """The objects: a `map` of numbers, and `labels` and `scores` in their order."""
        chances = scores.detach().float().softmax(1).cpu().numpy()
        return [_objects(one) for one in chances]


def parts_of(numbers: Tensor, labels: Tensor, border: int) -> Tensor:
    """What each pixel is: 0 background, the class of the object whose inside it is, or `border`.

    Args:
        numbers: `(H, W)`, 0 outside of objects.
        labels: Classes of the objects, in the ascending order of their numbers.
        border: Stands for pixels of objects that touch something else.
    """
    numbers = numbers.long()
    same = torch.ones_like(numbers, dtype=torch.bool)
    for dim in (0, 1):
        differ = numbers.diff(dim=dim) != 0
        size = numbers.shape[dim]
        same.narrow(dim, 0, size - 1)[differ] = False
        same.narrow(dim, 1, size - 1)[differ] = False
    place = torch.unique(numbers, return_inverse=True)[1] - int(bool((numbers == 0).any()))
    if not len(labels):
        return torch.zeros_like(numbers)
    wanted = torch.where(same, labels.to(numbers.device)[place.clamp(min=0)], border)
    return torch.where(numbers > 0, wanted, 0)


def _objects(chances: Floats) -> dict[str, Tensor]:
    """The pieces of `(classes + 1, H, W)` probabilities."""
    if np.isnan(chances).any():
        return _nothing_known(chances.shape[1:])
    inside = chances[1:-1]
    best = chances.argmax(0)
    seeds = (inside.sum(0) >= SEED) & (best != 0) & (best != len(chances) - 1)
    numbers, count = ndimage.label(seeds)
    areas = np.bincount(numbers.ravel(), minlength=count + 1)
    keep = areas >= LEAST_AREA
    keep[0] = False
    numbers = np.where(keep, np.cumsum(keep), 0)[numbers]
    count = int(keep.sum())
    whole, foreground = numbers, chances[0] < 0.5
    for _ in range(GROWN):
        whole = np.where(whole > 0, whole, ndimage.grey_dilation(whole, 3) * foreground)
    index = np.arange(1, count + 1)
    by_class, sure = np.zeros((len(inside), count)), np.zeros(count)
    if count:
        by_class = np.stack([ndimage.mean(one, numbers, index) for one in inside])
        sure = ndimage.mean(1 - chances[0], numbers, index)
    return {
        "map": torch.from_numpy(whole.astype(np.int64)),
        "labels": torch.from_numpy(by_class.argmax(0).astype(np.int64) + 1),
        "scores": torch.from_numpy(sure.astype(np.float32)),
    }


def _nothing_known(size: tuple[int, ...]) -> dict[str, Tensor]:
    """What a network that has diverged finds: else it would pass for one that finds nothing."""
    return {
        "map": torch.ones(size, dtype=torch.int64),
        "labels": torch.ones(1, dtype=torch.int64),
        "scores": torch.full((1,), torch.nan),
    }


def unet(
    in_channels: int = 3, num_classes: int = 2, width: int = 12, border_weight: float = 3.0
) -> InstanceNetwork:
    """Build the U-Net for objects with masks; about half a million weights with a width of 12.

    `num_classes` counts the background. Raises ValueError for a size below 1 or a `border_weight` below 1.
    """
    return InstanceNetwork(UNet(in_channels, num_classes + 1, width), border_weight)


def deeplab(
    name: str, in_channels: int = 3, num_classes: int = 2, border_weight: float = 3.0
) -> InstanceNetwork:
    """Build one of torchvision's segmentation models for objects with masks; nothing is downloaded.

    Its scores come from an eighth of the resolution: objects that touch hardly come apart. Raises ValueError for an
    unknown name (with the known ones) or a size below 1.
    """
    return InstanceNetwork(torchvision_masks(name, in_channels, num_classes + 1), border_weight)
