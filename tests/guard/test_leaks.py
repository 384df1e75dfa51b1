"""Leaks: samples that the guard has twice, or that others have too, by identity and by content."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset

from lightning_classprune.guard.data import GuardData, shard_guard_data
from lightning_classprune.guard.leaks import check_apart, check_guard, digests, place
from lightning_classprune.trainer.processes import Processes


def dataset(n: int = 40, seed: int = 0) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.randn(n, 6, generator=generator), torch.arange(n) % 2)


def loader(data: Any, **more: Any) -> DataLoader[Any]:
    return DataLoader(data, batch_size=8, **more)


def guard(*loaders: Any) -> GuardData:
    return shard_guard_data(list(loaders), "argument", 0, 1)


ONE = Processes(0, 1)


def check(own: GuardData, *others: Any) -> None:
    check_apart(own, check_guard(own, ONE), others, "training samples", "mend it", ONE)


def test_a_sample_is_told_through_subsets_and_concatenations() -> None:
    first, second = dataset(5), dataset(7, 1)
    both = ConcatDataset([first, second])
    assert place(both, 6) == (id(second), 1)
    assert place(Subset(both, [4, 11, 2]), 1) == (id(second), 6)
    assert place(Subset(Subset(first, [3, 1]), [1]), 0) == (id(first), 1)


@pytest.mark.parametrize("how", ["the same loader twice", "overlapping subsets", "a concatenation"])
def test_a_guard_with_a_sample_twice_is_refused(how: str) -> None:
    data = dataset()
    made = {
        "the same loader twice": [loader(data), loader(data)],
        "overlapping subsets": [loader(Subset(data, range(20))), loader(Subset(data, range(19, 40)))],
        "a concatenation": [loader(ConcatDataset([data, Subset(data, [3])]))],
    }[how]
    with pytest.raises(MisconfigurationException, match="more than once"):
        check_guard(guard(*made), ONE)


def test_disjoint_parts_of_one_data_set_are_a_guard() -> None:
    data = dataset()
    assert (
        len(check_guard(guard(loader(Subset(data, range(20))), loader(Subset(data, range(20, 40)))), ONE))
        == 40
    )


def test_equal_content_within_the_guard_is_said_with_its_count() -> None:
    x, y = dataset().tensors
    with pytest.warns(UserWarning, match="3 of 43 samples equal another"):
        check_guard(guard(loader(TensorDataset(torch.cat((x, x[:3])), torch.cat((y, y[:3]))))), ONE)


def test_training_samples_in_the_guard_are_refused_by_identity() -> None:
    data = dataset()
    own = guard(loader(Subset(data, range(10, 40))))
    with pytest.raises(MisconfigurationException, match="1 guard samples are training samples too: mend it"):
        check(own, loader(Subset(data, range(11)), shuffle=True))
    check(own, loader(Subset(data, range(10)), shuffle=True))


def test_copies_are_refused_by_content() -> None:
    x, y = dataset().tensors
    own = guard(loader(TensorDataset(x, y)))
    other = TensorDataset(torch.cat((dataset(60, 5).tensors[0], x[:5])), torch.zeros(65))
    with pytest.raises(MisconfigurationException, match="5 of 65 training samples"):
        check(own, loader(other))


def test_few_equal_rows_are_said_and_tolerated() -> None:
    x, y = dataset().tensors
    own = guard(loader(TensorDataset(x, y)))
    other = TensorDataset(torch.cat((dataset(400, 5).tensors[0], x[:1])), torch.zeros(401))
    with pytest.warns(UserWarning, match="1 of 401"):
        check(own, loader(other))


def test_other_data_say_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(guard(loader(dataset())), loader(dataset(60, 9), shuffle=True))


def test_digests_are_of_inputs_not_of_targets() -> None:
    x = torch.randn(3, 2, 4)
    assert digests([x, torch.tensor([0, 1, 2])]) == digests([x.clone(), torch.tensor([2, 1, 0])])
    assert digests({"image": x, "label": torch.zeros(3)}) == digests((x, torch.ones(3)))
    assert len(set(digests(torch.tensor([[1.0, 2.0], [1.0, 2.0], [1.0, 3.0]])))) == 2
    assert digests("a text") == []


def test_batches_of_detectors_are_told_by_their_pictures() -> None:
    """A list of pictures and a list of targets, of which equal boxes and masks say nothing."""
    generator = torch.Generator().manual_seed(0)
    pictures = [torch.rand(3, 8 + i, 8, generator=generator) for i in range(3)]
    targets = [{"boxes": torch.zeros(30, 4), "masks": torch.zeros(40, 8, 8)} for _ in pictures]
    found = digests((pictures, targets))
    assert len(set(found)) == 3
    assert digests((pictures[:2], targets[:2])) == digests(
        {"images": tuple(pictures[:2]), "targets": targets[:2]}
    )
    assert digests((pictures[:2], targets[:2])) == found[:2]
    stacked = torch.stack([one[:, :8] for one in pictures])
    assert len(set(digests({"x": stacked, "target": targets, "block": [1, 1, 2]}))) == 3
    assert digests({"target": targets, "block": [1, 1, 2]}) == []


def test_samples_are_found_in_dataclasses_and_where_there_are_none_it_is_said() -> None:
    @dataclass
    class Sample:
        label: Tensor
        image: Tensor

    x, y = dataset().tensors
    assert digests(Sample(y, x)) == digests((x, y)) == digests({"image": x, "label": y})
    assert len(set(digests(Sample(y, x)))) == len(x)
    assert digests(object()) == []
    words = DataLoader(["a", "b"], batch_size=2, collate_fn=lambda items: object())  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match="no tensors are found in its batches"):
        check_guard(guard(words), ONE)
