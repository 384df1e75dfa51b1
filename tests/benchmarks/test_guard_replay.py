"""benchmarks/guard_replay.py: the guard replayed on known outcomes."""

from __future__ import annotations

import numpy as np
import pytest

import benchmarks.guard_replay as gr
from lightning_classprune.guard.evidence import Evidence
from lightning_classprune.guard.protected import Protected
from lightning_classprune.guard.tolerance import FNTolerance
from lightning_classprune.guard.verdict import judge_class


def missed(pool: int, *counts: int) -> np.ndarray:
    """Networks that miss the first so many positives each; the first is dense."""
    return np.array([np.arange(pool) < count for count in counts])


@pytest.mark.parametrize(("n", "delta"), [(76, 0.05), (200, 0.02)])
def test_the_rules_decide_as_the_guard_does(n, delta):
    b, a = (x.ravel() for x in np.meshgrid(np.arange(0, 14, 3), np.arange(0, 12, 3)))
    limits, alarms = Protected(1, "sick", FNTolerance(rate=delta)), Evidence(0, 0, 0, 0)
    for rule, level in ((gr.exact_rule, 0.05), (gr.point_rule, None)):
        expected = [
            judge_class(Evidence(n, 20, int(x), int(y)), alarms, limits, level).outcome == "accepted"
            for x, y in zip(b, a, strict=True)
        ]
        assert rule(b, a, n, delta).tolist() == expected


def test_truth_is_the_rise_over_dense():
    assert gr.truth(missed(100, 10, 12, 7)).tolist() == pytest.approx([0, 0.02, -0.03])


def test_identical_networks_are_all_delivered_and_a_ruined_one_never():
    rng = np.random.default_rng(0)
    same = gr.replay([missed(500, 50, 50, 50)], 200, 0.05, gr.exact_rule, 0, 300, rng)
    assert same == gr.Replay(violates=0.0, delivered=2.0, refused=0.0)
    ruined = gr.replay([missed(500, 50, 500, 50)], 200, 0.05, gr.exact_rule, 0, 300, rng)
    assert ruined == gr.Replay(violates=0.0, delivered=0.0, refused=1.0)


def test_at_the_tolerance_the_point_rule_is_a_coin_flip_and_the_exact_one_is_not():
    rng = np.random.default_rng(1)
    edge = [missed(1000, 50, 100)]
    point = gr.replay(edge, 200, 0.05, gr.point_rule, 0, 4000, rng)
    exact = gr.replay(edge, 200, 0.05, gr.exact_rule, 0, 4000, rng)
    assert 0.45 < point.violates < 0.65
    assert exact.violates < 0.06  # nominal 0.05 and four standard errors of 4000 draws


def test_a_retry_takes_the_other_seeds_network_and_a_refusal_ends_without_one():
    rng = np.random.default_rng(2)
    bad, good = missed(400, 20, 400, 20), missed(400, 20, 20, 20)
    assert gr.replay([bad, good], 100, 0.05, gr.point_rule, 0, 50, rng).delivered == 0
    again = gr.replay([bad, good], 100, 0.05, gr.point_rule, 1, 50, rng)
    assert again == gr.Replay(violates=0.0, delivered=2.0, refused=1.0)
    twice = missed(400, 20, 400, 400)
    assert gr.replay([twice, good], 100, 0.05, gr.point_rule, 1, 50, rng).delivered == 1


@pytest.mark.parametrize("counts", [(10, 10, 3, 90), (0, 40, 5, 5)])
def test_shifting_puts_every_round_at_the_tolerance_by_the_fewest_changes(counts):
    before = missed(200, *counts)
    after = gr.shifted(before, 0.05, np.random.default_rng(0))
    assert gr.truth(after)[1:].tolist() == pytest.approx([0.05] * 3)
    assert (after[0] == before[0]).all()
    assert (after != before).sum() == sum(abs(c - counts[0] - 10) for c in counts[1:])


def test_shifting_rounds_up_to_a_whole_positive():
    after = gr.shifted(missed(30, 3, 3), 0.05, np.random.default_rng(0))
    assert after.sum(1).tolist() == [3, 5]
