"""Splits: who goes where."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_classprune.job.data.splits import FRACTIONS, PARTS, renormalised, split_indices


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=300),
    st.lists(st.integers(0, 9), min_size=4, max_size=4).filter(any),
    st.integers(0, 5),
)
def test_every_sample_is_in_exactly_one_part(labels: list[int], shares: list[int], seed: int) -> None:
    fractions = {name: share / sum(shares) for name, share in zip(PARTS, shares, strict=True)}
    y = torch.tensor(labels)
    parts = split_indices(y, fractions, seed)
    assert torch.cat(list(parts.values())).sort().values.tolist() == list(range(len(y)))
    for name, index in parts.items():
        for label in set(labels):
            n = int((y == label).sum())
            assert abs(int((y[index] == label).sum()) - n * fractions[name]) <= 1


@given(st.lists(st.integers(0, 20), min_size=1, max_size=200), st.integers(0, 5))
def test_groups_stay_together(groups: list[int], seed: int) -> None:
    group = torch.tensor(groups)
    parts = split_indices(group % 2, FRACTIONS, seed, group)
    assert torch.cat(list(parts.values())).sort().values.tolist() == list(range(len(group)))
    homes: dict[int, str] = {}
    for name, index in parts.items():
        for value in group[index].tolist():
            assert homes.setdefault(value, name) == name


def test_split_is_seeded() -> None:
    y = torch.arange(100) % 2
    first, again, other = (split_indices(y, FRACTIONS, seed)["guard"] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_bad_fractions_are_named() -> None:
    y = torch.zeros(4, dtype=torch.long)
    with pytest.raises(ValueError, match=r"fractions=.*sum to 1"):
        split_indices(y, {"train": 0.5, "test": 0.4}, 0)
    with pytest.raises(ValueError, match=r"shares must lie in \[0, 1\]"):
        split_indices(y, {"train": 1.5, "test": -0.5}, 0)
    with pytest.raises(ValueError, match="must be positive"):
        renormalised({"train": 0, "val": 0, "test": 1}, ("train", "val"))
    with pytest.raises(ValueError, match="groups has shape"):
        split_indices(y, FRACTIONS, 0, torch.zeros(3, dtype=torch.long))
