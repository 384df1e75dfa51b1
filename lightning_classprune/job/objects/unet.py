"""A U-Net of plain convolutions: a score map of the size of the picture, or of a quarter of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d, pad, pixel_shuffle, pixel_unshuffle

from lightning_classprune.job.torchvision_models import at_least_one

#: Contrast, as a standard deviation of what the network gets, below which a picture counts as empty.
_LEAST_CONTRAST = 1e-3
#: Pixels of the smaller side, at least.
LEAST = 32
#: Pixels of a picture, each way, that one score of a coarse network is of.
COARSE = 4


class UNet(nn.Module):
    """Four levels, the first at half of the picture's resolution: input `(n, C, H, W)`, output `(n, outputs, H, W)`.

    A coarse one ends a level earlier, which has more channels and far fewer places: about `(n, outputs, H / 4, W / 4)`.

    Each picture is brought to mean 0 and standard deviation 1 first, for pictures of one set may be bright or dark. Any
    size from 32 x 32 on will do.

    Args:
        in_channels: C.
        outputs: Scores of every pixel.
        width: Channels of the first level, whose others follow from it; 12 makes about half a million weights.
        coarse: Scores of 4 x 4 pixels each.

    Raises:
        ValueError: A size below 1.
    """

    def __init__(self, in_channels: int, outputs: int, width: int = 12, *, coarse: bool = False) -> None:
        super().__init__()
        at_least_one("in_channels", in_channels)
        # Few where the picture is large, and every channel costs, many where it is small.
        first, second, third, fourth, last = (
            part * at_least_one("width", width) // 3 for part in (3, 8, 20, 16, 32)
        )
        self.down = nn.ModuleList(
            [_block(4 * in_channels, first), _block(first, second), _block(second, third)]
        )
        self.bottom = _block(third, last)
        self.coarse = coarse
        self.up = nn.ModuleList([_block(last + third, fourth), _block(fourth + second, second)])
        if not coarse:
            self.up.append(_block(second + first, first))
        channels, each = (second, 1) if coarse else (first, 4)
        self.head = nn.Conv2d(channels, each * at_least_one("outputs", outputs), 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores."""
        height, width = x.shape[-2:]
        if min(height, width) < LEAST:
            raise ValueError(
                f"pictures of {height} x {width} pixels are too small for a U-Net, which halves them four "
                f"times: at least {LEAST} x {LEAST} are needed"
            )
        x = pad(_standardised(x), (0, width % 2, 0, height % 2), mode="replicate")
        kept: list[Tensor] = []
        x = pixel_unshuffle(x, 2)
        for block in self.down:
            x = block(x)
            kept.append(x)
            x = max_pool2d(x, 2)
        x = self.bottom(x)
        # A coarse network has no block for the first level.
        for block, skip in zip(self.up, reversed(kept), strict=False):
            x = block(torch.cat([interpolate(x, size=skip.shape[2:]), skip], 1))
        scores: Tensor = self.head(x)
        if self.coarse:
            return scores
        return pixel_shuffle(scores, 2)[..., :height, :width]


def _standardised(x: Tensor) -> Tensor:
    centred = x - _mean(x)
    deviation = _mean(centred.square()).sqrt()
    return centred / (deviation + _LEAST_CONTRAST)


def _block(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for fan_in in (inputs, outputs):
        layers += [nn.Conv2d(fan_in, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


def _mean(x: Tensor) -> Tensor:
    """The mean of each picture, row by row: a runtime that adds up a whole picture in one sum rounds visibly."""
    return x.mean(3, keepdim=True).mean(2, keepdim=True).mean(1, keepdim=True)
