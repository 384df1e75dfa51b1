"""Claims: which pixels or tokens a network gives to a class, and how that moves with a bias of the class' score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_classprune.guard.objects import PROBABILITIES, Reading
from lightning_classprune.guard.task import NaNScoresError

#: Biases of a class' score that are tried: fine around none, for raw scores as for probabilities.
_SIZES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0)
SCORE_BIASES = tuple(sorted([*_SIZES, *(-size for size in _SIZES)]))


@dataclass(frozen=True)
class Claims:
    """What is claimed for one class.

    Attributes:
        margin: With a bias of the class' score it is claimed where margin + bias >= 0.
        plain: Where it is claimed without one.
    """

    margin: NDArray[np.float32]
    plain: NDArray[np.bool_]

    def at(self, bias: float) -> NDArray[np.bool_]:
        """Where it is claimed with a bias."""
        return self.plain if bias == 0 else self.margin + np.float32(bias) >= 0


def claims(scores: Tensor, index: int, how: Reading) -> Claims:
    """The claims of a class.

    Args:
        scores: Real ones or decisions, classes last; without a dimension of classes where there is one score of two.
        index: The class.
        how: What is known of classes and the threshold.
    """
    if scores.dtype == torch.bool:
        plain = scores[..., index] if _has_classes(scores, how) else scores[..., 0] == bool(index)
        return Claims(plain.float().cpu().numpy() * 2 - 1, plain.cpu().numpy())
    scores = scores.detach().float()
    if not _has_classes(scores, how):
        margin = scores[..., 0] - how.threshold
        plain = margin >= 0 if index else margin < 0
        return Claims((margin if index else -margin).cpu().numpy(), plain.cpu().numpy())
    own, layers = scores[..., index], scores.unbind(-1)
    # Of equal scores the first class is decided.
    plain, others = torch.ones_like(own, dtype=torch.bool), torch.full_like(own, -torch.inf)
    for other, layer in enumerate(layers):
        if other != index:
            plain &= own > layer if other < index else own >= layer
            others = torch.maximum(others, layer)
    return Claims((own - others).cpu().numpy(), plain.cpu().numpy())


def _has_classes(scores: Tensor, how: Reading) -> bool:
    return scores.shape[-1] == len(how.names)


def check_kind(scores: Tensor) -> None:
    """Refuse scores that are neither real numbers nor decisions.

    Raises:
        ValueError: Names `predict` and their dtype.
    """
    if not (scores.is_floating_point() or scores.dtype == torch.bool):
        raise ValueError(
            f"predict returned scores of dtype {scores.dtype}; real ones, or decisions of dtype bool, are needed"
        )


def check_numbers(scores: Tensor) -> None:
    """Refuse scores that are not numbers.

    Raises:
        NaNScoresError: Some are NaN.
    """
    if scores.is_floating_point() and bool(torch.isnan(scores).any()):
        raise NaNScoresError("predict returned NaN scores; nothing can be decided from them")


def check_target(target: Tensor, ignore_index: int | None, how: Reading) -> None:
    """Refuse targets that are no classes.

    Raises:
        ValueError: Some are out of range; names `predict`.
    """
    known = target if ignore_index is None else target[target != ignore_index]
    classes = len(how.names)
    if known.numel() and (known.min() < 0 or known.max() >= classes or bool((known != known.long()).any())):
        also = "" if ignore_index is None else f", and ignore_index={ignore_index}"
        raise ValueError(
            f"predict returned targets from {known.min()} to {known.max()}; whole numbers from 0 to {classes - 1} are "
            f"allowed{also}"
        )


def scores_of(scores: Any, shape: tuple[int, ...], how: Reading) -> Tensor | None:
    """Scores with classes last, whatever of the allowed shapes they have; None if they have none of these.

    Args:
        scores: `(n, classes, ...)`, or for two classes one score: `(n, 1, ...)` or `(n, ...)`.
        shape: Of the target, `(n, ...)`.
        how: What is known of classes.
    """
    classes = len(how.names)
    for channels in {classes, 1} if classes == 2 else {classes}:
        if tuple(scores.shape) == (shape[0], channels, *shape[1:]):
            moved: Tensor = scores.movedim(1, -1)
            return moved
    if classes == 2 and tuple(scores.shape) == shape:
        one: Tensor = scores.unsqueeze(-1)
        return one
    return None


def flags_of(scores: Tensor, how: Reading) -> int:
    """Whether scores of one output are probabilities, and the threshold is not one."""
    if scores.dtype == torch.bool or _has_classes(scores, how) or 0 < how.threshold < 1 or not scores.numel():
        return 0
    return PROBABILITIES if bool(((scores >= 0) & (scores <= 1)).all()) else 0
