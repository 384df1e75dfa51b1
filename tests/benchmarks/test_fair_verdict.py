"""benchmarks/fair_verdict.py: what is at the limit, and what is spared decides nothing."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import fair_verdict as fv
from lightning_classprune.guard import statistics, verdict


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in (
        (statistics, "exact_p_value"),
        (statistics, "positives_needed"),
        (verdict, "BOUND_UP_TO"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name))
    fv.quick()


@pytest.mark.parametrize(
    ("side", "expected"), [("misses", (0.05, 0.0)), ("false alarms", (0, 0.1)), ("both", (0.05, 0.1))]
)
@pytest.mark.parametrize("offset", [0.0, -0.7, 1.3])
def test_at_the_limit_the_true_rises_are_the_limits_whatever_the_offset(side, expected, offset):
    means = fv.means_at_limit(offset, fv.World(), fv.SIDES[side])
    assert fv.true_rises(offset, means) == pytest.approx(expected, abs=1e-12)


def test_the_draws_have_the_rates_and_correlations_that_they_are_to_have():
    """Of 20,000 cases each, by five standard errors."""
    part = fv.draw(fv.World(common=0.5), 20_000, 20_000, np.random.default_rng(0))
    decided = part.dense_scores() >= 0
    assert np.mean(~decided[part.target]) == pytest.approx(fv.MISSED, abs=0.017)
    assert np.mean(decided[~part.target]) == pytest.approx(fv.CALLED, abs=0.013)
    first, second = part.candidates[:2]
    assert np.corrcoef(part.dense, first)[0, 1] == pytest.approx(0.9, abs=0.005)
    assert np.corrcoef(first, second)[0, 1] == pytest.approx(0.81 + 0.19 * 0.5, abs=0.005)


def test_blocks_hold_as_many_cases_as_asked_and_identical_ones():
    rng = np.random.default_rng(1)
    sizes = fv.blocks(500, 1.0, rng)
    assert sizes.sum() == 500
    assert set(sizes[:-1].tolist()) == {2, 3, 4, 5, 6}
    assert fv.blocks(7, 0.0, rng).tolist() == [1] * 7
    part = fv.draw(fv.World(grouped=1.0), 100, 50, rng)
    assert len(part.target) == 150
    assert part.target.sum() == 100
    assert len(np.unique(part.dense)) < 80
    assert len(np.unique(part.candidates[0])) == len(np.unique(part.dense))


@pytest.mark.parametrize(("n", "delta"), [(76, 0.05), (205, 0.05), (450, 0.10)])
def test_spared_p_values_are_above_alpha(n, delta):
    for missed in range(0, 60, 6):
        for found in range(0, 15, 5):
            exact, spared = (
                statistics.exact_p_value(missed, found, n, delta),
                fv.quick_p_value(missed, found, n, delta),
            )
            assert spared == exact or (spared == 1.0 and exact > fv.ALPHA)


def test_one_candidate_is_judged_as_the_exact_test_alone_would(quick):
    """K = 1: accepted exactly when both p-values are at most .05."""
    world = fv.World()
    part = fv.guard(world, np.random.default_rng(2))
    dense = part.decided_by(world, part.dense_scores())
    for shift in (-0.6, -0.2, 0.0, 0.2, 0.6):
        seen = fv.counted(world, part, dense, part.dense_scores() + shift, fv.Look())
        misses, alarms = seen.counted
        p_values = (
            statistics.exact_p_value(misses.newly_missed, misses.newly_found, 205, 0.05),
            statistics.exact_p_value(alarms.newly_missed, alarms.newly_found, 450, 0.10),
        )
        assert fv.any_accepted(world.judge(dense), [seen]) == (max(p_values) <= 0.05)


@pytest.mark.parametrize("as_dense", [False, True])
@pytest.mark.parametrize("always", [False, True])
def test_a_constant_network_is_never_accepted_and_no_measure(quick, as_dense, always):
    assert fv.constant(fv.World(), always, as_dense, 5, 3) == 0


def test_harmless_networks_are_accepted_and_counts_repeat_with_the_seed(quick):
    of = fv.as_in_a_run(fv.World(), 0.0, True, 20, 4, fv.World())
    assert of.accepted > 10
    assert of == fv.as_in_a_run(fv.World(), 0.0, True, 20, 4, fv.World())
