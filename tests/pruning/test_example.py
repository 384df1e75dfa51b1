"""One input of a network, before the first batch of a real fit."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from lightning_classprune.pruning.example import find_example
from lightning_classprune.trainer.randomness import random_state
from tests.support.compare import assert_same
from tests.support.inside import inside_fit
from tests.support.kit import FEATURES, Tiny, dataset, tiny, train_loader

pytestmark = pytest.mark.fit


def found(module: Tiny | None = None, hook: str = "on_train_start", **options: Any) -> Any:
    return inside_fit(lambda trainer, net: find_example(trainer, net), module, hook=hook, **options)


@pytest.mark.parametrize(
    "example", [torch.ones(3, FEATURES), (torch.ones(3, FEATURES),), {"x": torch.ones(1, 8)}]
)
def test_what_the_module_says_goes_before_the_data(example: Any) -> None:
    module = tiny()
    module.example_input_array = example
    assert_same(found(module), example)


@pytest.mark.parametrize("hook", ["on_fit_start", "on_train_start"])
def test_otherwise_it_is_the_input_of_the_first_sample_whatever_the_order(hook: str) -> None:
    """Lightning has made its loaders by `on_train_start`, and has not by `on_fit_start`."""
    assert_same(found(hook=hook), dataset(96, 1).tensors[0][:1])


def test_it_takes_nothing_from_the_training() -> None:
    class Drawing(Dataset[Any]):
        def __len__(self) -> int:
            return 32

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            return torch.randn(FEATURES), index % 2

    def action(trainer: pl.Trainer, module: pl.LightningModule) -> Any:
        before = random_state()
        example = find_example(trainer, module)
        assert_same(random_state(), before)
        return example

    example = inside_fit(action, train=DataLoader(Drawing(), batch_size=8, shuffle=True))
    assert example.shape == (1, FEATURES)
    assert not example.requires_grad


class WholeBatches(Dataset[Any]):
    """Item i is a whole batch."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        return tuple(tensor[8 * index : 8 * (index + 1)] for tensor in dataset(24, 1).tensors)


def test_an_item_may_be_a_whole_batch() -> None:
    example = found(train=DataLoader(WholeBatches(), batch_size=None))
    assert_same(example, dataset(24, 1).tensors[0][:8])


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(dataset(32, 1))


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (lambda: DataLoader(Stream(), batch_size=8), "the training data is a stream"),
        (
            lambda: train_loader(collate_fn=lambda samples: ["text", torch.ones(len(samples)).long()]),
            "the input in a training batch, which is a list, is no tensor but str",
        ),
    ],
)
def test_where_there_is_none_it_is_said_how_to_give_one(train: Any, message: str) -> None:
    def action(trainer: pl.Trainer, module: pl.LightningModule) -> None:
        with pytest.raises(ValueError, match=f"{message}.*set `example_input_array` on the module"):
            find_example(trainer, module)

    module = tiny()
    module.training_step = lambda batch, batch_idx: None  # type: ignore[method-assign]
    inside_fit(action, module, train=train)
