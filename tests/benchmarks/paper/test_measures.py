"""benchmarks/paper/measures.py on numbers small enough to do by hand, and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import benchmarks.paper.measures as pm

# Scores from the largest down: + + - + - -, decided at 0.5.
SIX = pm.Scored(
    np.array([0.9, 0.8, 0.7, 0.4, 0.3, 0.1]),
    np.array([1, 1, 1, 0, 0, 0], bool),
    np.array([1, 1, 0, 1, 0, 0], bool),
)


def test_six_samples_by_hand():
    found = {name: float(value[0]) for name, value in pm.measures(SIX).items()}
    assert found == pytest.approx(
        {
            "fn": 1,
            "fp": 1,
            "recall": 2 / 3,
            "fpr": 1 / 3,
            "balanced_accuracy": 2 / 3,
            "auc_roc": 8 / 9,
            "auc_pr": (1 + 1 + 3 / 4) / 3,
            "fn_at_fpr_1": 1,
            "fn_at_fpr_5": 1,
        }
    )


def test_matched_fpr_counts_a_tie_with_a_negative_as_missed():
    tied = pm.Scored(np.array([2.0, 1, 1, 0]), np.ones(4, bool), np.array([1, 1, 0, 0], bool))
    assert pm.measures(tied)["fn_at_fpr_1"] == 1
    assert pm.found_at_fpr(tied, 0.01).tolist() == [True, False, False, False]
    assert pm.found_at_fpr(tied, 0.5).tolist() == [True, True, True, False]


def test_matched_fpr_when_a_negative_is_on_top_misses_everything():
    worst = pm.Scored(np.array([3.0, 2, 1]), np.ones(3, bool), np.array([0, 1, 1], bool))
    assert pm.measures(worst)["fn_at_fpr_1"] == 2


def test_a_class_that_is_missing_is_an_error():
    with pytest.raises(ValueError, match="both classes"):
        pm.measures(pm.Scored(np.zeros(2), np.zeros(2, bool), np.ones(2, bool)))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(4, 40), st.integers(2, 9))
def test_equals_scikit_learn_with_ties_and_weights(seed, n, levels):
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    positive = np.arange(n) < rng.integers(1, n)
    scored = pm.Scored(rng.integers(levels, size=n).astype(float), rng.random(n) < 0.5, positive)
    weights = pm.resamples(positive, 3, rng)
    found = pm.measures(scored, weights)
    for b, w in enumerate(weights):
        kept = np.repeat(np.arange(n), w.astype(int))
        y, s, d = positive[kept], scored.score[kept], scored.found[kept]
        assert found["auc_roc"][b] == pytest.approx(metrics.roc_auc_score(y, s))
        assert found["auc_pr"][b] == pytest.approx(metrics.average_precision_score(y, s))
        assert found["balanced_accuracy"][b] == pytest.approx(metrics.balanced_accuracy_score(y, d))
        fpr, tpr, _ = metrics.roc_curve(y, s, drop_intermediate=False)
        assert found["fn_at_fpr_5"][b] == pytest.approx((1 - tpr[fpr <= 0.05].max()) * y.sum())


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.01, 0.05, 0.3]))
def test_decisions_at_a_matched_fpr_give_its_count(seed, rate):
    rng = np.random.default_rng(seed)
    positive = np.arange(60) < 20
    scored = pm.Scored(rng.integers(25, size=60).astype(float), positive, positive)
    decided = pm.found_at_fpr(scored, rate)
    assert decided[~positive].mean() <= rate
    if rate in pm.FPRS:
        assert (positive & ~decided).sum() == pm.measures(scored)[f"fn_at_fpr_{rate * 100:.0f}"][0]


def test_an_offset_is_the_highest_threshold_with_so_many_misses_elsewhere():
    # SIX's positives are at .9, .8 and .4: one miss puts the threshold at .8, none at .4; three find nothing.
    decided = [pm.with_offset(SIX, SIX, misses).found.tolist() for misses in (1, 0, 3)]
    assert decided == [[True, True, False, False, False, False], [True] * 4 + [False] * 2, [False] * 6]


def test_resamples_keep_the_size_of_both_classes():
    positive = np.array([1, 0, 0, 1, 0], bool)
    weights = pm.resamples(positive, 50, np.random.default_rng(0))
    assert (weights[:, positive].sum(1) == 2).all()
    assert (weights[:, ~positive].sum(1) == 3).all()


def test_the_difference_of_constants_has_no_width_and_seeds_alone_give_width():
    rng = np.random.default_rng(0)
    ten, four = np.full((3, 5000), 10.0), np.full((3, 5000), 4.0)
    same = pm.paired_difference(four[:, 0], ten[:, 0], four, ten, rng)
    assert (same.mean, same.low, same.high) == (-6, -6, -6)
    assert (same.ratio, same.ratio_low, same.ratio_high) == pytest.approx((-0.6, -0.6, -0.6))
    arm = np.array([1.0, 2, 9])
    spread = pm.paired_difference(arm, ten[:, 0], np.repeat(arm[:, None], 5000, 1), ten, rng)
    assert spread.low == -9  # three times the seed of 1
    assert spread.high == -1
    assert spread.mean == -6


def test_mcnemar_by_hand():
    reference = np.array([1, 1, 1, 1, 0, 0], bool)
    arm = np.array([1, 1, 1, 0, 1, 1], bool)
    assert pm.mcnemar(reference, arm) == (1, 2, 1.0)
    assert pm.mcnemar(np.zeros(5, bool), np.ones(5, bool)) == (0, 5, 2 / 32)
    assert pm.mcnemar(arm, arm) == (0, 0, 1.0)
