"""A detector of centres: a heat map of them for each class, and the size of a box at every place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, max_pool2d, pad
from torchvision.ops import batched_nms

from lightning_classprune.job.data.objects import Target
from lightning_classprune.job.objects.unet import COARSE, UNet

#: A heat below it is no peak; and of peaks within so many places only the highest is one.
LEAST_HEAT, NEAR = 0.05, 1
#: Of two boxes of a class that overlap to a larger IoU, the better stays.
OVERLAP = 0.6
#: A bump's standard deviation as a part of its box, and at least, in places.
_SPREAD, _LEAST_SPREAD = 1 / 8, 0.7
#: Where a bump is higher, the size of its box is learned: the peak that is read may lie beside the true one.
_NEAR_CENTRE = 0.5
#: Sizes are learned as a third of their logarithm, which the heat's scale suits; the largest logarithm that is read.
_SCALE, _LARGEST = 3.0, 8.0
#: Scores before training: hardly a place is a centre, and a box is of some 27 pixels.
_RARE, _USUAL = -2.2, 1.1


class CentreDetector(nn.Module):
    """Scores `(n, classes - 1 + 2, H / 4, W / 4)`: heat maps, and width and height of a box; boxes from them.

    Heat maps of the picture's own size are not learned: where the true centre is known to some pixels only, each of
    those is hardly ever it.

    Args:
        trunk: Gives the scores, those of 4 x 4 pixels each.
        size_weight: Of the boxes' sizes in the loss; above 0.

    Raises:
        ValueError: `size_weight` is not above 0.
    """

    told_by: ClassVar[str] = "boxes"

    def __init__(self, trunk: UNet, size_weight: float = 3.0) -> None:
        super().__init__()
        if not size_weight > 0:
            raise ValueError(f"size_weight={size_weight} must be above 0")
        self.trunk, self.size_weight = trunk, float(size_weight)
        assert trunk.coarse
        assert trunk.head.bias is not None
        nn.init.constant_(trunk.head.bias[:-2], _RARE)
        nn.init.constant_(trunk.head.bias[-2:], _USUAL)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores of pictures."""
        scores: Tensor = self.trunk(x)
        return scores

    def loss(self, x: Tensor, targets: Sequence[Target]) -> Tensor:
        """A focal loss of the heat maps, and the absolute error of the logarithms of sizes about the centres."""
        total = x.new_zeros(())
        for scores, target in zip(self(x).float(), targets, strict=True):
            logits, sizes = scores[:-2], scores[-2:]
            boxes, labels = target["boxes"].float(), target["labels"]
            each = bumps(boxes, logits.shape[1:])
            heat = heat_maps(each, labels, logits)
            chance = logits.sigmoid()
            cost = binary_cross_entropy_with_logits(logits, (heat == 1).float(), reduction="none")
            focus = torch.where(heat == 1, (1 - chance).square(), chance.square() * (1 - heat) ** 4)
            total = total + (cost * focus).sum() / max(len(boxes), 1)
            if len(boxes):
                wanted = (boxes[:, 2:] - boxes[:, :2]).log().T / _SCALE
                height, owner = each.max(0)
                weight = height * (height > _NEAR_CENTRE)
                error = (sizes - wanted[:, owner]).abs().mean(0)
                total = total + self.size_weight * (error * weight).sum() / weight.sum()
        return total / len(targets)

    def read(self, scores: Tensor) -> list[dict[str, Tensor]]:
        """The boxes at the peaks of the heat maps, with `scores` and `labels`."""
        return [_boxes(one[:-2].sigmoid(), one[-2:]) for one in scores.detach().float()]


def bumps(boxes: Tensor, size: Sequence[int]) -> Tensor:
    """`(m, rows, columns)`: a bump for each box, 1 at the place of its centre.

    Args:
        boxes: `(m, 4)`, in pixels.
        size: Rows and columns of places.
    """
    centre = ((boxes[:, :2] + boxes[:, 2:]) / (2 * COARSE)).floor()
    spread = ((boxes[:, 2:] - boxes[:, :2]) * _SPREAD / COARSE).clamp(min=_LEAST_SPREAD)
    along = []
    for axis, places in ((1, size[0]), (0, size[1])):
        at = torch.arange(places, device=boxes.device)[None, :]
        away = at - centre[:, axis, None].clamp(0, places - 1)
        along.append((-away.square() / (2 * spread[:, axis, None].square())).exp())
    return along[0][:, :, None] * along[1][:, None, :]


def heat_maps(each: Tensor, labels: Tensor, like: Tensor) -> Tensor:
    """The highest bump of each class at every place.

    Args:
        each: `(m, rows, columns)` bumps.
        labels: `(m,)`, from 1 on.
        like: `(classes, rows, columns)`: what the maps are for.
    """
    heat = torch.zeros_like(like)
    for label in set(labels.tolist()):
        heat[label - 1] = each[labels == label].amax(0)
    return heat


def _boxes(heat: Tensor, sizes: Tensor) -> dict[str, Tensor]:
    highest = max_pool2d(heat[None], 2 * NEAR + 1, 1, NEAR)[0]
    # Said so that NaN, of a network that has diverged, is a peak: else it would pass for one that finds nothing.
    label, row, column = (~(heat < highest) & ~(heat <= LEAST_HEAT)).nonzero().T
    size = (_SCALE * sizes[:, row, column].T).clamp(max=_LARGEST).exp()
    place = torch.stack([column, row], 1) + 0.5 + _beside(heat, label, row, column)
    centre = place * COARSE
    boxes, scores = torch.cat([centre - size / 2, centre + size / 2], 1), heat[label, row, column]
    keep = batched_nms(boxes, scores, label, OVERLAP)
    return {"boxes": boxes[keep], "scores": scores[keep], "labels": label[keep] + 1}


def _beside(heat: Tensor, label: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """`(peaks, 2)`: by how much the heat about a peak lies right of and below it, in places."""
    around = pad(heat, (1, 1, 1, 1)).unfold(1, 3, 1).unfold(2, 3, 1)[label, row, column]
    step = torch.arange(-1.0, 2.0, device=heat.device)
    total = around.sum((1, 2))
    return torch.stack([around.sum(1) @ step, around.sum(2) @ step], 1) / total[:, None]


def centre_detector(
    in_channels: int = 3, num_classes: int = 2, width: int = 9, size_weight: float = 3.0
) -> CentreDetector:
    """Build the detector; about .3 million weights with a width of 9.

    `num_classes` counts the background. Raises ValueError for a size below 1 or a `size_weight` that is not above 0.
    """
    return CentreDetector(UNet(in_channels, num_classes + 1, width, coarse=True), size_weight)
