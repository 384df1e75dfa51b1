"""Samples where they must not be, in real fits: refused before the first batch, whatever wraps them."""

from __future__ import annotations

import re
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset, random_split

from tests.support.kit import dataset, fit, plain_pruner, tiny, verdicts

WHOLE = dataset(300, 1)
TRAIN, VAL, GUARD = (range(0, 100), range(100, 160), range(160, 300))


class Wrapped(Dataset[tuple[Tensor, Tensor]]):
    """A data set of the user's own around another one, which nothing outside can look through."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = self.inner[index]
        return x, y


def part(indices: Any, **options: Any) -> DataLoader[Any]:
    return DataLoader(Subset(WHOLE, list(indices)), batch_size=20, **options)


class Count(pl.Callback):
    """Counts training batches."""

    batches = 0

    def on_train_batch_start(self, *_: Any) -> None:
        self.batches += 1


def run(guard: Any, train: Any = None, val: Any = None, **options: Any) -> tuple[Any, int]:
    """The callback, and the number of training batches that were seen."""
    counted = Count()
    callback = plain_pruner(
        guard_dataloader=guard, max_rounds=1, **({"protect": {1: 0.5}, "target_sparsity": 0.5} | options)
    )
    error = None
    try:
        fit(tiny(), callback, counted, train=train or part(TRAIN), val=val or part(VAL), max_epochs=1)
    except MisconfigurationException as caught:
        error = caught
    return error or callback, counted.batches


CHOOSING = {"offset": "validation", "max_fp_rise": 0.5}


@pytest.mark.parametrize(
    ("leak", "said"),
    [
        pytest.param(
            {"guard": lambda: [part(GUARD)] * 2}, "140 samples are in it more than once", id="a loader twice"
        ),
        pytest.param(
            {"guard": lambda: [part(range(160, 240)), part(range(230, 300))]},
            "10 samples are in it more than once",
            id="subsets that overlap",
        ),
        pytest.param(
            {"guard": lambda: DataLoader(ConcatDataset([Subset(WHOLE, list(GUARD)), Subset(WHOLE, [200])]))},
            "1 samples are in it more than once",
            id="a concatenation",
        ),
        pytest.param(
            {"guard": lambda: part(range(99, 300))},
            "guard samples are training samples too",
            id="training samples",
        ),
        pytest.param(
            {"guard": lambda: DataLoader(Wrapped(Subset(WHOLE, list(range(60, 300)))), batch_size=50)},
            "guard sample bit for bit",
            id="training samples behind a wrapper",
        ),
        pytest.param(
            {
                "guard": lambda: DataLoader(
                    TensorDataset(*(t[torch.tensor(range(50, 300))].clone() for t in WHOLE.tensors))
                )
            },
            "guard sample bit for bit",
            id="copies of training samples",
        ),
        pytest.param(
            {"guard": lambda: part(range(150, 300)), **CHOOSING},
            "10 guard samples are validation samples too",
            id="validation samples where validation chooses",
        ),
        pytest.param(
            {"guard": lambda: part(GUARD), "val": lambda: part(GUARD), **CHOOSING},
            "the two are the same|guard samples are validation samples too",
            id="the validation data themselves",
        ),
    ],
)
def test_a_leak_is_refused_before_the_first_batch(leak: dict[str, Any], said: str) -> None:
    made = {name: value() if callable(value) else value for name, value in leak.items()}
    error, batches = run(**made)
    assert isinstance(error, MisconfigurationException)
    assert re.search(said, str(error)), error
    assert batches == 0


def test_parts_of_one_random_split_are_no_leak(recwarn: pytest.WarningsRecorder) -> None:
    train, val, guard = random_split(WHOLE, [100, 60, 140], torch.Generator().manual_seed(1))
    callback, batches = run(
        DataLoader(guard, batch_size=50),
        DataLoader(train, batch_size=20, shuffle=True),
        DataLoader(val, batch_size=60),
        **CHOOSING,
    )
    assert verdicts(callback)[0] == "baseline"
    assert batches == 10
    assert not [w for w in recwarn if "bit for bit" in str(w.message)]


def test_validation_may_be_the_guards_where_it_chooses_nothing() -> None:
    callback, _ = run(part(range(150, 300)))
    assert verdicts(callback)[0] == "baseline"
