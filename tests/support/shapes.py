"""Pictures with blobs, and tiny networks that find them as masks or boxes; sentences with names."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from torch.utils.data import DataLoader, Dataset

SIZE = 24


def blobs(n: int, seed: int, most: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures `(n, 1, 24, 24)`, maps `(n, 24, 24)` of numbered squares that do not touch, and patients, 3 each."""
    generator = torch.Generator().manual_seed(seed)
    pictures = 0.3 * torch.randn(n, 1, SIZE, SIZE, generator=generator)
    maps = torch.zeros(n, SIZE, SIZE, dtype=torch.int64)
    for i in range(n):
        cells = torch.randperm(9, generator=generator)[
            : int(torch.randint(1, most + 1, (1,), generator=generator))
        ]
        for number, cell in enumerate(cells.tolist(), start=1):
            y, x = 8 * (cell // 3) + 1, 8 * (cell % 3) + 1
            maps[i, y : y + 5, x : x + 5] = number
            bright = 0.6 + 0.8 * float(torch.rand(1, generator=generator))
            pictures[i, 0, y : y + 5, x : x + 5] += bright
    return pictures, maps, 1000 * seed + torch.arange(n) // 3


class Pictures(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Picture, map, patient."""

    def __init__(self, n: int, seed: int) -> None:
        self.parts = blobs(n, seed)

    def __len__(self) -> int:
        return len(self.parts[0])

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        picture, numbers, patient = (part[index] for part in self.parts)
        return picture, numbers, patient


def pictures(n: int, seed: int, batch_size: int = 16, **options: Any) -> DataLoader[Any]:
    return DataLoader(Pictures(n, seed), batch_size=batch_size, **options)


class MaskNet(pl.LightningModule):
    """Two convolutions; `outputs` scores a pixel."""

    def __init__(self, outputs: int = 2) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, outputs, 3, padding=1)
        )
        self.outputs = outputs

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.net(x)
        return scores

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        scores, target = self(batch[0]), (batch[1] > 0)
        if self.outputs == 1:
            return binary_cross_entropy_with_logits(scores[:, 0], target.float())
        return cross_entropy(scores, target.long())

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.02)


def masks(module: Any, batch: Any) -> Any:
    """Scores and class maps; every picture is a unit."""
    return module(batch[0]), (batch[1] > 0).long()


def masks_of_patients(module: Any, batch: Any) -> Any:
    """The same, with patients."""
    return *masks(module, batch), batch[2]


def instances(module: Any, batch: Any) -> Any:
    """Pieces of what the network claims, as maps of instances."""
    from scipy import ndimage

    scores = module(batch[0])
    claimed = scores.argmax(1).cpu().numpy()
    found = [torch.from_numpy(ndimage.label(one)[0]).long() for one in claimed]
    return [{"map": one} for one in found], [{"map": one} for one in batch[1]]


def boxes_of(numbers: Tensor) -> Tensor:
    """`(m, 4)` boxes of a map."""
    places = [(numbers == i).nonzero() for i in range(1, int(numbers.max()) + 1)]
    return torch.tensor(
        [[*p.min(0).values.flip(0).tolist(), *(p.max(0).values.flip(0) + 1).tolist()] for p in places]
    )


def boxes(module: Any, batch: Any) -> Any:
    """One box for each of nine cells, with the mean probability of its pixels."""
    probability = module(batch[0]).softmax(1)[:, 1]
    grid = torch.tensor([[x, y, x + 5, y + 5] for y in (1, 9, 17) for x in (1, 9, 17)], dtype=torch.float32)
    predictions = [
        {
            "boxes": grid,
            "scores": torch.stack([p[y : y + 5, x : x + 5].mean() for y in (1, 9, 17) for x in (1, 9, 17)]),
            "labels": torch.ones(9, dtype=torch.int64),
        }
        for p in probability
    ]
    targets = [boxes_of(one) for one in batch[1]]
    return predictions, [
        {"boxes": b.float(), "labels": torch.ones(len(b), dtype=torch.int64)} for b in targets
    ]
