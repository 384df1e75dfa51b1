"""The common base of the data modules: four parts, one kind of batch, and the facts a model needs."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_classprune.guard.protected import check_names
from lightning_classprune.job.data import checks
from lightning_classprune.job.data.augmentation import Augmentation, augmented, check_augment
from lightning_classprune.job.data.splits import PARTS

Batch = tuple[Tensor, Tensor]
Sample = tuple[str, int]  # what it is called, and its class; where samples hold objects, its unit


@dataclass(frozen=True)
class Splits:
    """The loaded data: a dataset for each of train, val, guard and test, and what is known about them.

    `normalization` is the (mean, standard deviation) by which samples were normalised, broadcasting against one
    sample: of pixels on the 0..1 scale, or of a table's features. `samples` tells of each part, in its order, what its
    samples are called, such as their files, and their classes (of objects: their units); empty where that is not known.
    `told_by` is what tells the objects of a sample in its target, `"map"` or `"boxes"`; None where it has a class.
    """

    parts: Mapping[str, Dataset[Any]]
    train_labels: Tensor
    class_names: Sequence[str]
    sample_shape: tuple[int, ...]
    normalization: tuple[Tensor, Tensor]
    samples: Mapping[str, Sequence[Sample]] = field(default_factory=dict)
    told_by: str | None = None


class SplitDataModule(LightningDataModule):
    """Data in four parts: train, validation (choose settings), guard (judge pruning), test (touched once).

    Batches are `(x, y)`: x float, normalised, `(N, C, H, W)` or `(N, features)`; y int64 `(N,)`. Only the training
    loader shuffles; no loader drops samples. A subclass implements `load()`. The properties are known after
    `setup()`, which may be called without a trainer and loads only once.

    Attributes:
        collate: Makes a batch of samples; None for torch's own way.

    Raises:
        ValueError: `batch_size` < 1, `num_workers` < 0, or (in `setup`) a class without training samples, or a name
            that no table, log or configuration can hold.
    """

    collate: Callable[[Any], Any] | None = None

    def __init__(self, batch_size: int = 64, num_workers: int = 0) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: must be at least 1")
        if num_workers < 0:
            raise ValueError(f"num_workers={num_workers}: must be at least 0")
        self.batch_size = batch_size
        self.num_workers = num_workers
        self._splits: Splits | None = None

    @abstractmethod
    def load(self) -> Splits:
        """Read the data and cut it into its four parts."""

    def setup(self, stage: str | None = None) -> None:
        """Load the data, the first time only."""
        if self._splits is not None:
            return
        splits = self.load()
        check_names("class names", splits.class_names)
        for name in splits.class_names:
            if "${" in name or name == "???":
                raise ValueError(
                    f"class name {name!r}: configurations take it for a reference; rename the class"
                )
        counts = torch.bincount(splits.train_labels, minlength=len(splits.class_names))
        empty = [name for name, count in zip(splits.class_names, counts, strict=True) if count == 0]
        if empty:
            raise ValueError(f"no training sample of {empty}; give the data more of them or drop the class")
        self._splits = splits

    @property
    def splits(self) -> Splits:
        """The loaded parts.

        Raises:
            RuntimeError: before `setup()`.
        """
        if self._splits is None:
            raise RuntimeError("the data are not loaded yet: call setup() first")
        return self._splits

    @property
    def class_names(self) -> list[str]:
        """The class names in the order of the labels."""
        return list(self.splits.class_names)

    @property
    def num_classes(self) -> int:
        """The number of classes, at least 2."""
        return len(self.splits.class_names)

    @property
    def class_counts(self) -> list[int]:
        """The number of training samples of each class."""
        counts: list[int] = torch.bincount(self.splits.train_labels, minlength=self.num_classes).tolist()
        return counts

    @property
    def in_channels(self) -> int:
        """Channels of an image, or the number of features of a table row."""
        return self.splits.sample_shape[0]

    @property
    def image_size(self) -> tuple[int, ...]:
        """Height and width in pixels; empty for a table."""
        return self.splits.sample_shape[1:]

    @property
    def in_features(self) -> int:
        """Values per sample."""
        return math.prod(self.splits.sample_shape)

    @property
    def normalization(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation that `x` was normalised by: `(C, 1, 1)` on the 0..1 scale, or `(features,)`."""
        return self.splits.normalization

    def told(self, part: str, protected: Sequence[int]) -> str:
        """The samples of a part, and of each protected class among them where that is known.

        Args:
            part: Its name.
            protected: Indices of the protected classes.
        """
        labels = [label for _, label in self.splits.samples.get(part, ())]
        counts = (
            [f"{labels.count(index):,} {self.class_names[index]}" for index in protected] if labels else []
        )
        among = f" ({', '.join(counts)})" if counts else ""
        return f"{part} {len(self.splits.parts[part]):,}{among}"  # type: ignore[arg-type]

    def raw(self, x: Tensor) -> Tensor:
        """Return a batch (or one sample) before normalisation: uint8 pixels of images, a table's features."""
        mean, std = self.normalization
        values = x * std + mean
        return (values * 255).round().clamp(0, 255).to(torch.uint8) if self.image_size else values

    def train_dataloader(self) -> DataLoader[Batch]:
        """Training batches, shuffled and augmented."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Validation batches: for choosing settings, never for judging."""
        return self._loader("val")

    def guard_dataloader(self) -> DataLoader[Batch]:
        """Guard batches: for the verdict on a pruned network, and nothing else."""
        return self._loader("guard")

    def test_dataloader(self) -> DataLoader[Batch]:
        """Test batches: for the report at the very end."""
        return self._loader("test")

    def _loader(self, part: str, shuffle: bool = False) -> DataLoader[Batch]:
        dataset = self.splits.parts[part]
        return DataLoader(
            dataset,
            self.batch_size,
            shuffle=shuffle,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            collate_fn=_as_is if isinstance(dataset, TensorBatches) else self.collate,
        )


class TensorBatches(Dataset[Batch]):
    """Samples in memory, fetched, augmented and normalised a whole batch at a time.

    `x` is uint8 (then divided by 255) or float, `(N, ...)`; `mean` and `std` broadcast against one sample. Each
    of `flip_dims` is mirrored with probability 1/2 per sample, drawn from torch's default generator; after that each
    sample goes through `augment`.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        mean: Tensor,
        std: Tensor,
        flip_dims: Sequence[int] = (),
        augment: Sequence[Augmentation] = (),
    ) -> None:
        self.x, self.y, self.mean, self.std = x, y.long(), mean.float(), std.float()
        self.flip_dims, self.augment = tuple(flip_dims), tuple(augment)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.y)

    def __getitem__(self, index: int) -> Batch:
        """Return one sample without the batch dimension."""
        x, y = self.__getitems__([index])
        return x[0], y[0]

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Return the samples as one batch; the loader calls this instead of collating single samples."""
        picked = torch.as_tensor(indices)
        x = self.x[picked]
        for dim in self.flip_dims:
            chosen = torch.rand(len(x)) < 0.5
            x[chosen] = x[chosen].flip(dim)
        if self.augment:
            x = torch.stack([augmented(self.augment, one) for one in x])
        scaled = x.float().div_(255) if x.dtype == torch.uint8 else x.float()
        return (scaled - self.mean) / self.std, self.y[picked]


def tensor_splits(
    x: Tensor,
    y: Tensor,
    class_names: Sequence[str],
    indices: Mapping[str, Tensor],
    flip_dims: Sequence[int] = (),
    names: Sequence[str] | None = None,
    augment: Sequence[Augmentation] | None = None,
) -> Splits:
    """Return in-memory parts, normalised by the mean and standard deviation of the training part.

    Args:
        x: uint8 images `(N, C, H, W)`, normalised per channel, or finite float rows `(N, features)`, per feature.
        y: class indices `(N,)`.
        class_names: the name of each class.
        indices: the sample indices of train, val, guard and test.
        flip_dims: dimensions of a batch that training may mirror, e.g. (-1,) for left and right.
        names: what each sample is called; by default its place in the source, from 0.
        augment: transforms of training images, in place of mirroring.

    Raises:
        ValueError: `x` is neither, which is trained on in one way and exported in another; labels and samples differ
            in number; augmentations that fail.
    """
    names = [str(i) for i in range(len(y))] if names is None else names
    if len(x) != len(y):
        raise ValueError(f"x holds {len(x)} samples, y {len(y)} labels; must be as many")
    if x.dtype == torch.uint8 and x.ndim == 4:
        warn_of_flat(x, names)
    elif x.is_floating_point() and x.ndim == 2:
        checks.check_rows(x, "x")
    else:
        raise ValueError(
            f"x is {x.dtype} {tuple(x.shape)}; must be uint8 images (samples, channels, height, width) or float rows "
            "(samples, features)"
        )
    train = indices["train"]
    mean, std = image_moments(x[train]) if x.dtype == torch.uint8 else _row_moments(x[train])
    if augment is not None:
        check_augment(augment, x[0])
    parts = {name: TensorBatches(x[indices[name]], y[indices[name]], mean, std) for name in PARTS}
    parts["train"].flip_dims = tuple(flip_dims) if augment is None else ()
    parts["train"].augment = tuple(augment or ())
    samples = {part: [(names[i], int(y[i])) for i in indices[part].tolist()] for part in PARTS}
    moments = mean.float(), std.float()
    return Splits(parts, y[train].long(), class_names, tuple(x.shape[1:]), moments, samples)


def warn_of_flat(x: Tensor, names: Sequence[str]) -> None:
    """`checks.warn_of_flat` of uint8 images `(N, C, H, W)`."""
    pixels = x.flatten(2)
    low, high = pixels.amin(2), pixels.amax(2)
    checks.warn_of_flat((high - low).amax(1).tolist(), int(high.max()), names)


def image_moments(x: Tensor) -> Batch:
    """Mean and standard deviation of each channel on the 0..1 scale, exact, from 256 bins and without a float copy."""
    bins = torch.stack([torch.bincount(x[:, c].flatten(), minlength=256) for c in range(x.shape[1])]).double()
    share, level = bins / bins.sum(1, keepdim=True), torch.linspace(0, 1, 256, dtype=torch.float64)
    mean = share @ level
    variance = share @ level.square() - mean.square()
    return mean.view(-1, 1, 1), _scale(variance.clamp(min=0).sqrt()).view(-1, 1, 1)


def _row_moments(x: Tensor) -> Batch:
    return x.double().mean(0), _scale(x.double().std(0, correction=0))


def _scale(std: Tensor) -> Tensor:
    """Leave a constant channel or feature unscaled."""
    return torch.where(std > 1e-8, std, 1.0)


def _as_is(batch: Any) -> Any:
    return batch
