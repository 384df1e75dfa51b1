"""Corruptions in a fit: what is judged, saved, resumed and told, and what is refused before the first batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_classprune import ClassAwarePruningCallback, Fixed, Guard
from lightning_classprune.ledger.text import achievement, table
from tests.support.compare import assert_same, weights
from tests.support.kit import fit


class Seeing(pl.LightningModule):
    """A small network on images of 6 x 6; a bright middle is class 1."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.ReLU(), nn.Linear(12, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_loss", cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.05)


def images(seed: int, n: int = 96, scale: float = 1.0) -> DataLoader[Any]:
    generator = Generator().manual_seed(seed)
    x, y = torch.rand(n, 1, 6, 6, generator=generator) * 0.6, torch.randint(2, (n,), generator=generator)
    x[:, :, 2:4, 2:4] += 0.3 * y.view(-1, 1, 1, 1)
    return DataLoader(TensorDataset(x * scale, y), batch_size=16)


def shaded(images: Tensor, generator: Generator) -> Tensor:
    """Darker on one side, and a global draw beside."""
    return images * torch.linspace(0.5, 1, images.shape[-1]) * (0.9 + 0.1 * torch.rand(()))


def fitted(
    folder: Path, module: Any = None, guard: Any = None, rounds: int = 2, **options: Any
) -> ClassAwarePruningCallback:
    callback = ClassAwarePruningCallback(
        2,
        {1: 0.4},
        guard_dataloader=images(5),
        search=Fixed(fraction=0.5, rewind="lr", max_rounds=rounds),
        guard=Guard(
            corruptions={"impulse_noise": 0.5, shaded: [0.45, 0.6]}, max_fp_rise=0.5, **(guard or {})
        ),
    )
    saving = pl.callbacks.ModelCheckpoint(folder, save_top_k=-1, save_last=True, filename="{epoch}")
    fit(module or Seeing(), callback, saving, train=images(1), val=images(2), max_epochs=2, **options)
    return callback


def told(callback: ClassAwarePruningCallback) -> Any:
    return [{**row, "seconds": 0} for row in callback.ledger]


def test_every_round_is_judged_under_every_corruption_and_a_resumed_run_sees_the_same(tmp_path: Path) -> None:
    whole, module = Seeing(), Seeing()
    callback = fitted(tmp_path / "whole", whole)
    for row in callback.ledger:
        assert list(row["corruptions"]) == ["impulse_noise", "shaded"]
        for there in row["corruptions"].values():
            assert there["classes"]["1"]["support"] == row["classes"]["1"]["support"] > 30
    dense, first = callback.ledger[:2]
    assert dense["corruptions"]["shaded"]["classes"]["1"]["fn"] != dense["classes"]["1"]["fn"]
    limits = [one["classes"]["1"] for one in first["corruptions"].values()]
    assert [one["tolerance"] for one in limits] == [0.5, 0.45]
    assert [one["max_fp_rise"] for one in limits] == [0.5, 0.6]
    passed = [one["verdict"] == "accepted" for one in first["corruptions"].values()]
    assert all(passed) == (first["verdict"] == "accepted")
    assert "impulse noise" in "".join(map(str, table(callback.ledger).columns[2].cells))
    assert ("under shaded it missed" in achievement(callback.ledger)) == (first["verdict"] == "accepted")
    assert callback.guard_outcomes["dense"].same_cases(callback.guard_outcomes["delivered"])

    resumed = fitted(tmp_path / "resumed", module, ckpt_path=tmp_path / "whole" / "epoch=2.ckpt")
    assert_same(told(resumed), told(callback))
    assert_same(weights(module), weights(whole))


def test_the_guard_may_look_once_at_what_an_offset_was_chosen_for(tmp_path: Path) -> None:
    callback = fitted(tmp_path, guard={"judging": "end", "offset": "validation"}, rounds=1)
    judged = [row for row in callback.ledger if row["verdict"] in ("accepted", "refused", "unproven")]
    assert judged
    for row in judged:
        assert list(row["corruptions"]) == ["impulse_noise", "shaded"]
        assert {one["classes"]["1"]["offset"] for one in row["corruptions"].values()} == {
            row["classes"]["1"]["offset"]
        }
    assert callback.ledger[0]["validation_passes"] >= 3, "clean, and under each"


@pytest.mark.parametrize(
    ("guard", "data", "why"),
    [
        ({"fog": 0.1}, images(5, scale=4.0), "images have values from .* name the mean"),
        ({lambda x, g: x.double(): 0.1}, images(5), "corruption '<lambda>' returned float64"),
        ({"fog": 0.1}, DataLoader(TensorDataset(torch.rand(9, 36), torch.ones(9).long())), "are no images"),
    ],
)
def test_what_cannot_be_corrupted_is_refused_before_the_first_batch(guard: Any, data: Any, why: str) -> None:
    callback = ClassAwarePruningCallback(2, {1: 0.4}, guard_dataloader=data, guard=Guard(corruptions=guard))
    module = Seeing()
    before = weights(module)
    with pytest.raises(MisconfigurationException, match=why):
        fit(module, callback, train=images(1), val=images(2))
    assert_same(weights(module), before)
