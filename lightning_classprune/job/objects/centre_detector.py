"""A detector of centres: a heat map of them for each class, and the size of a box at every pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, max_pool2d
from torchvision.ops import batched_nms

from lightning_classprune.job.data.objects import Target
from lightning_classprune.job.objects.unet import UNet

#: A heat below it is no peak; and of peaks within so many pixels only the highest is one.
LEAST_HEAT, NEAR = 0.05, 4
#: Of two boxes of a class that overlap to a larger IoU, the better stays.
OVERLAP = 0.6
#: Sizes are learned as a third of their logarithm, which the heat's scale suits; the largest logarithm that is read.
_SCALE, _LARGEST = 3.0, 8.0
#: Score of a heat map before training: hardly a pixel is a centre.
_RARE = -2.2


class CentreDetector(nn.Module):
    """Scores `(n, classes - 1 + 2, H, W)`: heat maps, and width and height of a box at every pixel; boxes from them.

    Args:
        trunk: Gives the scores.
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
        assert trunk.head.bias is not None
        nn.init.constant_(trunk.head.bias[:-8], _RARE)  # the last two outputs, of 4 pixels each, are sizes

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores of pictures."""
        scores: Tensor = self.trunk(x)
        return scores

    def loss(self, x: Tensor, targets: Sequence[Target]) -> Tensor:
        """A focal loss of the heat maps, and the absolute error of the logarithms of sizes at the centres."""
        total = x.new_zeros(())
        for scores, target in zip(self(x).float(), targets, strict=True):
            logits, sizes = scores[:-2], scores[-2:]
            boxes, labels = target["boxes"].float(), target["labels"]
            heat, rows, columns = heat_maps(boxes, labels, logits)
            chance = logits.sigmoid()
            each = binary_cross_entropy_with_logits(logits, heat, reduction="none")
            focus = torch.where(heat == 1, (1 - chance).square(), chance.square() * (1 - heat) ** 4)
            total = total + (each * focus).sum() / max(len(boxes), 1)
            if len(boxes):
                wanted = (boxes[:, 2:] - boxes[:, :2]).log() / _SCALE
                total = total + self.size_weight * (sizes[:, rows, columns].T - wanted).abs().mean()
        return total / len(targets)

    def read(self, scores: Tensor) -> list[dict[str, Tensor]]:
        """The boxes at the peaks of the heat maps, with `scores` and `labels`."""
        return [_boxes(one[:-2].sigmoid(), one[-2:]) for one in scores.detach().float()]


def heat_maps(boxes: Tensor, labels: Tensor, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Bumps at the centres of boxes, 1 at their pixel; and the rows and columns of these.

    Args:
        boxes: `(m, 4)`.
        labels: `(m,)`, from 1 on.
        like: `(classes, H, W)`: what the maps are for.
    """
    _, height, width = like.shape
    columns = ((boxes[:, 0] + boxes[:, 2]) / 2).long().clamp(0, width - 1)
    rows = ((boxes[:, 1] + boxes[:, 3]) / 2).long().clamp(0, height - 1)
    spread = ((boxes[:, 2:] - boxes[:, :2]).amin(1) / 8).clamp(min=1)
    y = torch.arange(height, device=like.device)[None, :] - rows[:, None]
    x = torch.arange(width, device=like.device)[None, :] - columns[:, None]
    of_rows = (-y.square() / (2 * spread.square())[:, None]).exp()
    of_columns = (-x.square() / (2 * spread.square())[:, None]).exp()
    bumps = of_rows[:, :, None] * of_columns[:, None, :]
    heat = torch.zeros_like(like)
    for label in set(labels.tolist()):
        heat[label - 1] = bumps[labels == label].amax(0)
    return heat, rows, columns


def _boxes(heat: Tensor, sizes: Tensor) -> dict[str, Tensor]:
    highest = max_pool2d(heat[None], 2 * NEAR + 1, 1, NEAR)[0]
    label, row, column = ((heat == highest) & (heat > LEAST_HEAT)).nonzero().T
    size = (_SCALE * sizes[:, row, column].T).clamp(max=_LARGEST).exp()
    centre = torch.stack([column, row], 1) + 0.5
    boxes, scores = torch.cat([centre - size / 2, centre + size / 2], 1), heat[label, row, column]
    keep = batched_nms(boxes, scores, label, OVERLAP)
    return {"boxes": boxes[keep], "scores": scores[keep], "labels": label[keep] + 1}


def centre_detector(
    in_channels: int = 3, num_classes: int = 2, width: int = 9, size_weight: float = 3.0
) -> CentreDetector:
    """Build the detector; about .3 million weights with a width of 9.

    `num_classes` counts the background. Raises ValueError for a size below 1 or a `size_weight` that is not above 0.
    """
    return CentreDetector(UNet(in_channels, num_classes + 1, width), size_weight)
