"""Corruptions: what dust, motion, bad light and compression do to an image, each at one of five strengths.

After the benchmark of Hendrycks & Dietterich 2019 (arXiv 1903.12261), with strengths of our own: between those that it
has for small and for large images, and lengths in shares of the shorter side, so that they mean the same at any size.
What moves or hides objects, so that targets would be wrong, is not among them. A function takes one image
`(1, channels, height, width)` of float32 in [0, 1] and draws from the generator alone, its strength first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Generator, Tensor
from torch.nn.functional import conv2d, interpolate, pad

#: `(images, generator) -> images`, of `(1, channels, height, width)` in [0, 1].
Corrupt: TypeAlias = Callable[[Tensor, Generator], Tensor]

_ZOOMS = 9  # pictures that a zoom is made of
_OCTAVES = 5  # of fog, each of twice the detail and half the strength


def gaussian_noise(images: Tensor, generator: Generator) -> Tensor:
    """Noise of a sensor in low light."""
    deviation = _strength((0.04, 0.06, 0.08, 0.12, 0.18), generator)
    return (images + deviation * torch.randn(images.shape, generator=generator)).clamp(0, 1)


def shot_noise(images: Tensor, generator: Generator) -> Tensor:
    """Noise of few photons: Poisson counts, so many of them in white."""
    photons = _strength((500, 250, 100, 60, 25), generator)
    return (torch.poisson(images * photons, generator=generator) / photons).clamp(0, 1)


def impulse_noise(images: Tensor, generator: Generator) -> Tensor:
    """Values that are lost: a share of them black or white."""
    share = _strength((0.01, 0.02, 0.04, 0.06, 0.09), generator)
    drawn = torch.rand(images.shape, generator=generator)
    return images.masked_fill(drawn < share / 2, 0.0).masked_fill(drawn >= 1 - share / 2, 1.0)


def defocus_blur(images: Tensor, generator: Generator) -> Tensor:
    """A lens out of focus: every point becomes a disk."""
    # Of a small image too it is more than half a pixel, below which a disk is a point.
    radius = 0.6 + _strength((0.01, 0.018, 0.027, 0.036, 0.045), generator) * min(images.shape[-2:])
    y, x = _around(math.ceil(radius))
    return _filtered(images, (radius + 0.5 - torch.hypot(y, x)).clamp(0, 1))


def motion_blur(images: Tensor, generator: Generator) -> Tensor:
    """A camera or a part in motion: every point becomes a line, in a direction that is drawn."""
    half = _strength((0.03, 0.05, 0.07, 0.09, 0.12), generator) * min(images.shape[-2:]) / 2
    angle = math.pi * float(torch.rand((), generator=generator))
    y, x = _around(math.ceil(half))
    along = x * math.cos(angle) + y * math.sin(angle)
    distance = torch.hypot(
        x - along.clamp(-half, half) * math.cos(angle), y - along.clamp(-half, half) * math.sin(angle)
    )
    return _filtered(images, (1 - distance).clamp(0, 1))


def zoom_blur(images: Tensor, generator: Generator) -> Tensor:
    """A camera that moves towards the scene: the mean of pictures that are zoomed into more and more."""
    most = _strength((0.06, 0.1, 0.14, 0.18, 0.22), generator)
    height, width = images.shape[-2:]
    total = torch.zeros_like(images)
    for zoom in torch.linspace(1, 1 + most, _ZOOMS).tolist():
        size = max(height, math.ceil(height * zoom)), max(width, math.ceil(width * zoom))
        larger = interpolate(images, size=size, mode="bilinear", align_corners=False)
        top, left = (size[0] - height) // 2, (size[1] - width) // 2
        total += larger[..., top : top + height, left : left + width]
    return (total / _ZOOMS).clamp(0, 1)


def fog(images: Tensor, generator: Generator) -> Tensor:
    """Fog or steam of uneven density before the scene."""
    density = _strength((0.2, 0.4, 0.6, 0.8, 1.0), generator)
    cloud = torch.zeros(1, 1, *images.shape[-2:])
    for octave in range(_OCTAVES):
        drawn = torch.rand(1, 1, 2 + 2**octave, 2 + 2**octave, generator=generator)
        cloud += interpolate(drawn, size=images.shape[-2:], mode="bilinear", align_corners=False) / 2**octave
    cloud = (cloud - cloud.min()) / (cloud.max() - cloud.min()).clamp(min=1e-6)
    most = images.max()
    return ((images + density * cloud) * most / (most + density)).clamp(0, 1)


def brightness(images: Tensor, generator: Generator) -> Tensor:
    """Too much light, or too little, as is drawn."""
    change = _strength((0.05, 0.1, 0.15, 0.2, 0.3), generator)
    return (images + (change if torch.rand((), generator=generator) < 0.5 else -change)).clamp(0, 1)


def contrast(images: Tensor, generator: Generator) -> Tensor:
    """Flat light: every channel nearer to its mean."""
    share = _strength((0.75, 0.6, 0.45, 0.3, 0.2), generator)
    mean = images.mean((-2, -1), keepdim=True)
    return (mean + share * (images - mean)).clamp(0, 1)


def pixelate(images: Tensor, generator: Generator) -> Tensor:
    """A camera of fewer pixels."""
    share = _strength((0.8, 0.65, 0.5, 0.4, 0.3), generator)
    height, width = images.shape[-2:]
    small = interpolate(
        images, size=(max(1, round(height * share)), max(1, round(width * share))), mode="area"
    )
    return interpolate(small, size=(height, width), mode="nearest")


def jpeg_compression(images: Tensor, generator: Generator) -> Tensor:
    """Lossy compression of low quality; channels that are not three each for themselves."""
    quality = int(_strength((60, 40, 25, 15, 10), generator))
    pixels = (images * 255).round().to(torch.uint8)[0].numpy()
    pictures = [np.moveaxis(pixels, 0, -1)] if len(pixels) == 3 else list(pixels)
    read = [np.atleast_3d(_through_jpeg(one, quality)) for one in pictures]
    return torch.from_numpy(np.concatenate(read, axis=-1)).movedim(-1, 0)[None].float() / 255


#: The corruptions that have a name.
CORRUPTIONS: dict[str, Corrupt] = {
    one.__name__: one
    for one in (
        gaussian_noise,
        shot_noise,
        impulse_noise,
        defocus_blur,
        motion_blur,
        zoom_blur,
        fog,
        brightness,
        contrast,
        pixelate,
        jpeg_compression,
    )
}


def _through_jpeg(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    file = BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def _strength(of: Sequence[float], generator: Generator) -> float:
    """One of five strengths, the weakest first."""
    return of[int(torch.randint(len(of), (), generator=generator))]


def _around(reach: int) -> tuple[Tensor, Tensor]:
    """Rows and columns of a square that reaches so far from its centre."""
    steps = torch.arange(-reach, reach + 1, dtype=torch.float32)
    return steps[:, None], steps[None, :]


def _filtered(images: Tensor, kernel: Tensor) -> Tensor:
    """Every channel filtered with a kernel, normalised here; what lies beyond the border is as at the border."""
    channels, reach = images.shape[1], len(kernel) // 2
    weights = (kernel / kernel.sum()).expand(channels, 1, -1, -1).contiguous()
    padded = pad(images, (reach, reach, reach, reach), mode="replicate")
    return conv2d(padded, weights, groups=channels).clamp(0, 1)
