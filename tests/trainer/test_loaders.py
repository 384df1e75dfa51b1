"""Which samples a loader visits, and a loader like it that visits others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

from lightning_classprune.trainer.loaders import batch_size, rebuilt, visited_indices

TEN = [10 * i for i in range(10)]


@pytest.mark.parametrize(
    ("options", "indices", "repeating"),
    [
        ({}, range(10), ""),
        ({"shuffle": True}, range(10), ""),
        ({"sampler": [7, 2, 5]}, [2, 5, 7], ""),
        ({"sampler": [7, 2, 7]}, [2, 7], "list"),
        ({"sampler": SubsetRandomSampler([8, 1])}, [1, 8], ""),
        ({"sampler": RandomSampler(TEN, num_samples=3)}, range(10), ""),
        ({"sampler": RandomSampler(TEN, replacement=True)}, range(10), "RandomSampler"),
        ({"sampler": WeightedRandomSampler([1.0] * 6, 2)}, range(6), "WeightedRandomSampler"),
        ({"sampler": DistributedSampler(TEN, num_replicas=2, rank=1)}, range(10), ""),
        ({"batch_sampler": [[3, 1], [0]]}, [0, 1, 3], ""),
        ({"batch_sampler": BatchSampler(SequentialSampler(TEN), 4, drop_last=True)}, range(10), ""),
    ],
)
def test_what_a_loader_may_visit(options: dict[str, Any], indices: Any, repeating: str) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert visited_indices(DataLoader(TEN, **options)) == (list(indices), repeating)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"batch_size": 4}, 4),
        ({"batch_size": None}, None),
        ({"batch_sampler": BatchSampler(SequentialSampler(TEN), 3, False)}, 3),
        ({"batch_sampler": [[0, 1]]}, 1),
    ],
)
def test_items_of_a_batch(options: dict[str, Any], size: int | None) -> None:
    assert batch_size(DataLoader(TEN, **options)) == size


def test_a_loader_over_the_same_data_visits_what_it_is_told_in_that_order() -> None:
    made = DataLoader(TEN, batch_size=2, shuffle=True, drop_last=True, collate_fn=tuple, timeout=0)
    assert list(rebuilt(made, [9, 0, 4])) == [(90, 0), (40,)]
    assert rebuilt(made, [1]).dataset is TEN
