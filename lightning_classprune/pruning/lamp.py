"""LAMP: a weight's square relative to all of its layer that are no smaller (Lee et al. 2021, arXiv 2010.07611).

What the layer would lose with the weight, of what it has left when the weight's turn comes. Layers of all scales have
scores of one scale then, and the largest of each has 1, so that no layer dies long before the others.
"""

from __future__ import annotations

import torch
from torch import Tensor


def lamp(squares: Tensor) -> Tensor:
    """Each square divided by the sum of all squares that are at least as large; 0 where all are 0.

    Sums are of whole numbers, which are exact in any order: the same on every device and in every layout.

    Args:
        squares: Not negative, of all units of one layer, in double precision.

    Returns:
        float32 in [0, 1], which tells squares of float32 weights apart; NaN if a square is infinite or NaN.
    """
    flat = squares.flatten()
    largest = flat.max() if flat.numel() else flat.sum()
    if largest == 0:
        return torch.zeros_like(squares, dtype=torch.float32)
    if not largest.isfinite():
        return torch.full_like(squares, float("nan"), dtype=torch.float32)
    relative = flat / largest
    total = whole(relative, flat.numel()).sum()
    return lamp_of_some(relative, flat.numel(), torch.zeros_like(total), total).reshape(squares.shape)


def one(count: int) -> float:
    """The whole number that stands for the largest square of so many; no sum of them exceeds 63 bits."""
    # No sum is smaller than the largest square: this many binary places are as many digits of each.
    return 2.0 ** (62 - count.bit_length())


def whole(relative: Tensor, count: int) -> Tensor:
    """Squares of `count` units, as shares of the largest in double precision, as whole numbers."""
    return (relative * one(count)).round_().long()


def lamp_of_some(relative: Tensor, count: int, smaller: Tensor, total: Tensor) -> Tensor:
    """The scores of some squares of a layer: of all that lie between two sizes.

    Args:
        relative: Theirs, as shares of the layer's largest, in double precision.
        count: Units of the layer.
        smaller: Sum of the layer's whole numbers that are smaller than all of these.
        total: Sum of all of the layer's whole numbers, more than 0.
    """
    ascending, order = relative.sort()
    parts = whole(ascending, count)
    before = smaller + (parts.cumsum(0) - parts)[torch.searchsorted(ascending, ascending)]
    scores = torch.empty_like(ascending)
    scores[order] = ascending / (total - before) * one(count)
    return scores.float()
