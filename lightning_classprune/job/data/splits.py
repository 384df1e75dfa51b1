"""Where each sample goes: train, validation, guard or test. Pure functions of labels, fractions and a seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

PARTS = ("train", "val", "guard", "test")
FRACTIONS: Mapping[str, float] = MappingProxyType({"train": 0.50, "val": 0.10, "guard": 0.25, "test": 0.15})


def split_indices(
    labels: Tensor, fractions: Mapping[str, float], seed: int, groups: Tensor | None = None
) -> dict[str, Tensor]:
    """Cut samples into disjoint parts that all have the class shares of the whole.

    Args:
        labels: `(N,)` class indices >= 0.
        fractions: part name to its share; shares >= 0 that sum to 1.
        seed: the same seed gives the same parts on every machine.
        groups: `(N,)` integers; samples of one group (crops of one photograph, images of one patient) stay
            together. A group counts as its most frequent class. Default: every sample is its own group.

    Returns:
        For each name in `fractions` the ascending sample indices, int64. A class of n samples (groups of equal
        size) gets the rounded n * fraction of them.

    Raises:
        ValueError: `fractions` has a share outside [0, 1] or does not sum to 1, or shapes differ.
    """
    check_fractions(fractions)
    y = labels.numpy()
    group = np.arange(len(y)) if groups is None else np.unique(groups.numpy(), return_inverse=True)[1]
    if group.shape != y.shape:
        raise ValueError(f"groups has shape {group.shape}, labels {y.shape}; they must be equal")
    sizes = np.bincount(group)
    kind = _most_frequent_class(y, group)
    rng = np.random.default_rng(seed)
    edges = np.cumsum(list(fractions.values()))[:-1]
    part_of_group = np.empty(len(sizes), np.int64)
    for label in np.unique(kind):
        members = rng.permutation(np.flatnonzero(kind == label))
        ends = np.cumsum(sizes[members])
        middles = (ends - sizes[members] / 2) / ends[-1]
        part_of_group[members] = np.searchsorted(edges, middles, side="right")
    part = part_of_group[group]
    return {name: torch.from_numpy(np.flatnonzero(part == k)) for k, name in enumerate(fractions)}


def check_fractions(fractions: Mapping[str, float]) -> None:
    """Raise ValueError unless the shares lie in [0, 1] and sum to 1."""
    if any(not 0 <= share <= 1 for share in fractions.values()) or not math.isclose(
        sum(fractions.values()), 1, abs_tol=1e-6
    ):
        raise ValueError(f"fractions={dict(fractions)}: shares must lie in [0, 1] and sum to 1")


def renormalised(fractions: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    """Return the shares of `names` alone, scaled to sum to 1.

    Raises:
        ValueError: none of them has a positive share.
    """
    total = sum(fractions[name] for name in names)
    if total <= 0:
        raise ValueError(f"fractions={dict(fractions)}: one of {list(names)} must be positive")
    return {name: fractions[name] / total for name in names}


def _most_frequent_class(y: np.ndarray, group: np.ndarray) -> np.ndarray:
    counts = np.zeros((group.max(initial=-1) + 1, y.max(initial=0) + 1), np.int64)
    np.add.at(counts, (group, y), 1)
    kinds: np.ndarray = counts.argmax(axis=1)
    return kinds
