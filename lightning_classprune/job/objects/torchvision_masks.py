"""Torchvision's segmentation models as plain networks: one score map, and one sample a batch will do."""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor, nn

from lightning_classprune.job.torchvision_models import at_least_one, replace_stem


class TorchvisionMasks(nn.Module):
    """A segmentation model of torchvision that returns its scores `(n, outputs, H, W)` alone.

    Args:
        model: As torchvision builds it.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores."""
        if self.training and len(x) == 1:  # their pooled BatchNorm needs two samples
            return self.forward(torch.cat([x, x]))[:1]
        scores: Tensor = self.model(x)["out"]
        return scores


def torchvision_masks(name: str, in_channels: int, outputs: int) -> TorchvisionMasks:
    """Build a segmentation model of torchvision by name, without pretrained weights.

    Args:
        name: Such as `deeplabv3_mobilenet_v3_large`.
        in_channels: Of a picture; other than 3 give it a new first layer.
        outputs: Scores of every pixel.

    Raises:
        ValueError: An unknown name, with the known ones, or a size below 1.
    """
    at_least_one("in_channels", in_channels)
    models = torchvision.models
    known = models.list_models(module=models.segmentation)
    if name not in known:
        raise ValueError(f"name={name!r} is no segmentation model of torchvision; there are {known}")
    outputs = at_least_one("outputs", outputs)
    model: nn.Module = models.get_model(
        name, weights=None, weights_backbone=None, num_classes=outputs, aux_loss=False
    )
    if in_channels != 3:
        replace_stem(model, in_channels, keep_filters=False)
    return TorchvisionMasks(model)
