"""Thresholds: from which score on a protected class is reported, chosen so that what it misses is certified.

Scores are margins: the class is reported where its margin is at or above the threshold. The threshold is chosen on data
that judged nothing and trained nothing, as high as the claim about misses allows: so with the fewest false positives.

Sources: the FN rate at the r-th smallest of n positive scores is Beta(r, n + 1 - r) (order statistics of a sample;
Wilks, Ann. Math. Statist. 12 (1941) 91-96); the paired test is `statistics.exact_p_value`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lightning_classprune.guard import statistics


@dataclass(frozen=True)
class CertifiedThreshold:
    """A threshold and what is certified of it.

    Attributes:
        threshold: Report the class where the margin is at or above this.
        rank: Which of the positives' sorted scores it is, from 1.
        misses: Positives below it, of `support`.
        support: Positives.
        fp: Negatives at or above it, of `negatives`.
        negatives: Negatives.
        confidence: Of the bound of misses; with an FP cap of both bounds together.
        fn_bound: Upper bound of the FN rate; of its rise over the dense network where that was the claim.
        fp_bound: Upper bound of the FP rate, by Clopper & Pearson; None without negatives.
        reason: All this in a sentence.
    """

    threshold: float
    rank: int
    misses: int
    support: int
    fp: int
    negatives: int
    confidence: float
    fn_bound: float
    fp_bound: float | None
    reason: str


def certify_threshold(
    scores: ArrayLike | Tensor,
    target: ArrayLike | Tensor,
    *,
    max_fn_rate: float | None = None,
    dense_missed: ArrayLike | Tensor | None = None,
    tolerance: float | None = None,
    max_fp_rate: float | None = None,
    confidence: float = 0.95,
) -> CertifiedThreshold:
    """Choose the highest threshold whose misses are certified, on data that were not used for anything else.

    The claim is either `max_fn_rate`: the FN rate is at most this; or `dense_missed` and `tolerance`: it is less than
    `tolerance` above the dense network's on the same samples. The probability that the claim is wrong is at most
    1 - confidence. An FP cap is one more claim; as the threshold is chosen by the data, each of the two then has half
    of the error level, so that both hold together at the confidence.

    Args:
        scores: `(n,)` finite margins of one protected class, higher for more likely; `one_vs_rest` makes them.
        target: `(n,)` booleans, or 0 and 1: the sample is of the class.
        max_fn_rate: In (0, 1).
        dense_missed: `(n,)` booleans: the dense network misses this sample; only positives are looked at.
        tolerance: In (0, 1), with `dense_missed`.
        max_fp_rate: In (0, 1); None for no cap.
        confidence: In [0.5, 1).

    Raises:
        ValueError: Arguments of the wrong shape or range, too few positives (says how many are needed), or false
            positives whose bound is above the cap.
    """
    margins, positive = _samples(scores, target)
    alpha = _alpha(confidence)
    if max_fp_rate is not None:
        alpha /= 2
    _check_rates(max_fn_rate=max_fn_rate, tolerance=tolerance, max_fp_rate=max_fp_rate)
    ranked = np.sort(margins[positive])
    if max_fn_rate is not None and dense_missed is None and tolerance is None:
        rank, fn_bound, claim = _by_rate(len(ranked), max_fn_rate, alpha)
        threshold = float(ranked[rank - 1])
    elif max_fn_rate is None and dense_missed is not None and tolerance is not None:
        missed = _booleans("dense_missed", dense_missed, len(margins))
        threshold, claim = _beside_dense(margins[positive], missed[positive], tolerance, alpha)
        rank, fn_bound = int(np.searchsorted(ranked, threshold)) + 1, tolerance
    else:
        raise ValueError("give either max_fn_rate, or dense_missed and tolerance together")
    misses = int((margins[positive] < threshold).sum())
    fp, negatives = int((margins[~positive] >= threshold).sum()), int((~positive).sum())
    fp_bound = statistics.rate_upper(fp, negatives, alpha) if negatives else None
    each = 1 - alpha
    reason = f"{misses} of {len(ranked)} positives missed: {claim} at {each:.4g} confidence"
    reason += f"; {fp} of {negatives} negatives reported"
    if fp_bound is not None:
        reason += f", an FP rate of at most {fp_bound:.4g} at {each:.4g} confidence"
    if max_fp_rate is not None and (fp_bound is None or fp_bound > max_fp_rate):
        raise ValueError(
            f"no threshold keeps max_fp_rate={max_fp_rate:g} and the FN claim: {reason}; "
            "allow more of one of them, or give more data"
        )
    return CertifiedThreshold(
        threshold, rank, misses, len(ranked), fp, negatives, float(confidence), fn_bound, fp_bound, reason
    )


def one_vs_rest(scores: Tensor, target: Tensor, index: int) -> tuple[Tensor, Tensor]:
    """Margins of one class against the rest, and which samples are of it: `(n,)` floats and `(n,)` booleans.

    Args:
        scores: `(n, classes)` logits: margin over the best other class. `(n,)` or `(n, 1)`, one logit: itself for class
            1, its negative for class 0. `(n, labels)` with a target of that shape: the label's own score.
        target: `(n,)` class indices, or `(n, labels)`.
        index: The class or label.

    Raises:
        ValueError: Shapes or an index that make no sense together.
    """
    columns = 1 if scores.ndim == 1 else scores.shape[-1]
    classes = 2 if columns == 1 and target.ndim == 1 else columns
    if scores.ndim not in (1, 2) or target.ndim not in (1, 2) or len(scores) != len(target):
        raise ValueError(f"scores {tuple(scores.shape)} and target {tuple(target.shape)} do not go together")
    if not 0 <= index < classes:
        raise ValueError(f"index={index} is out of range: 0 to {classes - 1}")
    if target.ndim == 2:
        if scores.shape != target.shape:
            raise ValueError(
                f"multi-label scores {tuple(scores.shape)} must have the shape of target {tuple(target.shape)}"
            )
        return scores[:, index], target[:, index].bool()
    if columns == 1:
        one = scores.reshape(-1)
        return one if index == 1 else -one, target == index
    others = torch.cat([scores[:, :index], scores[:, index + 1 :]], dim=1)
    return scores[:, index] - others.amax(1), target == index


def _by_rate(n: int, max_fn_rate: float, alpha: float) -> tuple[int, float, str]:
    """Rank of the threshold, fixed before any score is looked at, and the bound that goes with it."""
    rank = statistics.threshold_rank(n, max_fn_rate, alpha)
    if rank == 0:
        raise ValueError(
            f"max_fn_rate={max_fn_rate:g} cannot be certified with {n} positives: "
            f"{fewest_positives(max_fn_rate, alpha)} are needed at confidence {1 - alpha:.4g}; allow a larger rate, or "
            "give more positives"
        )
    bound = statistics.rate_upper(rank - 1, n, alpha)
    return rank, bound, f"an FN rate of at most {bound:.4g}"


def _beside_dense(
    margins: NDArray[np.float64], missed: NDArray[np.bool_], tolerance: float, alpha: float
) -> tuple[float, str]:
    """The highest threshold at which the exact paired test excludes a rise of `tolerance`.

    From one threshold to a higher one more positives are newly missed and fewer newly found, so the p-value rises: the
    first threshold that violates the claim is tested before any later one, and search costs no error.
    """
    n, candidates = len(margins), np.unique(margins)

    def p_value(threshold: float) -> float:
        lost = margins < threshold
        newly_missed, newly_found = int((lost & ~missed).sum()), int((~lost & missed).sum())
        return statistics.exact_p_value(newly_missed, newly_found, n, tolerance)

    if p_value(candidates[0]) > alpha:
        raise ValueError(
            f"tolerance={tolerance:g} cannot be certified with {n} positives: "
            f"{enough_positives(tolerance, alpha)} are enough at confidence {1 - alpha:.4g}; allow a larger rise, or "
            "give more positives"
        )
    low, high = 0, len(candidates)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if p_value(candidates[middle]) <= alpha else (low, middle)
    return float(candidates[low]), f"a rise of the FN rate below {tolerance:.4g} over the dense network"


def fewest_positives(rate: float, alpha: float) -> int:
    """Positives that certify an FN rate of at most `rate` if none is missed.

    `rate` in (0, 1), `alpha` in (0, 0.5]. The smallest n with (1 - rate)**n <= alpha.
    """
    n = math.ceil(math.log(alpha) / math.log1p(-rate))
    # The logarithms may miss a whole number by rounding.
    return next(m for m in (n - 1, n, n + 1) if m >= 1 and statistics.threshold_rank(m, rate, alpha))


def enough_positives(tolerance: float, alpha: float) -> int:
    """Positives that certify a rise of the FN rate below `tolerance` if neither network misses one.

    `tolerance` in (0, 1), `alpha` in (0, 0.5]. By the exact paired test, which may ask for more than
    `fewest_positives`; the smallest such number, or up to 2% more.
    """
    n = fewest_positives(tolerance, alpha)
    while statistics.exact_p_value(0, 0, n, tolerance) > alpha:
        n += max(1, n // 50)
    return n


def _samples(
    scores: ArrayLike | Tensor, target: ArrayLike | Tensor
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    margins = _array(scores).astype(np.float64)
    if margins.ndim != 1:
        raise ValueError(
            f"scores must be (n,) margins of one class, got {margins.shape}; one_vs_rest makes them"
        )
    if not np.isfinite(margins).all():
        raise ValueError("scores must be finite numbers, got NaN or infinity")
    positive = _booleans("target", target, len(margins))
    if not positive.any():
        raise ValueError(
            f"target has no positives among {len(margins)} samples; without them nothing can be certified"
        )
    return margins, positive


def _booleans(name: str, values: ArrayLike | Tensor, n: int) -> NDArray[np.bool_]:
    array = _array(values)
    if array.shape != (n,) or not np.isin(array, (0, 1)).all():
        raise ValueError(f"{name} must be ({n},) booleans, or 0 and 1, like scores; got shape {array.shape}")
    return array.astype(bool)


def _array(values: ArrayLike | Tensor) -> NDArray[Any]:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return (values.double() if values.is_floating_point() else values).numpy()
    return np.asarray(values)


def _check_rates(**rates: float | None) -> None:
    for name, rate in rates.items():
        if rate is not None and not 0 < rate < 1:
            raise ValueError(f"{name}={rate!r} is out of range: above 0 and below 1")


def _alpha(confidence: float) -> float:
    if not 0.5 <= confidence < 1:
        raise ValueError(f"confidence={confidence!r} is out of range: at least 0.5 and below 1")
    return float(1 - Fraction(str(confidence)))
