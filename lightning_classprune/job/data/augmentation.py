"""Augmentations of a user's: what they may make of a training image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors

#: A transform of `torchvision.transforms.v2`, or anything that is called alike.
Augmentation = Callable[[Any], Any]


def augmented(steps: Sequence[Augmentation], image: Tensor) -> Tensor:
    """Return one image `(C, H, W)` after all steps; they draw from torch's default generator."""
    made: Any = tv_tensors.Image(image)
    for step in steps:
        made = step(made)
    return torch.as_tensor(made)


def check_augment(steps: Sequence[Augmentation], image: Tensor) -> None:
    """Try the augmentations once, before training.

    Args:
        steps: In their order.
        image: One as they will get, uint8 `(C, H, W)`.

    Raises:
        ValueError: They fail, or make something other than an image of the same size and type; names the step.
    """
    for place, step in enumerate(steps):
        name = f"augment[{place}], {type(step).__name__}"
        if not callable(step):
            raise ValueError(
                f"{name}: {step!r} is no transform; give transforms of torchvision.transforms.v2"
            )
        try:
            made = augmented(steps[: place + 1], image)
        except Exception as error:  # anything may be wrong with a transform of somebody's
            raise ValueError(f"{name}: fails on a {_kind(image)} image: {error}") from error
        if made.dtype != image.dtype or (place == len(steps) - 1 and made.shape != image.shape):
            raise ValueError(
                f"{name}: makes {_kind(made)} of {_kind(image)}; images must stay uint8 and end in their size: they "
                "are normalised afterwards"
            )


def _kind(image: Tensor) -> str:
    return f"{str(image.dtype).removeprefix('torch.')} {tuple(image.shape)}"
