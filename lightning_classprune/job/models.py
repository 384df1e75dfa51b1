"""Networks for the ready-made job: plain `torch.nn` modules that return logits."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torchvision.models import WeightsEnum

from lightning_classprune.job.torchvision_models import at_least_one, torchvision_model


def mlp(
    in_features: int, num_classes: int = 2, hidden: Sequence[int] = (128, 64), dropout: float = 0.0
) -> nn.Sequential:
    """Build a multi-layer perceptron with ReLU between its linear layers.

    Input `(N, ...)` with `in_features` values per sample (flattened here); output logits `(N, num_classes)`.
    `hidden` lists the widths of the hidden layers and may be empty (a linear classifier); `dropout` in [0, 1)
    follows each ReLU. Raises ValueError for a size below 1 or a dropout outside its range.
    """
    sizes = [
        at_least_one("in_features", in_features),
        *(at_least_one("hidden", width) for width in hidden),
        at_least_one("num_classes", num_classes),
    ]
    _check_dropout(dropout)
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in pairwise(sizes[:-1]):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU(inplace=True), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))


def conv_net(
    in_channels: int = 1, num_classes: int = 2, width: int = 16, dropout: float = 0.0
) -> nn.Sequential:
    """Build a small convolutional network: four 3x3 stages with BatchNorm, global max pooling, one head.

    Input `(N, in_channels, H, W)` of any H, W >= 1; output logits `(N, num_classes)`. The stages have `width`
    times 1, 3, 6, 8 channels and each halves the image (stride 2): by default 159,376 prunable weights and 6.3
    million multiplications for a 64x64 grey image, with most weights where the image is small and they are
    cheap. Max pooling, because what must not be missed (a crack) may fill only a corner. `dropout` in [0, 1)
    precedes the head.

    Raises ValueError for a size below 1 or a dropout outside its range.
    """
    at_least_one("width", width)
    _check_dropout(dropout)
    channels = [at_least_one("in_channels", in_channels), width, 3 * width, 6 * width, 8 * width]
    stages = [_conv_stage(fan_in, fan_out) for fan_in, fan_out in pairwise(channels)]
    head = nn.Linear(channels[-1], at_least_one("num_classes", num_classes))
    return nn.Sequential(*stages, GlobalMax(), nn.Flatten(), nn.Dropout(dropout), head)


class GlobalMax(nn.Module):
    """The largest value of each channel, `(N, C, H, W)` to `(N, C, 1, 1)`.

    One operation without indices, which `nn.AdaptiveMaxPool2d` has and converters for small devices do not know.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the maxima."""
        return x.amax((2, 3), keepdim=True)


def _conv_stage(fan_in: int, fan_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(fan_in, fan_out, kernel_size=3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(fan_out),
        nn.ReLU(inplace=True),
    )


def paper_alexnet(
    num_classes: int = 2,
    in_channels: int = 3,
    weights: str | WeightsEnum | None = None,
    dropout: float = 0.5,
) -> nn.Module:
    """Build the paper's AlexNet: torchvision's convolutions, 1x1 pooling, a 256-8-8-num_classes classifier.

    Input `(N, in_channels, H, W)` with H, W >= 63 (the paper: 224); output logits `(N, num_classes)`. With
    the defaults it has 2,471,842 parameters, the paper's count. `weights` (e.g. "DEFAULT") loads ImageNet
    weights into the convolutions, as the paper does; the classifier is always new. `dropout` in [0, 1)
    precedes both 8-wide layers; the paper's 0.5 is harsh on 8 units, so lower it when training from random
    weights.

    Raises ValueError for a size below 1 or a dropout outside its range.
    Source: Entezari & Saukh, "Class-dependent pruning of deep neural networks", arXiv 1909.10364.
    """
    _check_dropout(dropout)
    model = torchvision_model("alexnet", num_classes, in_channels, weights)
    model.avgpool = nn.AdaptiveAvgPool2d(1)
    model.classifier = nn.Sequential(
        nn.Dropout(dropout),
        nn.Linear(256, 8),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        nn.Linear(8, 8),
        nn.ReLU(inplace=True),
        nn.Linear(8, num_classes),
    )
    return model


def _check_dropout(dropout: float) -> None:
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout={dropout} must lie in [0, 1).")
