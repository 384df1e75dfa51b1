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
    ascending, order = (flat / largest).sort()
    # No sum is smaller than the largest square, which is 1 here: this many binary places are as many digits of each.
    one = 2.0 ** (62 - flat.numel().bit_length())
    parts = (ascending * one).round().long()
    smaller = (parts.cumsum(0) - parts)[torch.searchsorted(ascending, ascending)]
    scores = torch.empty_like(ascending)
    scores[order] = ascending / (parts.sum() - smaller) * one
    return scores.float().reshape(squares.shape)
