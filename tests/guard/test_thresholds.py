"""A certified threshold keeps its promise, at the fewest false positives."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import pytest
import torch
from scipy import special, stats

from lightning_classprune import certify_threshold
from lightning_classprune.guard import statistics
from lightning_classprune.guard.thresholds import enough_positives, fewest_positives, one_vs_rest


def samples(positives, negatives=()):
    return np.concatenate([positives, negatives]), np.r_[np.ones(len(positives)), np.zeros(len(negatives))]


def test_by_hand():
    """93 positives allow one miss at 5% (rank 2): the threshold is the second smallest positive score."""
    scores, target = samples(np.arange(93.0), [0.5, 1.0, 1.5, -4.0])
    found = certify_threshold(scores, target, max_fn_rate=0.05)
    assert (found.threshold, found.rank, found.misses, found.support) == (1.0, 2, 1, 93)
    assert (found.fp, found.negatives) == (2, 4)
    assert found.fn_bound == pytest.approx(stats.beta.ppf(0.95, 2, 92))
    assert found.fn_bound <= 0.05
    assert found.fp_bound == pytest.approx(stats.beta.ppf(0.95, 3, 2))
    assert found.confidence == 0.95
    assert "1 of 93 positives missed" in found.reason
    assert "2 of 4 negatives" in found.reason


@pytest.mark.parametrize(("n", "rank"), [(59, 1), (92, 1), (93, 2), (200, 5), (600, 21)])
def test_ranks_are_those_of_the_exact_binomial(n, rank):
    found = certify_threshold(*samples(np.random.default_rng(n).permutation(n)), max_fn_rate=0.05)
    assert (found.rank, found.threshold, found.misses) == (rank, rank - 1, rank - 1)
    # one rank higher would not be certified
    assert statistics.rate_upper(rank - 1, n, 0.05) <= 0.05 < statistics.rate_upper(rank, n, 0.05)


def test_too_few_positives_are_told_how_many_are_needed():
    with pytest.raises(
        ValueError, match=r"max_fn_rate=0.05 .* 58 positives: 59 are needed at confidence 0.95"
    ):
        certify_threshold(*samples(np.arange(58.0)), max_fn_rate=0.05)
    with pytest.raises(ValueError, match=r"tolerance=0.05 .* 58 positives: 59 are enough"):
        certify_threshold(*samples(np.arange(58.0)), dense_missed=np.zeros(58), tolerance=0.05)
    with pytest.raises(ValueError, match="no positives among 3"):
        certify_threshold([1.0, 2.0, 3.0], [0, 0, 0], max_fn_rate=0.05)


@pytest.mark.parametrize(
    ("rate", "alpha"), [(0.05, 0.05), (0.5, 0.25), (0.01, 0.05), (0.9, 0.5), (0.1, 0.001)]
)
def test_the_fewest_positives_are_the_fewest(rate, alpha):
    n = fewest_positives(rate, alpha)
    assert statistics.threshold_rank(n, rate, alpha) == 1
    assert n == 1 or statistics.threshold_rank(n - 1, rate, alpha) == 0
    enough = enough_positives(rate, alpha)
    assert enough >= n
    assert statistics.exact_p_value(0, 0, enough, rate) <= alpha
    assert enough == n or statistics.exact_p_value(0, 0, enough - max(1, enough // 50) - 1, rate) > alpha


def test_tied_scores_are_found_together():
    found = certify_threshold(*samples([3.0] * 50 + [7.0] * 43), max_fn_rate=0.05)
    assert (found.threshold, found.misses) == (3.0, 0)


def test_the_probability_of_a_violation_is_that_of_the_order_statistic():
    """n = 200, 5%: rank 5, and the true FN rate at the threshold is Beta(5, 196): above .05 with probability .026."""
    exact = float(stats.beta.sf(0.05, 5, 196))
    assert exact == pytest.approx(0.026, abs=5e-4)
    rng, runs, violated = np.random.default_rng(0), 2000, 0
    for _ in range(runs):
        found = certify_threshold(*samples(rng.normal(size=200)), max_fn_rate=0.05)
        violated += special.ndtr(found.threshold) > 0.05
    assert violated / runs == pytest.approx(exact, abs=3 * math.sqrt(exact * (1 - exact) / runs))
    assert violated / runs <= 0.05


def test_beside_the_dense_network_by_search_over_every_threshold():
    """The bisection ends at the highest threshold at which the exact p-value allows it, and at the fewest FP."""
    rng = np.random.default_rng(3)
    scores, target = samples(rng.normal(1, 1, 80).round(1), rng.normal(-1, 1, 50).round(1))
    missed = rng.random(130) < 0.2
    found = certify_threshold(scores, target, dense_missed=missed, tolerance=0.1)
    positive = target == 1
    passing = []
    for t in np.unique(scores[positive]):
        b = int((positive & ~missed & (scores < t)).sum())
        a = int((positive & missed & (scores >= t)).sum())
        if statistics.exact_p_value(b, a, 80, 0.1) <= 0.05:
            passing.append(t)
    assert passing
    assert passing == list(np.unique(scores[positive])[: len(passing)])
    assert found.threshold == max(passing)
    assert found.misses == int((positive & (scores < found.threshold)).sum())
    assert found.rank == found.misses + 1
    assert found.fp == int((~positive & (scores >= found.threshold)).sum())
    assert found.fn_bound == 0.1
    assert "rise of the FN rate below 0.1 over the dense network" in found.reason


def test_beside_the_dense_network_the_violation_rate_is_within_alpha(monkeypatch):
    """n = 76, 5%: a tenth of the positives is missed by the dense network, whatever their score."""
    monkeypatch.setattr(statistics, "exact_p_value", lru_cache(maxsize=None)(statistics.exact_p_value))
    rng, runs, violated, told = np.random.default_rng(1), 1000, 0, 0
    for _ in range(runs):
        scores, missed = rng.normal(size=76), rng.random(76) < 0.1
        found = certify_threshold(*samples(scores), dense_missed=missed, tolerance=0.05)
        # Independent of the dense network's misses, so the true rise is the difference of the rates.
        violated += special.ndtr(found.threshold) - 0.1 >= 0.05
        told += found.misses > 0
    assert told > 0.9 * runs
    assert violated / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


def test_the_fp_cap_is_a_second_claim():
    rng = np.random.default_rng(5)
    scores, target = samples(rng.normal(3, 1, 200), rng.normal(0, 1, 400))
    free = certify_threshold(scores, target, max_fn_rate=0.05)
    assert free.fp_bound is not None
    assert free.fp_bound == pytest.approx(stats.beta.ppf(0.95, free.fp + 1, 400 - free.fp))
    # The threshold is chosen by the data, so the two claims together hold where each has half of the error level.
    each = certify_threshold(scores, target, max_fn_rate=0.05, confidence=0.975)
    assert each.fp_bound is not None
    assert each.fp_bound > free.fp_bound
    both = certify_threshold(scores, target, max_fn_rate=0.05, max_fp_rate=each.fp_bound)
    assert (both.threshold, both.fp, both.fn_bound, both.fp_bound) == (
        each.threshold,
        each.fp,
        each.fn_bound,
        each.fp_bound,
    )
    assert both.confidence == 0.95
    assert "0.975 confidence" in both.reason
    with pytest.raises(ValueError, match=f"max_fp_rate=.*{each.fp} of 400 negatives"):
        certify_threshold(scores, target, max_fn_rate=0.05, max_fp_rate=each.fp_bound - 1e-6)
    only_positives = samples(scores[:200])
    assert certify_threshold(*only_positives, max_fn_rate=0.05).fp_bound is None
    with pytest.raises(ValueError, match="max_fp_rate"):
        certify_threshold(*only_positives, max_fn_rate=0.05, max_fp_rate=0.9)


def test_tensors_and_lists_are_the_same_as_arrays():
    scores, target = samples(np.arange(100.0), np.arange(20.0) - 10)
    expected = certify_threshold(scores, target, max_fn_rate=0.1)
    tensors = torch.from_numpy(scores).to(torch.bfloat16), torch.from_numpy(target).bool()
    assert certify_threshold(*tensors, max_fn_rate=0.1) == expected
    assert certify_threshold(list(scores), list(target), max_fn_rate=0.1) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": np.zeros((100, 2))}, "scores must be .n,."),
        ({"scores": np.full(100, np.nan)}, "finite"),
        ({"target": np.full(100, 2)}, "target must be"),
        ({"target": np.ones(99)}, "target must be"),
        ({"max_fn_rate": 0.0}, "max_fn_rate=0.0"),
        ({"max_fn_rate": 1.5}, "max_fn_rate=1.5"),
        ({"max_fp_rate": 1.0}, "max_fp_rate=1.0"),
        ({"confidence": 95}, "confidence=95"),
        ({"max_fn_rate": None}, "either max_fn_rate, or dense_missed and tolerance"),
        ({"tolerance": 0.1}, "either max_fn_rate, or dense_missed and tolerance"),
        ({"max_fn_rate": None, "dense_missed": np.zeros(100)}, "either"),
        ({"max_fn_rate": None, "dense_missed": np.zeros(7), "tolerance": 0.1}, "dense_missed must be"),
        ({"max_fn_rate": None, "dense_missed": np.zeros(100), "tolerance": 2.0}, "tolerance=2.0"),
    ],
)
def test_bad_input(changes, message):
    good = {"scores": np.arange(100.0), "target": np.ones(100), "max_fn_rate": 0.1}
    with pytest.raises(ValueError, match=message):
        certify_threshold(**(good | changes))


def test_margins_of_many_classes_decide_as_argmax_does():
    scores = torch.tensor([[1.0, 3.0, 2.0], [5.0, 1.0, 1.0], [0.0, 1.0, 4.0]])
    target = torch.tensor([1, 0, 1])
    margins, positive = one_vs_rest(scores, target, 1)
    assert margins.tolist() == [1.0, -4.0, -3.0]
    assert positive.tolist() == [True, False, True]
    assert torch.equal(margins >= 0, scores.argmax(1) == 1)


def test_margins_of_one_logit_and_of_labels():
    logits, target = torch.tensor([2.0, -1.0]), torch.tensor([1, 0])
    for shaped in (logits, logits[:, None]):
        assert one_vs_rest(shaped, target, 1)[0].tolist() == [2.0, -1.0]
        margins, positive = one_vs_rest(shaped, target, 0)
        assert (margins.tolist(), positive.tolist()) == ([-2.0, 1.0], [False, True])
    labels = torch.tensor([[1, 0, 1], [0, 0, 1]])
    margins, positive = one_vs_rest(torch.arange(6.0).reshape(2, 3), labels, 2)
    assert (margins.tolist(), positive.tolist()) == ([2.0, 5.0], [True, True])


@pytest.mark.parametrize(
    ("scores", "target", "index", "message"),
    [
        (torch.zeros(3, 2), torch.zeros(4), 0, "do not go together"),
        (torch.zeros(3, 2, 2), torch.zeros(3), 0, "do not go together"),
        (torch.zeros(3, 2), torch.zeros(3), 2, "index=2"),
        (torch.zeros(3), torch.zeros(3), 2, "index=2"),
        (torch.zeros(3, 2), torch.zeros(3, 4), 1, "multi-label"),
    ],
)
def test_margins_of_what_makes_no_sense(scores, target, index, message):
    with pytest.raises(ValueError, match=message):
        one_vs_rest(scores, target, index)
