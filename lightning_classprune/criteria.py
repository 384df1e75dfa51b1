"""Criteria: functions `(weight, rewind point) -> score`; the weights of smallest score are pruned first.

A criterion gets two tensors of one shape and returns a real tensor of that shape, without NaN. It must be
deterministic: selection calls it several times on the same tensor rather than keep all scores in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Criterion = Callable[[Tensor, Tensor], Tensor]
# Not `str`: a command line must be able to tell a name from the import path of a function.
CriterionName = Literal["magnitude", "magnitude_increase", "random"]


def magnitude(weight: Tensor, rewind_point: Tensor) -> Tensor:
    """|w| (Han et al. 2015, arXiv 1506.02626)."""
    return weight.abs()


def magnitude_increase(weight: Tensor, rewind_point: Tensor) -> Tensor:
    """|w| - |w_0| (Zhou et al. 2019, arXiv 1905.01067; the criterion of Entezari & Saukh 2019)."""
    return weight.abs() - rewind_point.abs()


def random(weight: Tensor, rewind_point: Tensor) -> Tensor:
    """A hash of the weight's bits and its place: a control that looks at no size, the same on every process.

    Hashing (the finalizer of SplitMix64, Steele et al. 2014) instead of drawing keeps the user's random state and the
    determinism that selection needs.
    """
    bits = weight.double().view(torch.int64) + 0x1E3779B97F4A7C15 * torch.arange(
        1, weight.numel() + 1, device=weight.device
    ).view(weight.shape)
    bits = (bits ^ ((bits >> 30) & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    bits = (bits ^ ((bits >> 27) & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return (bits ^ ((bits >> 31) & 0x1FFFFFFFF)).double()


CRITERIA: dict[str, Criterion] = {
    "magnitude": magnitude,
    "magnitude_increase": magnitude_increase,
    "random": random,
}


def resolve_criterion(criterion: str | Criterion) -> Criterion:
    """The function behind a name, or the callable itself.

    Raises:
        ValueError: Unknown name.
    """
    if callable(criterion):
        return criterion
    if not isinstance(criterion, str) or criterion not in CRITERIA:
        raise ValueError(
            f"criterion={criterion!r} is unknown; allowed are {', '.join(map(repr, CRITERIA))} or a callable "
            "(weight, rewind_point) -> scores"
        )
    return CRITERIA[criterion]
