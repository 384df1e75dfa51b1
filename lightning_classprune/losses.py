"""The class-dependent loss of the paper, as modules for the user's own LightningModule.

Source: R. Entezari and O. Saukh, "Class-dependent pruning of deep neural networks", arXiv 1909.10364.
Every loss takes raw scores (logits) and targets in one of three forms:

| task        | scores            | target                                  |
|-------------|-------------------|-----------------------------------------|
| multi-class | `(N, C)`, C >= 2  | `(N,)` integers in [0, C)               |
| one logit   | `(N,)` or `(N, 1)`| `(N,)` or `(N, 1)` of 0 and 1           |
| multi-label | `(N, L)`, L >= 2  | `(N, L)` of 0 and 1, one question each  |

Half-precision scores are raised to float32 first, autocast or not; float64 stays float64.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BETA = 0.99997
RANK_WEIGHT = 5.0


def class_balanced_weights(class_counts: Sequence[int] | Tensor, beta: float = BETA) -> Tensor:
    """Weigh each class by the inverse of its effective number of samples, scaled to mean 1 over the classes.

    gamma_c = (1 - beta) / (1 - beta^n_c) for the training counts n_c >= 1 of C classes; `beta` in [0, 1).
    beta = 0 gives equal weights, beta -> 1 gives weights in proportion to 1 / n_c. Returns a tensor `(C,)` of
    the default dtype.

    Raises ValueError for an empty list, a count that is no positive integer, or a beta outside its range.
    Source: Cui et al., "Class-balanced loss based on effective number of samples", CVPR 2019,
    which scales the weights to sum to C in the same way.
    """
    if not 0 <= beta < 1:
        raise ValueError(
            f"beta={beta} must lie in [0, 1); 0 weighs all classes equally, the paper uses {BETA}."
        )
    counts = _positive_counts(class_counts)
    log_beta = math.log(beta) if beta > 0 else -math.inf
    # 1 - beta^n cancels for a beta near 1 (half the digits at 1 - 1e-8); expm1 of the logarithm does not.
    gammas = [(1 - beta) / -math.expm1(n * log_beta) for n in counts]
    mean = sum(gammas) / len(gammas)
    return torch.tensor([gamma / mean for gamma in gammas])


def pairwise_squared_hinge(scores: Tensor, positive: Tensor, margin: float = 1.0) -> Tensor:
    """Average max(0, margin - (s_i - s_j))^2 over the pairs (positive i, negative j), per question.

    `scores` `(N, K)` floating, `positive` `(N, K)` bool, `margin` > 0 in units of the scores; returns `(K,)`.
    A question without positives or without negatives gives 0 with a zero gradient that is still connected to
    `scores`. Memory grows with K * N^2. No step depends on the data, so nothing synchronises a GPU or breaks
    a compiled graph.
    """
    pairs = positive.unsqueeze(1) & ~positive.unsqueeze(0)
    gaps = scores.unsqueeze(1) - scores.unsqueeze(0)
    # Filled before the square: an overflow outside the pairs must not turn their zero gradient into NaN.
    shortfall = (margin - gaps).masked_fill(~pairs, 0.0).clamp(min=0)
    return shortfall.square().sum(dim=(0, 1)) / pairs.sum(dim=(0, 1)).clamp(min=1)


def log_odds(logits: Tensor, index: int) -> Tensor:
    """Return ln(p_c / (1 - p_c)) of the softmax probability p_c of class c = `index`.

    Logits `(N, C)` in, `(N,)` out. It ranks samples exactly as p_c does, which is what the AUC of class c
    measures. The bare logit z_c does not: softmax ignores a constant added to all logits of a sample, and z_c
    moves with it. p_c itself saturates and stops the gradient. For two classes it is the difference of the
    logits.
    """
    others = torch.cat((logits[:, :index], logits[:, index + 1 :]), dim=1)
    return logits[:, index] - others.logsumexp(dim=1)


class ClassBalancedCrossEntropy(nn.Module):
    """Cross-entropy in which every class has its own weight, from its training count or given outright.

    Give exactly one of `class_counts` (weights by `class_balanced_weights` with `beta`) and `class_weights`
    (numbers >= 0 such as the paper's gamma = (1, 5), used as they are): one per class, two for a single
    logit, one per label for multi-label, where it weighs the label's positive terms and negatives weigh 1.

    The loss is sum(w_i * l_i) / sum(w_i), as in `torch.nn.CrossEntropyLoss`: a common factor of the weights
    changes nothing, and learning rates keep their meaning. Forms of scores and target: see the module.
    `validate_args=False` skips the check of the target's values, which waits for the GPU once per call.

    Raises ValueError for bad weights or counts, and in `forward` for shapes, types or target values that do
    not fit. Source: arXiv 1909.10364, the term L_wCE.
    """

    class_weights: Tensor

    def __init__(
        self,
        class_counts: Sequence[int] | Tensor | None = None,
        beta: float = BETA,
        class_weights: Sequence[float] | Tensor | None = None,
        *,
        validate_args: bool = True,
    ) -> None:
        super().__init__()
        self.validate_args = validate_args
        # Not persistent: the weights follow from the arguments, and a checkpoint must load without this loss.
        self.register_buffer("class_weights", _weights(class_counts, beta, class_weights), persistent=False)

    def forward(self, scores: Tensor, target: Tensor) -> Tensor:
        """Return the weighted mean, a scalar; 0 if the weights of the batch sum to 0."""
        return self.compute(*prepare(scores, target, validate_args=self.validate_args))

    def compute(self, scores: Tensor, target: Tensor) -> Tensor:
        """Return the loss of scores and target that `prepare` has already brought to a common form."""
        weights = self.class_weights.to(scores.dtype)
        if len(weights) != scores.shape[1]:
            raise ValueError(
                f"{len(weights)} class counts or weights are given, but scores for {scores.shape[1]} classes "
                f"or labels (one logit counts as two classes); give one for each."
            )
        if target.ndim == 1:
            each = F.cross_entropy(scores, target, reduction="none")
            weight = weights[target]
        else:
            each = F.binary_cross_entropy_with_logits(scores, target.to(scores.dtype), reduction="none")
            weight = torch.where(target, weights, 1.0)
        total = weight.sum()
        return (weight * each).sum() / torch.where(total > 0, total, 1.0)

    def extra_repr(self) -> str:
        """Show the weights in `print(module)`."""
        return f"class_weights={[round(w, 4) for w in self.class_weights.tolist()]}"


class PairwiseRankingLoss(nn.Module):
    """Squared hinge over all (positive, negative) pairs of the batch, averaged over the protected classes.

    For each protected class: the mean over pairs of max(0, margin - (s_i - s_j))^2, where i belongs to the
    class, j does not, and s is the class's score: `log_odds` for C logits, the logit itself (for class 0 its
    negative) for one logit, the label's logit for multi-label. A protected class that the batch lacks, or
    that fills it, counts as 0; the gradient is then zero and still connected, so that backward works and DDP
    sees every parameter used.

    `protect` holds class or label indices; of a mapping, such as the callback's {1: 0.05}, the keys. `margin`
    > 0 is in units of the score; with a margin of 1 the loss of a class is never below 1 - AUC of that class
    in the batch. Forms of scores and target, and `validate_args`: see the module and
    `ClassBalancedCrossEntropy`.

    Raises ValueError for an empty or invalid `protect` or `margin`, and in `forward` for input that does not
    fit. Source: arXiv 1909.10364, eq. 3 (L_SHR), after Steck, "Hinge rank loss and the area under the ROC
    curve", ECML 2007. As printed there, the term's sign rewards violations and its labels are 0/1 where a
    hinge needs -1/+1; this is the standard pairwise form instead.
    """

    def __init__(
        self,
        protect: Iterable[int] | Mapping[int, object],
        margin: float = 1.0,
        *,
        validate_args: bool = True,
    ) -> None:
        super().__init__()
        if not 0 < margin < math.inf:
            raise ValueError(f"margin={margin} must be positive and finite; the usual value is 1.")
        self.protect = _indices(protect)
        self.margin = float(margin)
        self.validate_args = validate_args

    def forward(self, scores: Tensor, target: Tensor) -> Tensor:
        """Return the mean over the protected classes, a scalar."""
        return self.compute(*prepare(scores, target, validate_args=self.validate_args))

    def compute(self, scores: Tensor, target: Tensor) -> Tensor:
        """Return the loss of scores and target that `prepare` has already brought to a common form."""
        _check_protect(self.protect, scores.shape[1])
        if target.ndim == 1:
            columns = [log_odds(scores, index) for index in self.protect]
            positives = [target == index for index in self.protect]
        else:
            columns = [scores[:, index] for index in self.protect]
            positives = [target[:, index] for index in self.protect]
        hinges = pairwise_squared_hinge(
            torch.stack(columns, dim=1), torch.stack(positives, dim=1), self.margin
        )
        return hinges.mean()

    def extra_repr(self) -> str:
        """Show the arguments in `print(module)`."""
        return f"protect={self.protect}, margin={self.margin}"


class ClassDependentLoss(nn.Module):
    """The paper's loss: class-balanced cross-entropy plus `rank_weight` times the pairwise ranking.

    The cross-entropy's weights move the decision along the ROC curve, the ranking term moves the curve.
    Arguments as for `ClassBalancedCrossEntropy` (exactly one of `class_counts`, `class_weights`) and
    `PairwiseRankingLoss` (`protect`, `margin`); `rank_weight` >= 0 is the paper's lambda, 5 by default. Forms
    of scores and target: see the module. The two terms are the modules `cross_entropy` and `ranking`.

    Raises ValueError as those two do, and for a negative `rank_weight`.
    Source: arXiv 1909.10364, L = L_wCE + L_SHR.
    """

    def __init__(
        self,
        class_counts: Sequence[int] | Tensor | None = None,
        protect: Iterable[int] | Mapping[int, object] = (),
        beta: float = BETA,
        rank_weight: float = RANK_WEIGHT,
        margin: float = 1.0,
        class_weights: Sequence[float] | Tensor | None = None,
        *,
        validate_args: bool = True,
    ) -> None:
        super().__init__()
        if not 0 <= rank_weight < math.inf:
            raise ValueError(
                f"rank_weight={rank_weight} must be finite and at least 0; the paper uses {RANK_WEIGHT}."
            )
        self.rank_weight = float(rank_weight)
        self.validate_args = validate_args
        self.cross_entropy = ClassBalancedCrossEntropy(class_counts, beta, class_weights)
        self.ranking = PairwiseRankingLoss(protect, margin)
        _check_protect(self.ranking.protect, len(self.cross_entropy.class_weights))

    def forward(self, scores: Tensor, target: Tensor) -> Tensor:
        """Return the sum of the two terms, a scalar."""
        prepared = prepare(scores, target, validate_args=self.validate_args)
        return self.cross_entropy.compute(*prepared) + self.rank_weight * self.ranking.compute(*prepared)

    def extra_repr(self) -> str:
        """Show the weight of the ranking term in `print(module)`."""
        return f"rank_weight={self.rank_weight}"


def _weights(
    class_counts: Sequence[int] | Tensor | None, beta: float, class_weights: Sequence[float] | Tensor | None
) -> Tensor:
    if class_counts is not None and class_weights is None:
        return class_balanced_weights(class_counts, beta)
    if class_weights is None or class_counts is not None:
        given = "neither" if class_counts is None else "both"
        raise ValueError(f"{given} of class_counts and class_weights given; give exactly one.")
    weights = [float(weight) for weight in class_weights]
    if not weights or not all(0 <= weight < math.inf for weight in weights) or max(weights) == 0:
        raise ValueError(
            f"class_weights={weights} must be finite numbers >= 0, at least one of them above 0."
        )
    return torch.tensor(weights)


def _positive_counts(class_counts: Sequence[int] | Tensor) -> list[int]:
    try:
        counts = [operator.index(count) for count in class_counts]
    except TypeError as error:
        raise ValueError(f"class_counts={class_counts} must be integers, one per class.") from error
    if not counts or min(counts) < 1:
        raise ValueError(
            f"class_counts={counts} must hold a count of at least 1 for every class; a class without "
            f"training samples has no balanced weight: leave it out, or give class_weights."
        )
    return counts


def _indices(protect: Iterable[int] | Mapping[int, object]) -> tuple[int, ...]:
    try:
        indices = tuple(sorted({operator.index(index) for index in protect}))
    except TypeError as error:
        raise ValueError(f"protect={protect} must hold class indices (integers, not names).") from error
    if not indices or indices[0] < 0:
        raise ValueError(f"protect={protect} must hold at least one class index, none below 0.")
    return indices


def _check_protect(protect: tuple[int, ...], num_classes: int) -> None:
    if protect[-1] >= num_classes:
        raise ValueError(
            f"protect={protect} names class {protect[-1]}, but there are only {num_classes} classes."
        )


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
