"""Measures of one class on one split: rates with exact intervals, and what the scores' order alone can say.

All of them look at the margin of a class, by which its score is above the best of the others: the higher, the more
the network takes a case for that class.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import special

Margins = NDArray[np.float64]
Booleans = NDArray[np.bool_]


def exact_interval(count: int, cases: int, confidence: float = 0.95) -> tuple[float, float] | None:
    """The two-sided Clopper-Pearson interval of a rate, in [0, 1]; None without cases.

    Args:
        count: Of the cases that were missed, or false alarms; 0 to `cases`.
        cases: All of them.
        confidence: In (0, 1).
    """
    if not cases:
        return None
    tail = (1 - confidence) / 2
    low = float(special.betaincinv(count, cases - count + 1, tail)) if count else 0.0
    high = float(special.betaincinv(count + 1, cases - count, 1 - tail)) if count < cases else 1.0
    return low, high


def curve(margins: Margins, positive: Booleans) -> tuple[Margins, Margins] | None:
    """The ROC curve: false-alarm rate and recall from (0, 0) to (1, 1); None without positives or negatives.

    Cases of one margin are called together, so ties are straight lines.

    Args:
        margins: `(n,)`.
        positive: `(n,)`: which cases are of the class.
    """
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives:
        return None
    order = np.argsort(-margins, kind="stable")
    called = margins[order]
    last = np.append(called[1:] != called[:-1], True)  # of each group of equal margins
    found, alarms = np.cumsum(positive[order])[last], np.cumsum(~positive[order])[last]
    return np.append(0.0, alarms / negatives), np.append(0.0, found / positives)


def auc(margins: Margins, positive: Booleans) -> float | None:
    """The area under the ROC curve: P(a positive's margin is above a negative's), ties half; None as of `curve`."""
    points = curve(margins, positive)
    if points is None:
        return None
    rate, recall = points
    return float(((rate[1:] - rate[:-1]) * (recall[1:] + recall[:-1])).sum() / 2)


def missed_at(margins: Margins, positive: Booleans, rate: float) -> int | None:
    """The fewest misses at a threshold whose false-alarm rate is at most `rate`; None as of `curve`.

    Args:
        margins: `(n,)`.
        positive: `(n,)`: which cases are of the class.
        rate: In [0, 1].
    """
    points = curve(margins, positive)
    if points is None:
        return None
    alarms, recall = points
    within = alarms <= rate + 1e-12
    return round((1 - float(recall[within].max())) * int(positive.sum()))
