"""The error budget: levels by hand, the proof walked over all outcomes, and a simulation."""

import functools
import json
import math

import numpy as np
import pytest

from lightning_classprune.guard import statistics
from lightning_classprune.guard.error_budget import ErrorBudget


def test_fixed_sequence_keeps_its_level():
    budget = ErrorBudget(alpha=0.05, retries=0, max_tests=3)
    for _ in range(3):
        assert budget.level() == 0.05
        budget = budget.spend(accepted=True)
    assert budget.exhausted
    for call in (budget.level, lambda: budget.spend(accepted=True)):
        with pytest.raises(RuntimeError, match="3 of max_tests=3"):
            call()


def test_a_refusal_ends_the_fixed_sequence():
    budget = ErrorBudget(alpha=0.05, retries=0, max_tests=3).spend(accepted=False)
    assert budget.exhausted
    with pytest.raises(RuntimeError, match="1 refusals with retries=0"):
        budget.level()


def test_strict_levels():
    budget = ErrorBudget(alpha=0.05, retries=2, max_tests=20)
    assert budget.level() == pytest.approx(0.0375)
    budget = budget.spend(accepted=True).spend(accepted=False)
    assert budget.level() == pytest.approx(0.0125 / (2 * 19))
    budget = budget.spend(accepted=False)
    assert budget.level() == pytest.approx(0.0125 / (2 * 171))
    assert budget.spend(accepted=True).level() == budget.level()
    assert budget.spend(accepted=False).exhausted


def test_the_point_rule_has_no_level_but_the_same_limits():
    budget = ErrorBudget(alpha=None, retries=1, max_tests=5)
    assert budget.level() is None
    assert budget.spend(accepted=False).level() is None
    assert budget.spend(accepted=False).spend(accepted=False).exhausted


def test_budget_survives_json():
    budget = ErrorBudget(0.05, 2, 20).spend(accepted=True).spend(accepted=False)
    assert ErrorBudget.from_dict(json.loads(json.dumps(budget.to_dict()))) == budget


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ((0.0, 0, 1), "alpha must be"),
        ((0.05, -1, 1), "retries must be"),
        ((0.05, True, 1), "retries must be"),
        ((0.05, 0, 0), "max_tests must be"),
        ((0.05, 0, 2, -1), "tests must be"),
        ((0.05, 0, 2, 1, 0.5), "refusals must be"),
        ((0.05, 0, 2, 3), "tests and refusals must have been reachable"),
        ((0.05, 0, 3, 2, 2), "tests and refusals must have been reachable"),
        ((0.05, 3, 3, 1, 2), "tests and refusals must have been reachable"),
    ],
)
def test_budget_errors_name_the_argument(fields, message):
    with pytest.raises(ValueError, match=message):
        ErrorBudget(*fields)


SETTINGS = [(0, 1), (0, 7), (1, 1), (1, 7), (2, 9), (3, 10), (5, 5)]


@pytest.mark.parametrize(("retries", "max_tests"), SETTINGS)
def test_levels_of_all_reachable_segments_sum_to_alpha_at_most(retries, max_tests):
    """The proof, walked: each segment is charged once, over every pattern of outcomes."""

    def charge(budget, first_of_segment):
        if budget.exhausted:
            return 0.0
        return (
            budget.level() * first_of_segment
            + charge(budget.spend(True), False)
            + charge(budget.spend(False), True)
        )

    assert charge(ErrorBudget(0.05, retries, max_tests), True) <= 0.05 + 1e-12


@pytest.mark.parametrize(("retries", "max_tests"), SETTINGS)
def test_no_strategy_beats_the_budget(retries, max_tests):
    """Exact: an adversary who sees every outcome proposes harmful candidates or safe ones that pass or fail at will.

    A harmful one is accepted with the full probability of the level, independently of the others.
    """

    @functools.cache
    def worst(budget):
        if budget.exhausted:
            return 0.0
        after_accept, after_refusal = worst(budget.spend(True)), worst(budget.spend(False))
        harmful = budget.level() + (1 - budget.level()) * after_refusal
        return max(harmful, after_accept, after_refusal)

    start = worst(ErrorBudget(0.05, retries, max_tests))
    assert start <= 0.05 + 1e-12
    assert start >= 0.05 * 0.75


@pytest.mark.parametrize("retries", [0, 2])
def test_family_wise_error_on_shared_guard_data(retries):
    """2000 runs on paired samples, every candidate just harmful and a small change of the one before.

    The bound is alpha plus three standard errors (.015).
    """
    rng, n, delta, runs = np.random.default_rng(7), 200, 0.05, 2000
    p_value = functools.cache(lambda b, a: statistics.exact_p_value(b, a, n, delta))
    wrong = 0
    for _ in range(runs):
        dense_missed = rng.random(n) < 0.05
        draws = rng.random(n)
        budget = ErrorBudget(0.05, retries, 8)
        while not budget.exhausted:
            # Half of the dense misses are found again, so this rate makes the rise exactly delta.
            missed = np.where(dense_missed, draws < 0.5, draws < (0.025 + delta) / 0.95)
            newly_missed, newly_found = (
                int((missed & ~dense_missed).sum()),
                int((dense_missed & ~missed).sum()),
            )
            if p_value(newly_missed, newly_found) <= budget.level():
                wrong += 1
                break
            budget = budget.spend(accepted=False)
            draws = np.where(rng.random(n) < 0.7, draws, rng.random(n))
    assert wrong / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)
    assert wrong > 0
