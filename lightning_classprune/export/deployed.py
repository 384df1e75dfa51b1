"""What is deployed: input normalisation, network and decision rule as one module, so that all of it can be judged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

#: Mean and standard deviation: a number, one number a channel, or tensors that broadcast against one sample.
Normalization: TypeAlias = tuple[float | Sequence[float] | Tensor, float | Sequence[float] | Tensor]


class Deployed(nn.Module):
    """`network` behind its normalisation, with its decision beside the scores.

    Input `(N, ...)`; output the scores, `(N, C)` or one logit `(N,)` or `(N, 1)`, and with `thresholds` also the
    decided classes `(N,)`, int64. Without thresholds `decision` is the largest score, one logit being decided at 0.

    With one protected class c and its threshold t: c if and only if z_c - max_{j != c} z_j >= t, otherwise the
    largest of the others. One logit: class 1 if and only if the logit is at or above the threshold.

    With an `offset`, a module such as `DecisionOffset`, scores are those behind it, and all of the above is of them.

    Args:
        network: Returns one tensor of scores.
        normalization: `(mean, std)`; uint8 input is first divided by 255.
        thresholds: Class index -> threshold on raw scores; `{}` for the plain rule; None for no decision.
        offset: Comes behind the network; None for nothing.

    Raises:
        ValueError: A standard deviation that is not positive, a threshold that is no finite number, or more than one.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        normalization: Normalization | None = None,
        thresholds: Mapping[int, float] | None = None,
        offset: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.offset = nn.Identity() if offset is None else offset
        self.normalized = normalization is not None
        if normalization is not None:
            mean, std = (torch.as_tensor(value, dtype=torch.float32) for value in normalization)
            if not (torch.isfinite(mean).all() and torch.isfinite(std).all() and (std > 0).all()):
                raise ValueError(
                    f"normalization: mean={mean} must be finite and std={std} finite and above 0"
                )
            self.register_buffer("mean", mean)
            self.register_buffer("std", std)
        self.decides = thresholds is not None
        self.thresholds = {int(c): float(t) for c, t in (thresholds or {}).items()}
        if len(self.thresholds) > 1:
            raise ValueError(
                f"thresholds={self.thresholds} names several classes, whose biases would take cases from each other; "
                "give the threshold of one class"
            )
        for value in self.thresholds.values():
            if not math.isfinite(value):
                raise ValueError(f"thresholds={self.thresholds} must be finite numbers on the raw scores")

    @property
    def normalization(self) -> tuple[Tensor, Tensor] | None:
        """Mean and standard deviation, if there are any."""
        return (self.mean, self.std) if self.normalized else None

    def around(self, network: nn.Module) -> Deployed:
        """Return the same normalisation, offset and decision around another network."""
        return Deployed(network, self.normalization, self.thresholds if self.decides else None, self.offset)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return the scores of raw input `x`, and the decided classes if there are thresholds."""
        given = self.network(self.normalize(x))
        if not isinstance(given, Tensor):
            raise ValueError(
                f"the network returns a {type(given).__name__}, and what is exported is one tensor of scores: of a "
                "detector save the ticket (save_ticket), or export its backbone and heads by themselves"
            )
        scores: Tensor = self.offset(given)
        return (scores, self.decide(scores)) if self.decides else scores

    def normalize(self, x: Tensor) -> Tensor:
        """Return what the network gets of raw input `x`."""
        if not self.normalized:
            return x
        x = x / 255 if x.dtype == torch.uint8 else x.float()
        return (x - self._like_sample(self.mean, x)) / self._like_sample(self.std, x)

    def decide(self, scores: Tensor) -> Tensor:
        """Return the decided classes `(N,)`, int64, of scores `(N, C)`, `(N, 1)` or `(N,)`.

        Raises:
            ValueError: A threshold for a class that the scores do not have.
        """
        if scores.ndim == 4 and scores.shape[1] == 1:  # of every pixel
            return (scores[:, 0] >= self.thresholds.get(1, 0.0)).long()
        classes = 2 if one_logit(scores) else scores.shape[1]
        for protected, threshold in self.thresholds.items():
            if not 0 <= protected < classes or (one_logit(scores) and protected != 1):
                allowed = "only class 1 has one" if one_logit(scores) else f"classes are 0 to {classes - 1}"
                raise ValueError(f"thresholds={self.thresholds}: {allowed} for scores {tuple(scores.shape)}")
            if scores.ndim > 2:
                raise ValueError(
                    f"thresholds={self.thresholds} need scores (n, classes), got {tuple(scores.shape)}"
                )
            if not one_logit(scores):
                return _decide_protected(scores, protected, threshold)
        if one_logit(scores):
            return (scores.reshape(-1) >= self.thresholds.get(1, 0.0)).long()
        return scores.argmax(1)

    @staticmethod
    def _like_sample(value: Tensor, x: Tensor) -> Tensor:
        # One number a channel, where a sample is (channels, height, width).
        return value.reshape(-1, *[1] * (x.ndim - 2)) if value.ndim == 1 else value


def one_logit(scores: Tensor) -> bool:
    """Whether scores are one logit a sample, `(N,)` or `(N, 1)`."""
    return scores.ndim == 1 or (scores.ndim == 2 and scores.shape[1] == 1)


def _decide_protected(scores: Tensor, protected: int, threshold: float) -> Tensor:
    is_protected = torch.arange(scores.shape[1], device=scores.device) == protected
    others = scores.masked_fill(is_protected, float("-inf"))
    margin = scores[:, protected] - others.amax(1)
    return torch.where(margin >= threshold, protected, others.argmax(1))
