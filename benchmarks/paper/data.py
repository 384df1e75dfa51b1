"""The archives of the paper's experiment, with as many training samples of each class, and as small, as asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, WeightedRandomSampler

from lightning_classprune.job.data.base import Splits, TensorBatches
from lightning_classprune.job.data.npz import NpzData


class ThinnedNpz(NpzData):
    """`NpzData` whose training part keeps `train_counts[c]` samples of class c (default: all), drawn by `seed`.

    `balanced` draws training samples with replacement, every class equally often, as many an epoch as there are.
    `size` is the images' height and width in pixels (default: the archive's), by area; normalised as the archive's.

    Raises:
        ValueError: (in `setup`) the training part has fewer samples of a class, or the images are smaller than `size`.
    """

    def __init__(
        self,
        train_counts: Sequence[int] | None = None,
        balanced: bool = False,
        size: int | None = None,
        **npz: Any,
    ) -> None:
        super().__init__(**npz)
        self.train_counts, self.balanced, self.size = train_counts, balanced, size

    def load(self) -> Splits:
        splits = super().load()
        if self.size is not None:
            splits = resized(splits, self.size)
        if self.train_counts is None:
            return splits
        train = splits.parts["train"]
        assert isinstance(train, TensorBatches)
        kept = thinned(train.y, self.train_counts, self.seed)
        fewer = TensorBatches(train.x[kept], train.y[kept], train.mean, train.std, train.flip_dims)
        return replace(splits, parts={**splits.parts, "train": fewer}, train_labels=fewer.y)

    def train_dataloader(self) -> DataLoader[Any]:
        loader = super().train_dataloader()
        if not self.balanced:
            return loader
        y = self.splits.train_labels
        weights = 1 / torch.bincount(y).double()[y]
        sampler = WeightedRandomSampler(weights.tolist(), len(y))
        return DataLoader(loader.dataset, self.batch_size, sampler=sampler, collate_fn=loader.collate_fn)


def resized(splits: Splits, size: int) -> Splits:
    """Return the same samples with images of `size` x `size` pixels."""
    parts = {}
    for name, part in splits.parts.items():
        assert isinstance(part, TensorBatches)
        parts[name] = TensorBatches(shrunk(part.x, size), part.y, part.mean, part.std, part.flip_dims)
    return replace(splits, parts=parts, sample_shape=(splits.sample_shape[0], size, size))


def shrunk(images: Tensor, size: int) -> Tensor:
    """Return uint8 images `(N, C, H, W)` as uint8 `(N, C, size, size)`, every pixel the mean of the area it covers.

    Raises:
        ValueError: `size` is not from 1 to the images' height and width.
    """
    if not 1 <= size <= min(images.shape[-2:]):
        raise ValueError(f"size={size}: must be from 1 to {min(images.shape[-2:])}, the images' own")
    small = torch.empty(*images.shape[:2], size, size, dtype=torch.uint8)
    for start in range(0, len(images), 256):  # the whole archive in float would be gigabytes
        piece = images[start : start + 256].float()
        small[start : start + 256] = F.interpolate(piece, size=(size, size), mode="area").round()
    return small


def thinned(labels: Tensor, counts: Sequence[int], seed: int) -> Tensor:
    """Return ascending indices of `counts[c]` samples of each class c among `labels` `(N,)`.

    Raises:
        ValueError: there are fewer, or another number of classes.
    """
    there = torch.bincount(labels, minlength=len(counts)).tolist()
    if len(there) != len(counts) or any(want > have for want, have in zip(counts, there, strict=True)):
        raise ValueError(
            f"train_counts={list(counts)}: the training part has {there}; ask for at most so many"
        )
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    kept = [order[labels[order] == label][:count] for label, count in enumerate(counts)]
    return torch.cat(kept).sort().values
