"""Images from a folder per class, and the sets that torchvision downloads."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor
from torch.utils.data import Dataset, Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from lightning_classprune.job.data.base import Sample, SplitDataModule, Splits, tensor_splits
from lightning_classprune.job.data.splits import FRACTIONS, PARTS, renormalised, split_indices

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ImageFolderData(SplitDataModule):
    """Any tree with one folder per class, read from disk as training goes.

    `root` holds either the class folders, or `train` and any of `val`, `guard` and `test`, each with the same class
    folders. Parts that are not there are cut from what is (seeded, stratified), in the ratios of `fractions`.
    Images are resized and centre-cropped to `image_size`, mirrored left-right for training, and normalised with
    `mean` and `std` per channel (default: ImageNet's, which pretrained networks expect).

    Raises:
        ValueError: `in_channels` is not 1 or 3; (in `setup`) `root` is missing, or its parts differ in classes.
    """

    def __init__(
        self,
        root: str,
        image_size: int = 64,
        in_channels: int = 3,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        fractions: Mapping[str, float] = FRACTIONS,
        seed: int = 0,
        batch_size: int = 64,
        num_workers: int = 2,
    ) -> None:
        super().__init__(batch_size, num_workers)
        if in_channels not in (1, 3):
            raise ValueError(f"in_channels={in_channels}: must be 1 (grey) or 3 (RGB)")
        self.root, self.size, self.channels = Path(root), image_size, in_channels
        self.mean, self.std = list(mean)[:in_channels], list(std)[:in_channels]
        self.fractions, self.seed = fractions, seed

    def load(self) -> Splits:
        """List the files and split them."""
        if not self.root.is_dir():
            raise ValueError(f"root={str(self.root)!r} is not a folder")
        given = (
            [part for part in PARTS if (self.root / part).is_dir()] if (self.root / "train").is_dir() else []
        )
        parts: dict[str, Dataset[Any]] = {part: self._folder(self.root / part, part) for part in given}
        source = self.root / "train" if given else self.root
        missing = [part for part in PARTS if part not in given or part == "train"]
        whole = self._folder(source, "val")
        labels = torch.tensor(whole.targets)
        indices = split_indices(labels, renormalised(self.fractions, missing), self.seed)
        for part, index in indices.items():
            parts[part] = Subset(self._folder(source, part), index.tolist())
        for part in given:
            self._same_classes(whole, self.root / part)
        samples = {part: self._samples(dataset) for part, dataset in parts.items()}
        shape = (self.channels, self.size, self.size)
        normalization = (torch.tensor(self.mean).view(-1, 1, 1), torch.tensor(self.std).view(-1, 1, 1))
        return Splits(parts, labels[indices["train"]], whole.classes, shape, normalization, samples)

    def _samples(self, part: Any) -> list[Sample]:
        """Files relative to `root`, and their classes."""
        folder: Any = part.dataset if isinstance(part, Subset) else part
        places = part.indices if isinstance(part, Subset) else range(len(part))
        files = (folder.samples[place] for place in places)
        return [(Path(file).relative_to(self.root).as_posix(), label) for file, label in files]

    def _folder(self, path: Path, part: str) -> ImageFolder:
        steps: list[Any] = (
            [v2.ToImage(), v2.Grayscale(self.channels)] if self.channels == 1 else [v2.ToImage()]
        )
        steps += [v2.Resize(self.size, antialias=True), v2.CenterCrop(self.size)]
        steps += [v2.RandomHorizontalFlip()] if part == "train" else []
        steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(self.mean, self.std)]
        try:
            return ImageFolder(str(path), transform=v2.Compose(steps))
        except FileNotFoundError as error:
            raise ValueError(f"root={str(self.root)!r}: {error}") from error

    def _same_classes(self, whole: ImageFolder, path: Path) -> None:
        classes = sorted(entry.name for entry in path.iterdir() if entry.is_dir())
        if classes != whole.classes:
            raise ValueError(
                f"root={str(self.root)!r}: {path.name} has classes {classes}, train {whole.classes}"
            )


class TorchvisionData(SplitDataModule):
    """A classification set of `torchvision.datasets` by class name (CIFAR10, FashionMNIST, SVHN, ...), in memory.

    Its own test part is the test part; its training part is cut into train, validation and guard in the ratios of
    `fractions`. Downloaded to `root` if it is not there. `image_size` (pixels, square) is needed where the images
    differ in size. Training images are mirrored left-right if `flip` is true.

    Raises:
        ValueError: `name` is not such a set; (in `setup`) images that differ in size without an `image_size`.
    """

    def __init__(
        self,
        name: str,
        root: str,
        image_size: int | None = None,
        download: bool = True,
        fractions: Mapping[str, float] = FRACTIONS,
        seed: int = 0,
        flip: bool = True,
        batch_size: int = 64,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, num_workers)
        self.make = getattr(torchvision.datasets, name, None)
        arguments = inspect.signature(self.make).parameters if inspect.isclass(self.make) else {}
        self.part_argument = next((a for a in ("train", "split") if a in arguments), None)
        if self.make is None or self.part_argument is None:
            raise ValueError(
                f"name={name!r} is not a set of torchvision.datasets with a train and a test part"
            )
        self.name, self.root, self.size, self.download = name, root, image_size, download
        self.fractions, self.seed, self.flip = fractions, seed, flip

    def prepare_data(self) -> None:
        """Download both parts, once per machine."""
        if self.download:
            self._open(train=True, download=True)
            self._open(train=False, download=True)

    def load(self) -> Splits:
        """Decode all images and split the training part."""
        train, test = self._open(train=True), self._open(train=False)
        (x_train, y_train), (x_test, y_test) = self._tensors(train), self._tensors(test)
        y = torch.cat([y_train, y_test])
        fractions = renormalised(self.fractions, ("train", "val", "guard"))
        indices = split_indices(y_train, fractions, self.seed)
        indices["test"] = torch.arange(len(y_train), len(y))
        names = [str(name) for name in getattr(train, "classes", range(int(y.max()) + 1))]
        return tensor_splits(torch.cat([x_train, x_test]), y, names, indices, (-1,) if self.flip else ())

    def _open(self, train: bool, download: bool = False) -> Any:
        part: bool | str = train
        if self.part_argument == "split":
            part = "train" if train else "test"
        assert self.make is not None
        assert self.part_argument is not None
        return self.make(self.root, download=download, **{self.part_argument: part})

    def _tensors(self, dataset: Any) -> tuple[Tensor, Tensor]:
        images, labels = [], []
        for image, label in dataset:
            pixels = v2.functional.pil_to_tensor(image)
            if self.size is not None:
                pixels = v2.functional.resize(pixels, [self.size, self.size], antialias=True)
            images.append(pixels)
            labels.append(int(label))
        if len({image.shape for image in images}) > 1:
            raise ValueError(
                f"image_size=None: the images of {self.name} differ in size or channels; give image_size"
            )
        return torch.stack(images), torch.tensor(labels)
