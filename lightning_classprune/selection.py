"""Exact selection of the weights to prune, in memory bounded by the largest tensor.

The k-th smallest score over all tensors is found by a radix search on the bit patterns of the floats: 16 bits a pass,
one histogram of 65,536 counts in memory. Scores are computed again in every pass instead of being kept.
Ties are broken by place (tensor order, then flat index), so the number pruned is always the number asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, Protocol

import torch
from torch import Tensor

from lightning_classprune.masks import Masks

Scores = Callable[[str], Tensor]
Scope = Literal["global", "layer"]

_DIGIT = 16
_BINS = 1 << _DIGIT
# Weights looked at together; bounds the working memory to a few tens of megabytes whatever the tensor's size.
_CHUNK = 1 << 21


class Shards(Protocol):
    """The processes over which tensors are sharded along their flat index, in the order of ranks."""

    rank: int

    def gather(self, tensor: Tensor) -> Tensor:
        """The tensors of all ranks, stacked along a new first dimension."""
        ...


class Unsharded:
    """One process that holds everything."""

    rank = 0

    def gather(self, tensor: Tensor) -> Tensor:
        """The tensor with a leading dimension of size 1."""
        return tensor.unsqueeze(0)


def shrink_masks(
    masks: Masks, scores: Scores, pruned: int, scope: Scope, shards: Shards | None = None
) -> Masks:
    """Masks in which exactly `pruned` weights are pruned: the old ones and those of smallest score.

    Every tensor keeps at least its best weight, so that no layer dies.

    Args:
        masks: Present masks (local shards).
        scores: Gives the scores of a tensor by name: real, same shape as its mask.
        pruned: Number of pruned weights wanted, over all tensors and shards.
        scope: `"global"`: one threshold for all; `"layer"`: the same sparsity in every tensor, up to rounding.
        shards: Where the rest of each tensor lives, for sharded models.

    Raises:
        ValueError: Fewer weights are pruned than before, more than the floor of one a tensor allows, or a score
            is NaN or of the wrong shape.
    """
    shards = shards or Unsharded()
    names = list(masks)
    kept, sizes = _counts(masks, shards)
    already = [n - k for n, k in zip(sizes, kept, strict=True)]
    room = sum(sizes) - sum(n > 0 for n in sizes)
    if not sum(already) <= pruned <= room:
        raise ValueError(f"cannot have {pruned} weights pruned: it must be from {sum(already)} to {room}")
    if scope == "global":
        return _prune_smallest(masks, names, scores, pruned - sum(already), shards)
    shrunk: Masks = {}
    for name, old, new in zip(names, already, layer_quotas(sizes, already, pruned), strict=True):
        shrunk |= _prune_smallest(masks, [name], scores, new - old, shards)
    return shrunk


def layer_quotas(sizes: list[int], already: list[int], pruned: int) -> list[int]:
    """Pruned weights per tensor that sum to `pruned`, as proportional to size as whole numbers can be.

    Largest remainders, within [already pruned, size - 1] for each tensor.
    """
    total = sum(sizes)
    bounds = [(low, max(size - 1, 0)) for low, size in zip(already, sizes, strict=True)]
    quotas = [
        min(max(pruned * size // total, low), high) for size, (low, high) in zip(sizes, bounds, strict=True)
    ]
    step = 1 if sum(quotas) < pruned else -1
    while sum(quotas) != pruned:
        # Numerator of (ideal - quota): exact integers, so that equal remainders are equal.
        wanting = [
            (step * (pruned * size - quota * total), -i)
            for i, (size, quota) in enumerate(zip(sizes, quotas, strict=True))
        ]
        movable = [
            w for w, q, (low, high) in zip(wanting, quotas, bounds, strict=True) if low <= q + step <= high
        ]
        quotas[-max(movable)[1]] += step
    return quotas


def _counts(masks: Masks, shards: Shards) -> tuple[list[int], list[int]]:
    device = next(iter(masks.values())).device
    counts = torch.tensor([[int(m.sum()), m.numel()] for m in masks.values()], device=device)
    kept, sizes = shards.gather(counts).sum(0).T.tolist()
    return kept, sizes


def _prune_smallest(masks: Masks, names: list[str], scores: Scores, count: int, shards: Shards) -> Masks:
    if count == 0:
        return {name: masks[name].clone() for name in names}
    # Keys of 64 bits only where a score needs them: they cost twice the passes.
    bits = 64 if any(scores(name).dtype == torch.float64 for name in names) else 32
    eligible = _without_best(masks, names, scores, bits, shards)
    threshold, ties = _kth_smallest(eligible, scores, bits, count, shards)
    quota = _tie_quota(eligible, scores, bits, threshold, ties, shards)
    kept = {name: masks[name].clone() for name in names}
    for name in names:
        flat, left = kept[name].view(-1), quota[name]
        for start, candidates, keys in _chunks(name, eligible[name], scores, bits):
            out = candidates & (keys < threshold)
            if left:
                tied = (candidates & (keys == threshold)).nonzero().view(-1)[:left]
                out[tied] = True
                left -= tied.numel()
            flat[start : start + out.numel()] &= ~out
    return kept


def _without_best(masks: Masks, names: list[str], scores: Scores, bits: int, shards: Shards) -> Masks:
    """Kept weights that may be pruned: all but the best one of each tensor."""
    best = []
    for name in names:
        key, index = torch.iinfo(torch.int64).min, -1
        for start, candidates, keys in _chunks(name, masks[name], scores, bits):
            inside = candidates.nonzero().view(-1)
            if inside.numel():
                top = keys[inside].max(0)
                if int(top.values) > key or index < 0:
                    key, index = int(top.values), start + int(inside[top.indices])
        best.append([index >= 0, key, index])
    device = masks[names[0]].device
    everyone = shards.gather(torch.tensor(best, device=device)).cpu()
    eligible = {name: masks[name].clone() for name in names}
    for i, name in enumerate(names):
        holders = [r for r in range(len(everyone)) if everyone[r, i, 0]]
        if holders and max(holders, key=lambda r: (int(everyone[r, i, 1]), -r)) == shards.rank:
            eligible[name].view(-1)[int(everyone[shards.rank, i, 2])] = False
    return eligible


def _kth_smallest(eligible: Masks, scores: Scores, bits: int, count: int, shards: Shards) -> tuple[int, int]:
    """The key of the count-th smallest score, and how many weights with exactly that key belong to the smallest."""
    device = next(iter(eligible.values())).device
    base = -(1 << (_DIGIT - 1))
    for shift in range(bits - _DIGIT, -1, -_DIGIT):
        histogram = torch.zeros(_BINS, dtype=torch.int64, device=device)
        for name, mask in eligible.items():
            for _, candidates, keys in _chunks(name, mask, scores, bits):
                digits = (keys >> shift) - base
                inside = candidates & (digits >= 0) & (digits < _BINS)
                histogram += torch.bincount(digits[inside], minlength=_BINS)
        below = shards.gather(histogram).sum(0).cumsum(0)
        digit = int(torch.searchsorted(below, count))
        count -= int(below[digit - 1]) if digit else 0
        base = (base + digit) << _DIGIT if shift else base + digit
    return base, count


def _tie_quota(
    eligible: Masks, scores: Scores, bits: int, threshold: int, ties: int, shards: Shards
) -> dict[str, int]:
    """How many of this process' tied weights are pruned, by tensor: in tensor order, then in order of ranks."""
    mine = [
        sum(int((c & (k == threshold)).sum()) for _, c, k in _chunks(name, mask, scores, bits))
        for name, mask in eligible.items()
    ]
    device = next(iter(eligible.values())).device
    everyone = shards.gather(torch.tensor(mine, device=device)).cpu()
    before = everyone.T.reshape(-1).cumsum(0).reshape(len(mine), -1).T - everyone
    left = (ties - before[shards.rank]).clamp(min=0).tolist()
    return {name: min(n, room) for name, n, room in zip(eligible, mine, left, strict=True)}


def _chunks(name: str, mask: Tensor, scores: Scores, bits: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Pieces of a tensor: start, mask, and integer keys that sort like the scores."""
    values = scores(name)
    if values.shape != mask.shape or values.is_complex():
        raise ValueError(
            f"criterion: scores of `{name}` have shape {tuple(values.shape)} and dtype {values.dtype}; "
            f"a real tensor of shape {tuple(mask.shape)} is needed"
        )
    flat, flat_mask = values.detach().reshape(-1), mask.reshape(-1)
    for start in range(0, flat.numel(), _CHUNK):
        piece = flat[start : start + _CHUNK]
        if torch.isnan(piece).any():
            raise ValueError(f"criterion: a score of `{name}` is NaN; scores must be comparable")
        yield start, flat_mask[start : start + _CHUNK], _sortable(piece, bits)


def _sortable(values: Tensor, bits: int) -> Tensor:
    """Integers in the order of the floats; -0.0 and 0.0 are one number.

    IEEE floats of one sign sort like their bit patterns; for negative ones the order is reversed.
    """
    floating, integer = (torch.float64, torch.int64) if bits == 64 else (torch.float32, torch.int32)
    patterns = (values.to(floating) + 0.0).view(integer)
    return patterns ^ ((patterns >> (bits - 1)) & torch.iinfo(integer).max)
