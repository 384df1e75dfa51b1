"""Gradient moments: what a weight's own gradients in training say of what it would cost to prune it.

|w| sqrt(E[g^2]) is, up to a constant and a square, the rise of the loss by the diagonal Fisher information (Optimal
Brain Damage, LeCun et al. 1990; Theis et al. 2018, arXiv 1801.05787). The gradients are those of the training's own
steps, so they cost no pass of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_classprune.pruning.masks import Masks, at, places_of
from lightning_classprune.pruning.scoring import Scoring
from lightning_classprune.trainer.horizon import steps_per_epoch
from lightning_classprune.trainer.sharding import Sharding

#: Optimizer steps that the running mean looks back on: an epoch, within these.
FEWEST, MOST = 20, 50
#: After so many times that, 2% of the mean are older: no earlier step needs to be heard.
TIMES = 4
#: On a CPU, a tensor of which a mask keeps no larger share is followed where it is kept only: a fetch of each weight
#: costs as much as three passes, and an index eight bytes.
FEW = 1 / 4


def sensitivity(weight: Tensor, mean_square: Tensor) -> Tensor:
    """|w| sqrt(E[g^2])."""
    return mean_square.to(weight.device).sqrt() * weight.abs()


def is_few(mask: Tensor) -> bool:
    """Whether a mask keeps so little of a tensor that only this is worth looking at."""
    return int(mask.count_nonzero()) <= FEW * mask.numel()


def usual_size(mean_squares: Iterable[Tensor], sharding: Sharding) -> float:
    """Mean size of the gradients that are not zero, over all weights and processes; 1 if there are none.

    Args:
        mean_squares: E[g^2] of every parameter, this process' pieces in a sharded model.
        sharding: How they are spread over the processes, which all call this.
    """
    total, count = 0.0, 0
    for mean in mean_squares:
        total += float(mean.sqrt().sum(dtype=torch.float64))
        count += int(torch.count_nonzero(mean))
    shares = sharding.processes.gather_objects((total, count)) if sharding else [(total, count)]
    total, count = sum(share[0] for share in shares), sum(share[1] for share in shares)
    return total / count if count else 1.0


class GradientMoments:
    """A criterion that listens: |w| sqrt(E[g^2]), by a running mean over the steps that trained the weights.

    A weight whose gradient was never seen, because it is frozen, counts as if it had gradients of the usual size: it is
    compared with the others by its own size, neither the first to be pruned nor the last.

    Attributes:
        places: Flat indices of what is followed of a tensor, ascending; of one that is not named, everything.
    """

    def __init__(self) -> None:
        self.places: dict[str, Tensor] = {}
        self._masks: Masks = {}  # what is held while this training is heard
        self._settled = True  # the places are theirs
        self._look_back = MOST
        self._means: dict[str, Tensor] = {}  # running, too small by what the first steps lack; at the places
        self._steps: dict[str, int] = {}
        self._usual = 1.0

    @property
    def memory(self) -> int:
        """Optimizer steps before a cut that matter to it."""
        return TIMES * self._look_back

    def observe(self, gradients: Mapping[str, Tensor]) -> None:
        """See `ListeningCriterion.observe`; of tensors that have `places`, the gradients there."""
        means = []
        for name, gradient in gradients.items():
            dtype = torch.promote_types(gradient.dtype, torch.float32)
            mean = self._means.get(name)
            if mean is None:
                mean = torch.zeros_like(gradient, dtype=dtype)
            self._means[name] = mean = mean.to(gradient.device)  # a loaded state is on the CPU
            self._steps[name] = self._steps.get(name, 0) + 1
            means.append(mean)
        if means:
            wide = [gradient.to(mean.dtype) for gradient, mean in zip(gradients.values(), means, strict=True)]
            torch._foreach_mul_(means, self._decay)
            torch._foreach_addcmul_(means, wide, wide, value=1 - self._decay)
        self._narrow()

    def keep(self, masks: Masks) -> None:
        """Weights are held at zero from now on: their gradients are zero and no cut asks for them again.

        Args:
            masks: Those before, or with less of them kept.
        """
        self._masks, self._settled = masks, False
        self._narrow()

    def kept(self, name: str, mask: Tensor) -> Tensor:
        """Flat indices of what a mask keeps of a tensor, ascending."""
        if name in self.places and self._masks.get(name) is mask:
            return self.places[name]
        return places_of(mask)

    def prepare(self, scoring: Scoring) -> None:
        """Settle how far the mean looks back, and what stands for the gradients that were never seen."""
        epoch = steps_per_epoch(scoring.trainer)
        self._look_back = MOST if epoch is None else min(max(epoch, FEWEST), MOST)
        if scoring.parameters.keys() - self._means.keys():
            means = (self._unbiased(mean, name) for name, mean in self._means.items())
            self._usual = usual_size(means, scoring.sharding)

    def score(self, name: str, weight: Tensor, rewind_point: Tensor) -> Tensor:
        """See `PreparedCriterion.score`."""
        if name not in self._means:
            return weight.abs() * self._usual
        return sensitivity(weight, self._unbiased(self._whole(name), name))

    def score_at(self, name: str, weight: Tensor, places: Tensor) -> Tensor:
        """The scores of some weights alone.

        Args:
            name: Of the parameter.
            weight: Their values.
            places: Their flat indices.
        """
        if name not in self._means:
            return weight.abs() * self._usual
        followed = places is self.places.get(name)
        mean = self._means[name] if followed else at(self._whole(name), places)
        return sensitivity(weight, self._unbiased(mean, name))

    @property
    def has_heard(self) -> bool:
        """Whether there was a gradient since its state was last set to the first one."""
        return bool(self._steps)

    def state_dict(self) -> dict[str, Any]:
        """The running means, on the CPU, and how many steps each has seen."""
        return {
            "means": {name: self._whole(name).to("cpu", copy=True) for name in self._means},
            "steps": dict(self._steps),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self._means, self._steps = dict(state["means"]), dict(state["steps"])
        self.places, self._masks, self._settled = {}, {}, True  # it may be that of another round

    @property
    def _decay(self) -> float:
        return 1 - 1 / self._look_back

    def _narrow(self) -> None:
        """Follow what is kept only, once all weights were heard: until then the usual size is that of all of them."""
        if self._settled or not self._masks.keys() <= self._means.keys():
            return
        self._settled = True
        for name, mask in self._masks.items():
            mean, before = self._means[name], self.places.get(name)
            if before is not None:
                stays = places_of(at(mask, before))
                self.places[name], self._means[name] = at(before, stays), at(mean, stays)
            elif mean.device.type == "cpu" and mean.is_contiguous() and is_few(mask):
                self.places[name] = places_of(mask)
                self._means[name] = at(mean, self.places[name])

    def _whole(self, name: str) -> Tensor:
        """The mean of a tensor in its shape, 0 where it is not followed."""
        mean, places = self._means[name], self.places.get(name)
        if places is None:
            return mean
        whole = mean.new_zeros(self._masks[name].shape)
        whole.view(-1).index_copy_(0, places, mean)
        return whole

    def _unbiased(self, mean: Tensor, name: str) -> Tensor:
        return mean / (1 - self._decay ** self._steps[name])
