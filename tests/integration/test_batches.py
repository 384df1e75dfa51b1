"""Batches that are no pairs, and outputs that are no tensors, through a whole fit."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from tests.support.kit import Tiny, dataset, fit, pruner, trainer, verdicts
from tests.support.witness import log_messages


class Samples(Dataset[Any]):
    def __init__(self, n: int, seed: int, name: str = "image") -> None:
        self.data, self.name = dataset(n, seed), name

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        x, y = self.data[index]
        return {self.name: x, "label": y, "path": f"{index}.png"}


class Model(Tiny):
    """Takes and gives what a module around a foreign model takes and gives."""

    def forward(self, x: Tensor) -> Any:
        return SimpleNamespace(loss=None, logits=self.net(x))

    def loss(self, batch: Any) -> Tensor:
        return cross_entropy(self(batch["image"]).logits, batch["label"])


def loader(n: int, seed: int, **options: Any) -> DataLoader[Any]:
    return DataLoader(Samples(n, seed, **options), batch_size=20)


def test_a_run_over_mappings() -> None:
    callback = pruner(
        max_rounds=1, confidence=0.95, protect={1: 0.9}, judging="end", guard_dataloader=loader(80, 3)
    )
    with log_messages() as said:
        made = fit(Model(), callback, train=loader(40, 1), val=loader(40, 2), max_epochs=1)
    assert verdicts(callback) == ["baseline", "accepted"]
    assert "predict: batches are read as scores = module(batch['image']), target = batch['label']" in said
    assert "classprune/recall/1" in made.callback_metrics


def test_a_copy_of_training_samples_is_found_in_them_too() -> None:
    with pytest.raises(MisconfigurationException, match="40 of 40 training samples"):
        fit(Model(), pruner(guard_dataloader=loader(40, 1)), train=loader(40, 1), val=loader(40, 2))


def test_names_that_nobody_knows_are_refused_before_the_first_batch() -> None:
    made = trainer(callback := pruner(guard_dataloader=loader(40, 3, name="scan")))
    with pytest.raises(
        MisconfigurationException, match=r"scan: float32 \(20, 8\), label: int64 .* predict=lambda"
    ):
        made.fit(Model(), loader(40, 1), loader(40, 2))
    assert made.global_step == 0
    assert callback.ledger == []


def test_a_network_that_takes_its_input_by_name_is_refused_before_the_first_batch() -> None:
    class Named(Model):
        def forward(self, *, image: Tensor) -> Any:
            return super().forward(image)

    made = trainer(pruner(guard_dataloader=loader(40, 3)))
    with pytest.raises(
        MisconfigurationException, match=r"raised TypeError.*module\(image=batch\['image'\]\)"
    ):
        made.fit(Named(), loader(40, 1), loader(40, 2))
    assert made.global_step == 0
