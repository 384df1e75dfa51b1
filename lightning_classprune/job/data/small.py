"""Two real data sets that Python packages ship: solar cells and breast tumours. Nothing is downloaded."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torchvision.transforms.v2 import functional as F

from lightning_classprune.job.data.base import SplitDataModule, Splits, tensor_splits
from lightning_classprune.job.data.splits import FRACTIONS, split_indices


class ElpvData(SplitDataModule):
    """Electroluminescence images of 2,624 solar cells, grey; class `defective` (821 cells) against `functional`.

    Defective means a defect probability >= 0.5 in the experts' labels (0, 1/3, 2/3 or 1). The images (300x300) are
    resized to `image_size` and mirrored at random for training. The split is stratified and seeded, cell by cell:
    the data do not say which cells belong to one module, so cells of one module may fall on both sides.

    The package `elpv-dataset` ships the images under CC BY-NC-SA 4.0: no commercial use. Source: Buerhop-Lutz et
    al., "A Benchmark for Visual Identification of Defective Solar Cells in Electroluminescence Imagery", 2018.

    Raises:
        ModuleNotFoundError: `elpv-dataset` is not installed.
    """

    def __init__(
        self,
        image_size: int = 64,
        fractions: Mapping[str, float] = FRACTIONS,
        seed: int = 0,
        batch_size: int = 64,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, num_workers)
        self.size, self.fractions, self.seed = image_size, fractions, seed

    def load(self) -> Splits:
        """Read, shrink and split the images; about four seconds."""
        try:
            from elpv_dataset.utils import load_dataset
        except ModuleNotFoundError as error:
            hint = "data=elpv needs the package elpv-dataset: pip install 'lightning-classprune[elpv]'"
            raise ModuleNotFoundError(hint, name=error.name) from error
        images, probability, _ = load_dataset()
        x = F.resize(torch.from_numpy(images).unsqueeze(1), [self.size, self.size], antialias=True)
        y = torch.from_numpy(probability >= 0.5).long()
        indices = split_indices(y, self.fractions, self.seed)
        names = [
            f"cell{number:04d}.png" for number in range(1, len(y) + 1)
        ]  # the package's files, in its order
        return tensor_splits(x, y, ["functional", "defective"], indices, (-1, -2), names)


class BreastCancerData(SplitDataModule):
    """30 measurements of 569 breast tumours: class `malignant` (212) against `benign`, standardised.

    Ships with scikit-learn (`load_breast_cancer`). Source: Wolberg, Mangasarian, Street and Street, Breast Cancer
    Wisconsin (Diagnostic), UCI Machine Learning Repository, 1995.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
    """

    def __init__(
        self,
        fractions: Mapping[str, float] = FRACTIONS,
        seed: int = 0,
        batch_size: int = 32,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, num_workers)
        self.fractions, self.seed = fractions, seed

    def load(self) -> Splits:
        """Read and split the table."""
        try:
            from sklearn.datasets import load_breast_cancer
        except ModuleNotFoundError as error:
            hint = "data=breast_cancer needs scikit-learn: pip install 'lightning-classprune[sklearn]'"
            raise ModuleNotFoundError(hint, name=error.name) from error
        table = load_breast_cancer()
        y = torch.from_numpy(table.target).long()
        names = [str(name) for name in table.target_names]
        return tensor_splits(
            torch.from_numpy(table.data), y, names, split_indices(y, self.fractions, self.seed)
        )
