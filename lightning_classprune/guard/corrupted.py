"""Corrupted batches: a corruption applied to what the guard's loader yields, every sample always in the same way.

What is drawn for a sample follows from its own pixels and the corruption's name: so it is the same for the dense
network and for every candidate, on any number of processes, in batches of any size and after a resume, and nothing is
stored.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_classprune.guard.corruptions import Corrupt
from lightning_classprune.trainer.batches import UnreadableBatchError, image_place, part, with_part
from lightning_classprune.trainer.randomness import untouched_randomness

#: How far beyond [0, 1] rounding and resizing may lead: one of 256 levels.
_BEYOND = 1 / 255

#: Mean and standard deviation a channel, on the scale where black is 0 and white is 1.
Normalization = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Corruption:
    """A corruption, and the scale of the images that it is applied to.

    Attributes:
        name: As in the ledger.
        corrupt: What it does to one image `(1, channels, height, width)` in [0, 1].
        normalization: What real images were normalised by; None: they are in [0, 1].
    """

    name: str
    corrupt: Corrupt
    normalization: Normalization | None = None

    def __call__(self, batch: Any) -> Any:
        """The batch with corrupted images; itself it stays as it is, and so does all random state.

        Raises:
            ValueError: It has no images, they are on another scale, or the corruption returns something else.
        """
        try:
            where = image_place(batch)
        except UnreadableBatchError as error:
            raise ValueError(f"Guard.corruptions: {error}") from error
        images = part(batch, where)
        with untouched_randomness():
            if isinstance(images, Tensor):
                self._check_form(images, 4)
                changed: Any = torch.stack([self._one(one) for one in images]) if len(images) else images
            elif isinstance(images, list | tuple) and all(isinstance(one, Tensor) for one in images):
                for one in images:
                    self._check_form(one, 3)
                changed = type(images)([self._one(one) for one in images])
            else:
                raise ValueError(
                    f"Guard.corruptions: batches hold {type(images).__name__} where images must be"
                )
        return with_part(batch, where, changed)

    def _check_form(self, images: Tensor, dimensions: int) -> None:
        known = images.is_floating_point() or images.dtype == torch.uint8
        if images.ndim == dimensions and known:
            return
        form = "(n, channels, height, width)" if dimensions == 4 else "(channels, height, width)"
        raise ValueError(
            f"Guard.corruptions: the data yield {_told(images)}, which are no images: {form} of uint8 or real numbers "
            "are; leave corruptions out where there are none"
        )

    def _one(self, image: Tensor) -> Tensor:
        """One image corrupted, in its own type and on its own scale."""
        plain = image.detach().as_subclass(Tensor)
        pixels = self._pixels(plain.cpu())
        seed = _seed(self.name, plain)
        _seed_globals(seed)  # for a function that draws from them
        generator = torch.Generator().manual_seed(seed)
        given = pixels[None].clone()  # which it may change
        changed = self._checked(self.corrupt(given, generator), pixels)
        return self._as_given(changed, plain)

    def _pixels(self, image: Tensor) -> Tensor:
        """What was normalised or is in 256 levels, in [0, 1]."""
        if image.dtype == torch.uint8:
            return image.float() / 255
        pixels = image.float()
        if self.normalization is not None:
            mean, deviation = self.normalization
            if len(mean) not in (1, len(pixels)):
                raise ValueError(
                    f"Guard.normalization names {len(mean)} channels, and images have {len(pixels)}; one number a "
                    "channel is needed, or one for all"
                )
            pixels = pixels * deviation + mean
        low, high = float(pixels.min()), float(pixels.max())
        if not (low >= -_BEYOND and high <= 1 + _BEYOND):
            named = self.normalization is not None
            raise ValueError(
                f"Guard.corruptions: images have values from {low:.3g} to {high:.3g}"
                f"{' once Guard.normalization (or that of the datamodule) is undone' if named else ''}, but what black "
                "and white are must be known: name the mean and the standard deviation that they were normalised by, "
                "Guard(normalization=([...], [...])), one number a channel on the scale from 0 to 1; or let the data "
                "yield uint8, or real numbers in [0, 1], and normalise in the module"
            )
        return pixels.clamp(0, 1)

    def _as_given(self, pixels: Tensor, image: Tensor) -> Tensor:
        if image.dtype == torch.uint8:
            return (pixels * 255).round().to(torch.uint8).to(image.device)
        if self.normalization is not None:
            mean, deviation = self.normalization
            pixels = (pixels - mean) / deviation
        return pixels.to(image.device, image.dtype)

    def _checked(self, returned: Any, pixels: Tensor) -> Tensor:
        expected = f"must return float32 {(1, *pixels.shape)} in [0, 1], as it is given"
        if not isinstance(returned, Tensor):
            raise ValueError(f"corruption {self.name!r} returned {type(returned).__name__}; it {expected}")
        if returned.shape != (1, *pixels.shape) or returned.dtype != torch.float32:
            raise ValueError(f"corruption {self.name!r} returned {_told(returned)}; it {expected}")
        low, high = float(returned.min()), float(returned.max())
        if not (low >= -_BEYOND and high <= 1 + _BEYOND):
            raise ValueError(
                f"corruption {self.name!r} returned values from {low:.3g} to {high:.3g}; it {expected} (clamp(0, 1))"
            )
        return returned.detach()[0].clamp(0, 1)


def read_normalization(given: Any) -> Normalization:
    """Mean and standard deviation as users write them: two sequences or tensors, one number a channel.

    Raises:
        ValueError: They are something else.
    """
    wrong = ValueError(
        f"Guard.normalization={given!r} must be (mean, standard deviation) of the images, a number a channel each on "
        "the scale from 0 to 1, and the deviation above 0"
    )
    if not (isinstance(given, Sequence) and not isinstance(given, str) and len(given) == 2):
        raise wrong
    try:
        mean, deviation = (torch.as_tensor(one, dtype=torch.float32).reshape(-1, 1, 1) for one in given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise wrong from error
    sizes_fit = 0 < len(mean) == len(deviation)
    if not (
        sizes_fit and bool((deviation > 0).all()) and bool(torch.isfinite(torch.cat([mean, deviation])).all())
    ):
        raise wrong
    return mean, deviation


def normalization_of(datamodule: Any) -> Normalization | None:
    """That of a datamodule with a property of this name, as those of the ready-made job have it; else None."""
    given = getattr(datamodule, "normalization", None)
    return read_normalization(given) if isinstance(given, tuple) and len(given) == 2 else None


def _seed(name: str, image: Tensor) -> int:
    """A number that follows from a corruption's name and an image."""
    content = image.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    told = hashlib.blake2b(content, digest_size=4, key=hashlib.blake2b(name.encode()).digest())
    return int.from_bytes(told.digest(), "little")


def _seed_globals(seed: int) -> None:
    """Seed the global generators of the CPU, where images are; `torch.manual_seed` costs milliseconds a sample."""
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)


def _told(value: Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
