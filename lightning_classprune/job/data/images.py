"""Images from a folder per class, and the sets that torchvision downloads."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from lightning_utilities.core.rank_zero import rank_zero_info
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from lightning_classprune.job.data.augmentation import Augmentation, check_augment
from lightning_classprune.job.data.base import SplitDataModule, Splits, tensor_splits
from lightning_classprune.job.data.file_groups import check_one_side, file_groups
from lightning_classprune.job.data.folders import read_tree
from lightning_classprune.job.data.picture_files import read_picture, verify
from lightning_classprune.job.data.splits import FRACTIONS, PARTS, renormalised, split_indices

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ImageFolderData(SplitDataModule):
    """Any tree with one folder per class, read from disk as training goes.

    `root` holds either the class folders, or `train` and any of `val`, `guard` and `test`, each with the same class
    folders (`folders.SYNONYMS` are understood). Parts that are not there are cut from `train` (seeded, stratified), in
    the ratios of `fractions`. All files are read once at set-up, so that one that cannot be used is found then. Images
    are turned upright by their EXIF tag, scaled to 8 bits a channel, resized and centre-cropped to `image_size`,
    augmented for training, and normalised with `mean` and `std` per channel (default: ImageNet's, which pretrained
    networks expect).

    Args:
        root: The tree.
        image_size: Height and width in pixels, at least 1.
        in_channels: 1 (grey) or 3 (RGB).
        mean: Of each channel, on the 0..1 scale.
        std: Of each channel, above 0.
        groups: Of images that stay on one side of the split; see `file_groups.file_groups`.
        fractions: Shares of train, val, guard and test.
        seed: Of the split.
        augment: Transforms of `torchvision.transforms.v2` for training, of uint8 images, in place of mirroring.
        batch_size: Samples a batch.
        num_workers: Processes that read.

    Raises:
        ValueError: An argument is out of range; (in `setup`) no tree of classes, or a file that cannot be used.
    """

    def __init__(
        self,
        root: str,
        image_size: int = 64,
        in_channels: int = 3,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        groups: str = "auto",
        fractions: Mapping[str, float] = FRACTIONS,
        seed: int = 0,
        augment: Sequence[Augmentation] | None = None,
        batch_size: int = 64,
        num_workers: int = 2,
    ) -> None:
        super().__init__(batch_size, num_workers)
        if in_channels not in (1, 3):
            raise ValueError(f"in_channels={in_channels}: must be 1 (grey) or 3 (RGB)")
        if image_size < 1:
            raise ValueError(f"image_size={image_size}: must be at least 1 pixel")
        self.root, self.size, self.channels = Path(root), image_size, in_channels
        self.mean, self.std = list(mean)[:in_channels], list(std)[:in_channels]
        if not len(self.mean) == len(self.std) == in_channels or min(self.std) <= 0:
            raise ValueError(
                f"mean={list(mean)}, std={list(std)}: must be a number for each of {in_channels} channels, std above 0"
            )
        self.groups, self.fractions, self.seed, self.augment = groups, fractions, seed, augment

    def load(self) -> Splits:
        """List the files, read each once, and split them."""
        tree = read_tree(self.root)
        if unused := tree.unused():
            rank_zero_info(f"root={str(self.root)!r}: not used: {unused}")
        listed = [
            (part or "train", file, label)
            for part, classes in tree.parts.items()
            for label, name in enumerate(tree.classes)
            for file in classes[name]
        ]
        files = [file for _, file, _ in listed]
        verify(files, self.root, self.channels)
        names = [file.relative_to(self.root).as_posix() for file in files]
        groups = file_groups(self.groups, names)
        labels = torch.tensor([label for _, _, label in listed])
        homes = [part for part, _, _ in listed]
        if groups is not None:
            check_one_side(groups, names, homes)
        indices = self._indices(labels, homes, groups)
        parts = {part: self._pictures(files, labels, index, part) for part, index in indices.items()}
        samples = {part: [(names[i], int(labels[i])) for i in index] for part, index in indices.items()}
        shape = (self.channels, self.size, self.size)
        normalization = (torch.tensor(self.mean).view(-1, 1, 1), torch.tensor(self.std).view(-1, 1, 1))
        return Splits(parts, labels[indices["train"]], tree.classes, shape, normalization, samples)

    def _indices(
        self, labels: Tensor, homes: Sequence[str], groups: Sequence[str] | None
    ) -> dict[str, list[int]]:
        """The samples of each part: those given, and the missing ones cut from `train`."""
        given = {part: [i for i, home in enumerate(homes) if home == part] for part in PARTS if part in homes}
        pool = torch.tensor(given.pop("train"))
        fractions = renormalised(self.fractions, [part for part in PARTS if part not in given])
        numbers = (
            None if groups is None else torch.from_numpy(np.unique(groups, return_inverse=True)[1])[pool]
        )
        cut = split_indices(labels[pool], fractions, self.seed, numbers)
        indices = given | {part: pool[index].tolist() for part, index in cut.items()}
        return {part: indices[part] for part in PARTS}

    def _pictures(self, files: Sequence[Path], labels: Tensor, index: Sequence[int], part: str) -> Pictures:
        steps: list[Any] = [v2.ToImage(), v2.Resize(self.size, antialias=True), v2.CenterCrop(self.size)]
        if part == "train":
            steps += [v2.RandomHorizontalFlip()] if self.augment is None else list(self.augment)
        steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(self.mean, self.std)]
        if part == "train" and self.augment is not None:
            check_augment(self.augment, torch.zeros(self.channels, self.size, self.size, dtype=torch.uint8))
        return Pictures([(files[i], int(labels[i])) for i in index], self.channels, v2.Compose(steps))


class Pictures(Dataset[tuple[Tensor, int]]):
    """Files and their classes, read when they are asked for.

    Args:
        files: Paths and classes.
        channels: As of `picture_files.read_picture`.
        transform: From a picture to what the network gets.
    """

    def __init__(self, files: Sequence[tuple[Path, int]], channels: int, transform: Augmentation) -> None:
        self.files, self.channels, self.transform = files, channels, transform

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return one sample."""
        path, label = self.files[index]
        return self.transform(read_picture(path, self.channels)), label


class TorchvisionData(SplitDataModule):
    """A classification set of `torchvision.datasets` by class name (CIFAR10, FashionMNIST, SVHN, ...), in memory.

    Its own test part is the test part; its training part is cut into train, validation and guard in the ratios of
    `fractions`. Downloaded to `root` if it is not there. `image_size` (pixels, square) is needed where the images
    differ in size. Training images are mirrored left-right if `flip` is true, or go through `augment`, transforms of
    `torchvision.transforms.v2`, instead. Files that are pickles (CIFAR10's, CIFAR100's) are read only if they are the
    published ones, by their MD5.

    Raises:
        ValueError: `name` is not such a set; (in `setup`) its files are not there or were changed, or images differ in
            size without an `image_size`.
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
        augment: Sequence[Augmentation] | None = None,
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
        self.fractions, self.seed, self.flip, self.augment = fractions, seed, flip, augment

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
        x, dims = torch.cat([x_train, x_test]), (-1,) if self.flip else ()
        return tensor_splits(x, y, names, indices, dims, augment=self.augment)

    def _open(self, train: bool, download: bool = False) -> Any:
        part: bool | str = train
        if self.part_argument == "split":
            part = "train" if train else "test"
        assert self.make is not None
        assert self.part_argument is not None
        try:
            return self.make(self.root, download=download, **{self.part_argument: part})
        except RuntimeError as error:  # torchvision looks at its files before it reads them
            raise ValueError(f"{self.name} in root={self.root!r}: {error}") from error

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
