"""Thumbnails of the guard samples whose decision changed, small enough to stand inside the report."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from lightning_classprune import files
from lightning_classprune.guard.outcomes import Decisions
from lightning_classprune.job.data.base import SplitDataModule

Pixels = NDArray[np.uint8]

SHOWN = 48  # of each kind, over all protected classes
EDGE = 96  # pixels; larger pictures are shrunk
PNG_BYTES = 8000  # a larger PNG becomes a JPEG, so that a page of 96 colour pictures stays under a megabyte


def changed(dense: Decisions, delivered: Decisions, index: int) -> tuple[list[int], list[int]]:
    """Return the guard samples of class `index` that only the delivered network misses, and that only the dense did."""
    positive, before = dense.found(index)
    _, now = delivered.found(index)
    missed, found = positive & before & ~now, positive & ~before & now
    return missed.nonzero().flatten().tolist(), found.nonzero().flatten().tolist()


def shown_each(classes: int) -> int:
    """How many pictures of each kind the report shows for each of so many protected classes."""
    return max(SHOWN // max(classes, 1), 8)


def thumbnails(
    data: SplitDataModule, outcomes: Mapping[str, Decisions], protected: Sequence[int]
) -> dict[int, Pixels]:
    """Return what the report shows: guard index -> uint8 `(H, W)` or `(H, W, 3)`; nothing for a table."""
    if not outcomes or len(data.image_size) != 2:
        return {}
    kinds = [changed(outcomes["dense"], outcomes["delivered"], index) for index in protected]
    each = shown_each(len(protected))
    wanted = sorted({sample for both in kinds for samples in both for sample in samples[:each]})
    dataset: Any = data.splits.parts["guard"]
    return {sample: pixels(dataset[sample][0], data.normalization) for sample in wanted}


def pixels(x: Tensor, normalization: tuple[Tensor, Tensor], edge: int = EDGE) -> Pixels:
    """Return one sample `(C, H, W)` as a picture of at most `edge` pixels a side, grey unless C is 3.

    Args:
        x: As the network gets it.
        normalization: Mean and standard deviation, on the 0..1 scale, that it was normalised by.
        edge: Larger pictures are shrunk to it.
    """
    mean, std = normalization
    x = x.detach().float().cpu() * std + mean
    if len(x) not in (1, 3):
        x = x.mean(0, keepdim=True)
    height, width = x.shape[1:]
    if max(height, width) > edge:
        scale = edge / max(height, width)
        x = F.resize(x, [max(round(height * scale), 1), max(round(width * scale), 1)], antialias=True)
    picture: Pixels = (x.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return picture[:, :, 0] if picture.shape[2] == 1 else picture


def write_pictures(path: Path, pictures: Mapping[int, Pixels]) -> None:
    """Keep thumbnails of one size in an `.npz` file."""
    with files.replacing(path) as part, part.open("wb") as file:
        np.savez_compressed(
            file, index=np.array(list(pictures), np.int64), pixels=np.stack(list(pictures.values()))
        )


def read_pictures(path: Path) -> dict[int, Pixels]:
    """Return what `write_pictures` kept."""
    with np.load(path, allow_pickle=False) as arrays:
        return dict(zip(arrays["index"].tolist(), arrays["pixels"], strict=True))


def data_uri(picture: Pixels) -> str:
    """Return the picture as a `data:` address, PNG where that is small."""
    image, kind = Image.fromarray(picture), "png"
    content = _encoded(image, "PNG", {"optimize": True})
    if len(content) > PNG_BYTES:
        content, kind = _encoded(image, "JPEG", {"quality": 88, "subsampling": 0}), "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _encoded(image: Image.Image, form: str, options: Mapping[str, Any]) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()
