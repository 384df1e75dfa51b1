"""Torchvision's detectors by name: they have losses of their own, and give boxes where they do not train."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.retinanet import RetinaNet
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork

from lightning_classprune.job.data.objects import Target
from lightning_classprune.job.torchvision_models import at_least_one, replace_stem

#: Parts that give losses only in training; layers such as BatchNorm are none of them.
_GIVES_LOSSES = (GeneralizedRCNN, RegionProposalNetwork, RoIHeads, RetinaNet)
#: Of the families whose losses and boxes are like those.
_FAMILIES = ("fasterrcnn", "retinanet")


class TorchvisionDetector(nn.Module):
    """A detector of torchvision on stacked pictures; its output is a dict of boxes, scores and labels a picture.

    Args:
        model: As torchvision builds it.
    """

    told_by: ClassVar[str] = "boxes"

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Any:
        """Return the boxes of pictures; in training mode only `loss` can be asked for."""
        with _giving(self.model, losses=False):
            return self.model(list(x))

    def loss(self, x: Tensor, targets: Sequence[Target]) -> Tensor:
        """The sum of the model's own losses."""
        with _giving(self.model, losses=True):
            losses: dict[str, Tensor] = self.model(list(x), [dict(one) for one in targets])
        return torch.stack(list(losses.values())).sum()

    def read(self, scores: Any) -> list[dict[str, Tensor]]:
        """The boxes, as they are."""
        found: list[dict[str, Tensor]] = scores
        return found


@contextmanager
def _giving(model: nn.Module, *, losses: bool) -> Iterator[None]:
    parts = [part for part in model.modules() if isinstance(part, _GIVES_LOSSES)]
    before = [part.training for part in parts]
    try:
        for part in parts:
            part.training = losses
        yield
    finally:
        for part, was in zip(parts, before, strict=True):
            part.training = was


def torchvision_detector(
    name: str, in_channels: int = 3, num_classes: int = 2, min_size: int = 320
) -> TorchvisionDetector:
    """Build a Faster R-CNN or RetinaNet of torchvision by name; nothing is downloaded.

    Args:
        name: Such as `fasterrcnn_mobilenet_v3_large_fpn`.
        in_channels: Of a picture; other than 3 give it a new first layer.
        num_classes: With the background.
        min_size: Pixels that the smaller side of a picture is brought to, inside the model.

    Raises:
        ValueError: An unknown name, with the known ones, or a size below 1.
    """
    at_least_one("in_channels", in_channels)
    models = torchvision.models
    known = [one for one in models.list_models(module=models.detection) if one.startswith(_FAMILIES)]
    if name not in known:
        raise ValueError(
            f"name={name!r} is none of torchvision's Faster R-CNNs and RetinaNets; there are {known}"
        )
    model: nn.Module = models.get_model(
        name,
        weights=None,
        weights_backbone=None,
        num_classes=at_least_one("num_classes", num_classes),
        min_size=at_least_one("min_size", min_size),
        max_size=16 * min_size,
        # Pictures come normalised.
        image_mean=[0.0] * in_channels,
        image_std=[1.0] * in_channels,
    )
    if in_channels != 3:
        replace_stem(model, in_channels, keep_filters=False)
    return TorchvisionDetector(model)
