"""What is measured on one network's test scores, for many weightings of the same samples at once.

Weights `(B, n)` are how often each resample holds each sample; `(1, n)` ones give the measures themselves. So a point
estimate and its bootstrap are one piece of code.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
FPRS = (0.01, 0.05)


@dataclass(frozen=True)
class Scored:
    """One network on one part: a score a sample (larger: rather protected), its decision, and the truth; all `(n,)`."""

    score: Floats
    found: Bools
    positive: Bools


def measures(scored: Scored, weights: Floats | None = None) -> dict[str, Floats]:
    """Return every measure as `(B,)`; counts are counts of the resample.

    `fn`, `fp`, `recall`, `fpr`, `balanced_accuracy` at the network's own decisions; `auc_roc`; `auc_pr` (average
    precision); `fn_at_fpr_1`, `fn_at_fpr_5`: fewest misses at a threshold with at most that share of false positives,
    read from the same scores. ValueError if a class is missing.
    """
    positive, found = scored.positive, scored.found
    if positive.all() or not positive.any():
        raise ValueError("positive: both classes are needed")
    w = np.ones((1, len(positive))) if weights is None else np.asarray(weights, float)
    p, n = w[:, positive].sum(1), w[:, ~positive].sum(1)
    fn, fp = w[:, positive & ~found].sum(1), w[:, ~positive & found].sum(1)
    tp_at, fp_at = roc_counts(scored, w)
    found_before = np.diff(tp_at, axis=1, prepend=0)
    height = tp_at - found_before / 2
    drawn = tp_at + fp_at
    precision = np.divide(tp_at, drawn, out=np.zeros_like(tp_at), where=drawn > 0)
    result = {
        "fn": fn,
        "fp": fp,
        "recall": 1 - fn / p,
        "fpr": fp / n,
        "balanced_accuracy": 1 - (fn / p + fp / n) / 2,
        "auc_roc": (np.diff(fp_at, axis=1, prepend=0) * height).sum(1) / (p * n),
        "auc_pr": (found_before * precision).sum(1) / p,
    }
    for rate in FPRS:
        result[f"fn_at_fpr_{rate * 100:.0f}"] = p - (tp_at * (fp_at <= rate * n[:, None] + 1e-9)).max(1)
    return result


def roc_counts(scored: Scored, weights: Floats) -> tuple[Floats, Floats]:
    """Return true and false positives `(B, thresholds)` at the distinct scores, from the largest down."""
    order = np.argsort(-scored.score, kind="stable")
    sorted_scores = scored.score[order]
    last_of_tie = np.append(sorted_scores[1:] != sorted_scores[:-1], True)
    w, positive = weights[:, order], scored.positive[order]
    tp, fp = np.cumsum(w * positive, axis=1), np.cumsum(w * ~positive, axis=1)
    return tp[:, last_of_tie], fp[:, last_of_tie]


def found_at_fpr(scored: Scored, rate: float) -> Bools:
    """Return the decisions `(n,)` at the lowest threshold with at most `rate` of the negatives above or at it."""
    negatives = np.sort(scored.score[~scored.positive])[::-1]
    allowed = int(rate * len(negatives) + 1e-9)
    if allowed >= len(negatives):
        return np.ones(len(scored.score), bool)
    return scored.score > negatives[allowed]


def with_offset(scored: Scored, calibration: Scored, misses: int) -> Scored:
    """Return the network decided at the highest threshold with at most `misses` misses of the `calibration` part."""
    lowest = np.sort(calibration.score[calibration.positive])
    threshold = lowest[misses] if misses < len(lowest) else np.inf
    return Scored(scored.score, scored.score >= threshold, scored.positive)


def resamples(positive: Bools, count: int, rng: np.random.Generator) -> Floats:
    """Return weights `(count, n)`: bootstrap draws of the positives and of the negatives, each as many as there are."""
    weights = np.empty((count, len(positive)))
    for group in (positive, ~positive):
        size = int(group.sum())
        weights[:, group] = rng.multinomial(size, np.full(size, 1 / size), size=count)
    return weights


@dataclass(frozen=True)
class Difference:
    """Arm minus reference, means over seeds, with the percentile interval; `ratio` is arm / reference - 1."""

    mean: float
    low: float
    high: float
    ratio: float
    ratio_low: float
    ratio_high: float


def paired_difference(
    arm: Floats, reference: Floats, arm_boot: Floats, reference_boot: Floats, rng: np.random.Generator
) -> Difference:
    """Two-level bootstrap over seeds and images, 95%.

    `arm`, `reference` `(seeds,)` are the measures; `*_boot` `(seeds, B)` the same on B resamples of the images,
    resample b being the same images for every seed and both arms. Seeds are drawn with replacement, as pairs.
    """
    seeds, count = arm_boot.shape
    drawn = rng.integers(seeds, size=(count, seeds))
    column = np.arange(count)[:, None]
    a, r = arm_boot[drawn, column].mean(1), reference_boot[drawn, column].mean(1)
    low, high = np.quantile(a - r, (0.025, 0.975))
    ratios = np.divide(a, r, out=np.full(count, np.nan), where=r > 0) - 1
    ratio_low, ratio_high = np.nanquantile(ratios, (0.025, 0.975)) if (r > 0).any() else (np.nan, np.nan)
    ratio = arm.mean() / reference.mean() - 1 if reference.mean() > 0 else np.nan
    numbers = (arm.mean() - reference.mean(), low, high, ratio, ratio_low, ratio_high)
    return Difference(*(float(number) for number in numbers))


def mcnemar(reference_found: Bools, arm_found: Bools) -> tuple[int, int, float]:
    """Return (only the arm misses, only the reference misses, exact two-sided p) over the same positives."""
    only_arm = int((reference_found & ~arm_found).sum())
    only_reference = int((~reference_found & arm_found).sum())
    differing = only_arm + only_reference
    p = float(binomtest(only_arm, differing).pvalue) if differing else 1.0
    return only_arm, only_reference, p
