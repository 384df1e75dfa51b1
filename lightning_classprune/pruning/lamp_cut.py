"""LAMP cut: the masks that LAMP scores give, without a sort of what is far from the threshold.

Within a layer LAMP scores rise with the size of weights. Sizes fall into bins by the leading bits of their floats, and
how many lie in each bounds its scores. So most weights are above or below the threshold for certain, and exact scores
are needed only of the rest, a few weights in a hundred. The masks are those of all exact scores.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_classprune.pruning.lamp import lamp_of_some, whole
from lightning_classprune.pruning.masks import Masks, at, places_of
from lightning_classprune.pruning.selection import (
    PointwiseScores,
    Scores,
    check_scores,
    still_to_prune,
)

#: Whose bits, as float32, sort like their sizes.
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

_DIGIT = 16  # bits of a float32 within a bin: 128 bins an octave
_BINS = 1 << 15
_CHUNK = 1 << 18
# More than what rounding does to a bound and to a score, and to a score near 0.
_RELATIVE, _ABSOLUTE = 1e-6, 1e-44


def lamp_masks(masks: Masks, scores: Scores, pruned: int) -> Masks | None:
    """Masks in which exactly `pruned` weights are pruned: the old ones and, over all layers, those of smallest score.

    Bit for bit those of `shrink_masks` by the scores that `lamp` gives to what is kept in each layer. Takes four bytes
    for each weight that is kept.

    Args:
        masks: Present masks.
        scores: Gives the sizes of a tensor by name.
        pruned: Number of pruned weights wanted, over all tensors.

    Returns:
        None where scores are of a dtype that is not in `DTYPES`.

    Raises:
        ValueError: As `shrink_masks`.
    """
    count = still_to_prune(masks, pruned)
    # Contiguous, so that a flat index means the same place in masks and in scores.
    shrunk = {name: mask.clone(memory_format=torch.contiguous_format) for name, mask in masks.items()}
    if count == 0:
        return shrunk
    layers: dict[str, _Layer] = {}
    places: dict[str, Tensor] = {}
    for name, mask in masks.items():
        if isinstance(scores, PointwiseScores):
            places[name], found = scores.kept(name, mask)
        else:
            of_all = scores(name)
            check_scores(name, mask, of_all)
            places[name] = places_of(mask)
            found = at(of_all, places[name])
        if found.dtype not in DTYPES:
            return None
        layers[name] = _Layer.of(name, found)
    bounds = {name: layer.bounds() for name, layer in layers.items()}
    low, high = _threshold([layer.counts for layer in layers.values()], list(bounds.values()), count)
    stays: dict[str, Tensor] = {}
    near: dict[str, Tensor] = {}
    exact: dict[str, Tensor] = {}
    for name, layer in layers.items():
        least, most = bounds[name]
        first = int((most < low).sum())
        end = max(int((least <= high).sum()), first)
        stays[name], near[name] = layer.parted(first, end)
        count -= int(layer.counts[:first].sum())
        exact[name] = layer.scores(near[name], first)
        if end == len(layer.bins) and len(exact[name]):
            # Nothing stays for certain: the best, of equal ones the last, keeps the layer alive.
            exact[name][(exact[name] == exact[name].max()).nonzero()[-1]] = torch.inf
    leaves = torch.zeros(
        sum(map(len, exact.values())), dtype=torch.bool, device=next(iter(exact.values())).device
    )
    leaves[torch.cat(list(exact.values())).sort(stable=True).indices[:count]] = True
    for name, gone in zip(exact, torch.split(leaves, [len(one) for one in exact.values()]), strict=True):
        stays[name][near[name][gone]] = False
        shrunk[name].view(-1).index_fill_(0, places[name][~stays[name]], False)
    return shrunk


@dataclass(frozen=True)
class _Layer:
    """The kept weights of one layer.

    Attributes:
        sizes: Theirs, in the order of flat indices.
        largest: Their largest square, in double precision; 0 where there are none.
        bins: Those in which some lie, ascending.
        counts: How many lie in each of these.
    """

    sizes: Tensor
    largest: Tensor
    bins: Tensor
    counts: Tensor

    @classmethod
    def of(cls, name: str, scores: Tensor) -> _Layer:
        sizes = scores.abs().float()
        counts = torch.zeros(_BINS, dtype=torch.int64, device=sizes.device)
        largest = (sizes.max() if len(sizes) else sizes.sum()).double().square()
        if not bool(largest.isfinite()):
            raise ValueError(f"criterion: a score of `{name}` is infinite or NaN; scores must be comparable")
        for piece in torch.split(sizes, _CHUNK):
            counts += torch.bincount(_bins(piece), minlength=_BINS)
        bins = counts.nonzero().view(-1)
        return cls(sizes, largest, bins, counts[bins])

    def bounds(self) -> tuple[Tensor, Tensor]:
        """No score of a bin is below the one or above the other; both rise."""
        if not self.largest:  # all scores are 0, the largest too
            far = torch.full_like(self.counts, torch.inf, dtype=torch.float64)
            return -far, far
        bins = self.bins.int() << _DIGIT
        lower, upper = (
            (end.view(torch.float32).double().square() / self.largest).clamp(max=1).nan_to_num(1.0)
            for end in (bins, bins + ((1 << _DIGIT) - 1))
        )
        # What a square is divided by, as a share of the largest: that, all in bins above, and some of its own bin.
        above = self.counts * lower
        least = (above.sum() - above.cumsum(0)).clamp(min=1)
        among = self.counts * upper
        most = (among.sum() - among.cumsum(0) + among).clamp(min=1)
        return (
            lower / most * (1 - _RELATIVE) - _ABSOLUTE,
            upper / least * (1 + _RELATIVE) + _ABSOLUTE,
        )

    def parted(self, first: int, end: int) -> tuple[Tensor, Tensor]:
        """Which weights lie in no bin before the first, and where those in bins before the end are among them all."""
        bins = _bins(self.sizes)
        stays = bins >= self._bin(first)
        return stays, (stays & (bins < self._bin(end))).nonzero().view(-1)

    def scores(self, places: Tensor, first: int) -> Tensor:
        """The scores of all that lie in some of the bins, of which this is the first."""
        sizes = self.sizes[places]
        if not self.largest or not len(sizes):
            return torch.zeros_like(sizes)
        count = len(self.sizes)
        total = torch.zeros((), dtype=torch.int64, device=sizes.device)
        smaller, bin_ = total.clone(), self._bin(first)
        for piece in torch.split(self.sizes, _CHUNK):
            parts = whole(piece.double().square_().div_(self.largest), count)
            total += parts.sum()
            smaller += parts.masked_fill_(_bins(piece) >= bin_, 0).sum()
        return lamp_of_some(sizes.double().square() / self.largest, count, smaller, total)

    def _bin(self, number: int) -> int:
        return int(self.bins[number]) if number < len(self.bins) else _BINS


def _bins(sizes: Tensor) -> Tensor:
    return sizes.view(torch.int32) >> _DIGIT


def _threshold(counts: list[Tensor], bounds: list[tuple[Tensor, Tensor]], count: int) -> tuple[float, float]:
    """Between which scores the count-th smallest lies, of all but the best of each layer, which are never pruned."""
    sizes, found = torch.cat(counts), list[float]()
    for side, place in ((0, count), (1, count + len(counts))):
        ascending, order = torch.cat([both[side] for both in bounds]).sort()
        at = int(torch.searchsorted(sizes[order].cumsum(0), place))
        found.append(float(ascending[at]) if at < len(ascending) else torch.inf)
    return found[0], found[1]
