"""Exact selection of the weights to prune, in memory bounded by the largest tensor.

The k-th smallest score over all tensors is found by a radix search on the bit patterns of the floats: 16 bits a pass,
one histogram of 65,536 counts in memory. Scores are computed again in every pass instead of being kept.
Ties are broken by place (tensor order, then flat index), so the number pruned is always the number asked for.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil, floor
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from lightning_classprune.pruning.masks import Masks

Scores = Callable[[str], Tensor]
Scope = Literal["global", "layer"]

_DIGIT = 16
_BINS = 1 << _DIGIT
# What float32 cannot hold; whole numbers are told apart up to 2**53.
_WIDE = (torch.float64, torch.int64, torch.int32)
# Weights looked at together; bounds the working memory to a few megabytes whatever the tensor's size.
_CHUNK = 1 << 18


@runtime_checkable
class PointwiseScores(Protocol):
    """Scores of weights that depend on no other weight: those of a few need not take a pass over all."""

    def __call__(self, name: str) -> Tensor:
        """The scores of a tensor by name, in its shape."""
        ...

    def kept(self, name: str, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Flat indices of what a mask keeps of a tensor, ascending, and the scores there."""
        ...


class Shards(Protocol):
    """The processes over which tensors are sharded along their flat index, in the order of ranks."""

    @property
    def rank(self) -> int:
        """Place of this process among them."""
        ...

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
    more = still_to_prune(masks, pruned, shards)
    if scope == "global":
        return _prune_smallest(masks, scores, more, shards)
    kept, sizes = _counts(masks, shards)
    already = [n - k for n, k in zip(sizes, kept, strict=True)]
    shrunk: Masks = {}
    for name, old, new in zip(masks, already, layer_quotas(sizes, already, pruned), strict=True):
        shrunk |= _prune_smallest({name: masks[name]}, scores, new - old, shards)
    return shrunk


def still_to_prune(masks: Masks, pruned: int, shards: Shards | None = None) -> int:
    """How many more weights are to be pruned; the arguments are those of `shrink_masks`.

    Raises:
        ValueError: So many cannot be pruned.
    """
    kept, sizes = _counts(masks, shards or Unsharded())
    already = [n - k for n, k in zip(sizes, kept, strict=True)]
    room = sum(high for _, high in _bounds(sizes, already))
    if not sum(already) <= pruned <= room:
        raise ValueError(f"cannot have {pruned} weights pruned: it must be from {sum(already)} to {room}")
    return pruned - sum(already)


def check_scores(name: str, mask: Tensor, scores: Tensor) -> None:
    """Refuse scores that are none of the mask's weights.

    Raises:
        ValueError: They are of another shape, or complex.
    """
    if scores.shape != mask.shape or scores.is_complex():
        raise ValueError(
            f"criterion: scores of `{name}` have shape {tuple(scores.shape)} and dtype {scores.dtype}; "
            f"a real tensor of shape {tuple(mask.shape)} is needed"
        )


def layer_quotas(sizes: list[int], already: list[int], pruned: int) -> list[int]:
    """Pruned weights per tensor that sum to `pruned`: one sparsity for all, as far as whole numbers can be.

    Largest remainders (of equal ones the first), within [already pruned, size - 1] for each tensor.
    """
    bounds = _bounds(sizes, already)

    def ideals(level: Fraction) -> list[Fraction]:
        return [
            min(max(level * size, Fraction(low)), Fraction(high))
            for size, (low, high) in zip(sizes, bounds, strict=True)
        ]

    # Between these levels no tensor comes to a bound, so the sum of the ideals is a straight line.
    levels = sorted(
        {Fraction(b, size) for size, both in zip(sizes, bounds, strict=True) for b in both if size}
    )
    i = bisect_right(levels, pruned, key=lambda level: ceil(sum(ideals(level), Fraction())))
    level = levels[i - 1]
    if i < len(levels):
        start, end = sum(ideals(level), Fraction()), sum(ideals(levels[i]), Fraction())
        level += (levels[i] - level) * (pruned - start) / (end - start)
    wanted = ideals(level)
    quotas = [floor(q) for q in wanted]
    by_remainder = sorted(range(len(sizes)), key=lambda i: quotas[i] - wanted[i])
    for i in by_remainder[: pruned - sum(quotas)]:
        quotas[i] += 1
    return quotas


def _bounds(sizes: list[int], already: list[int]) -> list[tuple[int, int]]:
    """Fewest and most weights that may be pruned, by tensor."""
    return [(low, max(size - 1, low)) for size, low in zip(sizes, already, strict=True)]


def _counts(masks: Masks, shards: Shards) -> tuple[list[int], list[int]]:
    device = next(iter(masks.values())).device
    counts = torch.tensor([[int(m.count_nonzero()), m.numel()] for m in masks.values()], device=device)
    kept, sizes = shards.gather(counts).sum(0).T.tolist()
    return kept, sizes


@dataclass(frozen=True)
class _Candidates:
    """Kept weights that may be pruned, read piece by piece so that no copy of a whole model is made.

    Attributes:
        masks: Kept weights by tensor.
        scores: Scores by tensor.
        bits: Width of the sortable keys.
        spared: Flat index of the weight that keeps a tensor alive, where this process holds it.
    """

    masks: Masks
    scores: Scores
    bits: int
    spared: dict[str, int]

    def pieces(self, name: str) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Pieces of a tensor: start, which weights are candidates, and integer keys that sort like the scores."""
        mask, values = self.masks[name], self.scores(name)
        check_scores(name, mask, values)
        flat, flat_mask, spared = values.detach().reshape(-1), mask.reshape(-1), self.spared.get(name, -1)
        for start in range(0, flat.numel(), _CHUNK):
            piece, candidates = flat[start : start + _CHUNK], flat_mask[start : start + _CHUNK]
            if torch.isnan(piece).any():
                raise ValueError(f"criterion: a score of `{name}` is NaN; scores must be comparable")
            if start <= spared < start + _CHUNK:
                candidates = candidates.clone()
                candidates[spared - start] = False
            yield start, candidates, _sortable(piece, self.bits)


def _prune_smallest(masks: Masks, scores: Scores, count: int, shards: Shards) -> Masks:
    # Contiguous, so that a flat index means the same place in masks and in scores.
    kept = {name: mask.clone(memory_format=torch.contiguous_format) for name, mask in masks.items()}
    if count == 0:
        return kept
    # Keys of 64 bits only where a score needs them: they cost twice the passes.
    bits = 64 if any(scores(name).dtype in _WIDE for name in masks) else 32
    candidates = _Candidates(masks, scores, bits, {})
    candidates = replace(candidates, spared=_best(candidates, shards))
    threshold, ties = _kth_smallest(candidates, count, shards)
    quota = _tie_quota(candidates, threshold, ties, shards)
    for name, mask in kept.items():
        flat, left = mask.view(-1), quota[name]
        for start, eligible, keys in candidates.pieces(name):
            out = eligible & (keys < threshold)
            if left:
                tied = (eligible & (keys == threshold)).nonzero().view(-1)[:left]
                out[tied] = True
                left -= tied.numel()
            flat[start : start + out.numel()] &= ~out
    return kept


def _best(candidates: _Candidates, shards: Shards) -> dict[str, int]:
    """Flat index of the best weight (of equal ones the last) of each tensor, where this process holds it."""
    names, mine = list(candidates.masks), []
    for name in names:
        key, index = torch.iinfo(torch.int64).min, -1
        for start, eligible, keys in candidates.pieces(name):
            if eligible.any() and (top := int(keys[eligible].max())) >= key:
                key, index = top, start + int((eligible & (keys == top)).nonzero()[-1])
        mine.append([index >= 0, key, index])
    everyone = shards.gather(torch.tensor(mine, device=_device(candidates))).cpu()
    best: dict[str, int] = {}
    for i, name in enumerate(names):
        holders = [r for r in range(len(everyone)) if everyone[r, i, 0]]
        if holders and max(holders, key=lambda r: (int(everyone[r, i, 1]), r)) == shards.rank:
            best[name] = int(everyone[shards.rank, i, 2])
    return best


def _kth_smallest(candidates: _Candidates, count: int, shards: Shards) -> tuple[int, int]:
    """The key of the count-th smallest score, and how many weights with exactly that key belong to the smallest."""
    base = -(1 << (_DIGIT - 1))
    for shift in range(candidates.bits - _DIGIT, -1, -_DIGIT):
        histogram = torch.zeros(_BINS, dtype=torch.int64, device=_device(candidates))
        for name in candidates.masks:
            for _, eligible, keys in candidates.pieces(name):
                digits = (keys >> shift) - base
                inside = eligible & (digits >= 0) & (digits < _BINS)
                histogram += torch.bincount(digits[inside], minlength=_BINS)
        below = shards.gather(histogram).sum(0).cumsum(0)
        digit = int(torch.searchsorted(below, count))
        count -= int(below[digit - 1]) if digit else 0
        base = (base + digit) << _DIGIT if shift else base + digit
    return base, count


def _tie_quota(candidates: _Candidates, threshold: int, ties: int, shards: Shards) -> dict[str, int]:
    """How many of this process' tied weights are pruned, by tensor: in tensor order, then in order of ranks."""
    mine = [
        sum(int((eligible & (keys == threshold)).sum()) for _, eligible, keys in candidates.pieces(name))
        for name in candidates.masks
    ]
    everyone = shards.gather(torch.tensor(mine, device=_device(candidates))).cpu()
    before = everyone.T.reshape(-1).cumsum(0).reshape(len(mine), -1).T - everyone
    left = (ties - before[shards.rank]).clamp(min=0).tolist()
    return {name: min(n, room) for name, n, room in zip(candidates.masks, mine, left, strict=True)}


def _device(candidates: _Candidates) -> torch.device:
    return next(iter(candidates.masks.values())).device


def _sortable(values: Tensor, bits: int) -> Tensor:
    """Integers in the order of the floats; -0.0 and 0.0 are one number.

    IEEE floats of one sign sort like their bit patterns; for negative ones the order is reversed.
    """
    floating, integer = (torch.float64, torch.int64) if bits == 64 else (torch.float32, torch.int32)
    patterns = (values.to(floating) + 0.0).view(integer)
    return patterns ^ ((patterns >> (bits - 1)) & torch.iinfo(integer).max)
