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

from lightning_classprune.pruning.scoring import Scoring
from lightning_classprune.trainer.horizon import steps_per_epoch
from lightning_classprune.trainer.sharding import Sharding

#: Optimizer steps that the running mean looks back on: an epoch, within these.
FEWEST, MOST = 20, 50
#: After so many times that, 2% of the mean are older: no earlier step needs to be heard.
TIMES = 4


def sensitivity(weight: Tensor, mean_square: Tensor) -> Tensor:
    """|w| sqrt(E[g^2])."""
    return mean_square.to(weight.device).sqrt() * weight.abs()


def at(tensor: Tensor, places: Tensor) -> Tensor:
    """Some elements of a tensor, by their flat indices."""
    return tensor.detach().reshape(-1).index_select(0, places.to(tensor.device))


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
    """

    def __init__(self) -> None:
        self._look_back = MOST
        self._means: dict[str, Tensor] = {}  # running, too small by what the first steps lack
        self._steps: dict[str, int] = {}
        self._usual = 1.0

    @property
    def memory(self) -> int:
        """Optimizer steps before a cut that matter to it."""
        return TIMES * self._look_back

    def observe(self, gradients: Mapping[str, Tensor]) -> None:
        """See `ListeningCriterion.observe`."""
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

    def prepare(self, scoring: Scoring) -> None:
        """Settle how far the mean looks back, and what stands for the gradients that were never seen."""
        epoch = steps_per_epoch(scoring.trainer)
        self._look_back = MOST if epoch is None else min(max(epoch, FEWEST), MOST)
        if scoring.parameters.keys() - self._means.keys():
            means = (self._unbiased(mean, name) for name, mean in self._means.items())
            self._usual = usual_size(means, scoring.sharding)

    def score(self, name: str, weight: Tensor, rewind_point: Tensor) -> Tensor:
        """See `PreparedCriterion.score`."""
        return self._scores(weight, self._means.get(name), name)

    def score_at(self, name: str, weight: Tensor, places: Tensor) -> Tensor:
        """The scores of some weights alone.

        Args:
            name: Of the parameter.
            weight: Their values.
            places: Their flat indices.
        """
        mean = self._means.get(name)
        return self._scores(weight, None if mean is None else at(mean, places), name)

    @property
    def has_heard(self) -> bool:
        """Whether there was a gradient since its state was last set to the first one."""
        return bool(self._steps)

    def state_dict(self) -> dict[str, Any]:
        """The running means, on the CPU, and how many steps each has seen."""
        return {
            "means": {name: mean.to("cpu", copy=True) for name, mean in self._means.items()},
            "steps": dict(self._steps),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self._means, self._steps = dict(state["means"]), dict(state["steps"])

    @property
    def _decay(self) -> float:
        return 1 - 1 / self._look_back

    def _scores(self, weight: Tensor, mean: Tensor | None, name: str) -> Tensor:
        if mean is None:
            return weight.abs() * self._usual
        return sensitivity(weight, self._unbiased(mean, name))

    def _unbiased(self, mean: Tensor, name: str) -> Tensor:
        return mean / (1 - self._decay ** self._steps[name])
