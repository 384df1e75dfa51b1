"""What the losses take, checked, and brought to a common form: raw scores (logits) and targets in one of three forms.

| task        | scores            | target                                  |
|-------------|-------------------|-----------------------------------------|
| multi-class | `(N, C)`, C >= 2  | `(N,)` integers in [0, C)               |
| one logit   | `(N,)` or `(N, 1)`| `(N,)` or `(N, 1)` of 0 and 1           |
| multi-label | `(N, L)`, L >= 2  | `(N, L)` of 0 and 1, one question each  |

Half-precision scores are raised to float32 first, autocast or not; float64 stays float64.
"""

from __future__ import annotations

import torch
from torch import Tensor


def prepare(scores: Tensor, target: Tensor, *, validate_args: bool = True) -> tuple[Tensor, Tensor]:
    """Check scores and target and bring the three forms down to two.

    Returns scores of at least float32 as `(N, C)` with an int64 target `(N,)`, or `(N, L)` with a bool target
    `(N, L)`. One logit z becomes the two logits (0, z), whose softmax is the sigmoid of z. Raises ValueError
    for anything else.
    """
    if not scores.is_floating_point():
        raise ValueError(f"scores are {scores.dtype}, but must be floating-point logits.")
    if scores.dtype != torch.float64:
        scores = scores.float()
    if scores.ndim == 1 or (scores.ndim == 2 and scores.shape[1] == 1):
        return _prepare_one_logit(scores, target, validate_args)
    if scores.ndim != 2:
        raise ValueError(f"scores have shape {tuple(scores.shape)}, but must be (N,), (N, C) or (N, L).")
    if target.shape == scores.shape:
        return scores, _as_bool(target, validate_args)
    if target.shape == scores.shape[:1]:
        return scores, _as_class(target, scores.shape[1], validate_args)
    raise ValueError(
        f"target has shape {tuple(target.shape)}, but scores of shape {tuple(scores.shape)} need class "
        f"indices of shape ({len(scores)},), or one 0 or 1 per label in the shape of the scores."
    )


def _prepare_one_logit(scores: Tensor, target: Tensor, validate_args: bool) -> tuple[Tensor, Tensor]:
    if target.shape not in (scores.shape[:1], (len(scores), 1)):
        raise ValueError(
            f"target has shape {tuple(target.shape)}, but scores of shape {tuple(scores.shape)} (one logit) "
            f"need ({len(scores)},) or ({len(scores)}, 1)."
        )
    logit = scores.reshape(-1)
    two_logits = torch.stack((torch.zeros_like(logit), logit), dim=1)
    return two_logits, _as_bool(target.reshape(-1), validate_args).long()


def _as_bool(target: Tensor, validate_args: bool) -> Tensor:
    positive = target == 1
    if _should_check(target, validate_args) and not bool((positive | (target == 0)).all()):
        wrong = target[~(positive | (target == 0))][0].item()
        raise ValueError(
            f"target holds {wrong}, but one logit or multi-label scores need a target of 0 and 1."
        )
    return positive


def _as_class(target: Tensor, num_classes: int, validate_args: bool) -> Tensor:
    if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
        raise ValueError(f"target is {target.dtype}, but class indices must be integers; use target.long().")
    target = target.long()
    if _should_check(target, validate_args):
        outside = (target < 0) | (target >= num_classes)
        if bool(outside.any()):
            wrong = target[outside][0].item()
            raise ValueError(
                f"target holds class {wrong}, but the scores are for classes 0 to {num_classes - 1}."
            )
    return target


def _should_check(target: Tensor, validate_args: bool) -> bool:
    # A branch on values would break a compiled graph and cannot run on meta tensors.
    return validate_args and not torch.compiler.is_compiling() and not target.is_meta
