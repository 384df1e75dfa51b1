"""The decision offset: the worked example, counts against counting one by one, and what is chosen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_classprune.guard import statistics
from lightning_classprune.guard.evidence import Evidence
from lightning_classprune.guard.offset import (
    WANT,
    Counted,
    Labels,
    Sweep,
    Tables,
    _tables,
    as_often,
    biases,
    chance_on_both_sides,
    choose_offset,
    one_table,
    thresholds,
)
from lightning_classprune.guard.protected import Protected
from lightning_classprune.guard.tolerance import FNTolerance

DENSE_POSITIVES = [-1.5 + 0.25 * i for i in range(20)]
DENSE_NEGATIVES = [-4 + 0.2 * j for j in range(30)]
POSITIVES = [
    *(-1.7, -1.9, -1.8, -1.1, -1.3, -0.9, -0.2, -0.4, -0.3, 0.4),
    *(0.2, 0.6, 1.3, 1.1, 1.2, 1.9, 1.7, 2.1, 2.8, 2.6),
]
NEGATIVES = [
    *(-4.1, -4.5, -4.3, -4.1, -3.3, -3.7, -3.5, -3.3, -2.5, -2.9, -2.7, -2.5, -1.7, -2.1, -1.9),
    *(-1.7, -0.9, -1.3, -1.1, -0.9, -0.1, -0.5, -0.3, -0.1, 0.7, 0.3, 0.5, 0.7, 1.5, 1.1),
]


def protected(rate: float = 0.05, max_fp_rise: float | None = 0.1) -> Protected:
    return Protected(1, "c", FNTolerance(rate=rate), max_fp_rise)


def sweep_of(margin: list[float], truth: list[bool], dense: list[bool]) -> Sweep:
    everywhere = np.ones(len(margin), dtype=bool)
    return Sweep(
        np.array(margin, dtype=np.float64),
        {"c": np.array(truth, dtype=bool)},
        {"c": np.array(dense, dtype=bool)},
        {"c": everywhere},
        {"c": ~everywhere},
    )


WORKED = sweep_of(
    POSITIVES + NEGATIVES,
    [True] * 20 + [False] * 30,
    [score >= -1e-9 for score in DENSE_POSITIVES + DENSE_NEGATIVES],
)


def test_the_worked_example_under_a_cap_on_false_alarms() -> None:
    """With fb - fa <= .05 of 30 negatives, the highest threshold of the largest chance is -.45: (0, 0, 0, 1)."""
    tried = thresholds(WORKED.margin)
    misses, alarms = _tables(WORKED, "c", tried)
    assert (misses.support, misses.dense_wrong, alarms.support, alarms.dense_wrong) == (20, 6, 30, 10)
    chance = statistics.chances_of_proof(misses.new, misses.gone, 20, 0.05, 0.05, 205)
    chance = np.where(alarms.new - alarms.gone <= 0.05 * 30, chance, -1)
    best = int(np.flatnonzero(chance == chance.max())[-1])
    assert tried[best] == pytest.approx(-0.45)
    assert chance[best] == pytest.approx(0.687116, abs=1e-6)
    assert misses.at(best) == Evidence(20, 6, 0, 0)
    assert alarms.at(best) == Evidence(30, 10, 0, 1)


def test_thresholds_stand_between_margins_and_beyond_both_ends() -> None:
    assert thresholds(np.array([1.0, 0.0, 1.0, 3.0])).tolist() == [-1.0, 0.5, 2.0, 4.0]
    assert thresholds(np.zeros(0)).tolist() == [0.0]


MARGINS = st.lists(
    st.tuples(st.integers(-4, 4).map(float), st.booleans(), st.booleans()), min_size=1, max_size=30
)


@given(MARGINS)
def test_counts_at_every_threshold_are_those_of_counting(cases: list[tuple[float, bool, bool]]) -> None:
    sweep = sweep_of(*(list(column) for column in zip(*cases, strict=True)))
    tried = thresholds(sweep.margin)
    misses, alarms = _tables(sweep, "c", tried)
    truth, dense = sweep.truth["c"], sweep.dense["c"]
    for i, threshold in enumerate(tried):
        now = sweep.margin >= threshold
        assert misses.new[i] == int((truth & dense & ~now).sum())
        assert misses.gone[i] == int((truth & ~dense & now).sum())
        assert alarms.new[i] == int((~truth & ~dense & now).sum())
        assert alarms.gone[i] == int((~truth & dense & ~now).sum())


@given(MARGINS)
def test_a_class_is_decided_as_often_as_by_the_dense_network(cases: list[tuple[float, bool, bool]]) -> None:
    sweep = sweep_of(*(list(column) for column in zip(*cases, strict=True)))
    dense = sweep.dense["c"].sum()
    apart = [abs(int((sweep.margin >= one).sum() - dense)) for one in thresholds(sweep.margin)]
    assert abs(int((sweep.margin >= as_often(sweep, "c")).sum() - dense)) == min(apart)


@given(MARGINS, st.floats(0.1, 0.99))
def test_of_good_thresholds_without_more_misses_one_with_the_fewest_alarms_and_then_misses_is_chosen(
    cases: list[tuple[float, bool, bool]], want: float
) -> None:
    sweep = sweep_of(*(list(column) for column in zip(*cases, strict=True)))
    one, labels = protected(0.3, 0.3), {"c": Labels(200, 300)}
    choice = choose_offset(sweep, [one], labels, 0.05, want)
    tried = thresholds(sweep.margin)
    chances = chance_on_both_sides(*_tables(sweep, "c", tried), one, labels["c"], 0.05)
    good = tried[chances >= min(want, chances.max())]
    truth, dense = sweep.truth["c"], sweep.dense["c"]

    def wrong(threshold: float) -> tuple[int, int]:
        """False alarms and misses."""
        now = sweep.margin >= threshold
        return int((~truth & now).sum()), int((truth & ~now).sum())

    no_more = [threshold for threshold in good if wrong(threshold)[1] <= int((truth & ~dense).sum())]
    fewest = min(wrong(threshold) for threshold in no_more or good)
    best = [threshold for threshold in no_more or good if wrong(threshold) == fewest]
    assert choice.threshold == best[len(best) // 2]
    assert choice.chance == chances[tried == choice.threshold][0]


def test_nothing_found_is_given_away_where_no_false_alarm_is_saved() -> None:
    """The dense network misses 2 of 40; the candidate can find all of them, with no more false alarms."""
    truth = [True] * 40 + [False] * 40
    margin = [0.1, 0.2, *(1.0 + 0.1 * i for i in range(38)), *(-1.0 - 0.1 * i for i in range(40))]
    dense = [False, False] + [True] * 38 + [False] * 40
    sweep, labels = sweep_of(margin, truth, dense), {"c": Labels(200, 200)}
    choice = choose_offset(sweep, [protected(0.1)], labels, 0.05)
    assert choice.chance >= WANT
    assert choice.threshold == pytest.approx(-0.45)  # halfway from the alarm at -1 to the miss at .1
    assert choice.misses["c"] == Evidence(40, 2, 0, 2)


def test_of_thresholds_that_decide_alike_the_middle_one_is_chosen() -> None:
    """Counted on a grid: no alarm from 0 on, a miss from .8 on."""
    grid = np.arange(10) / 10
    alarms = (grid < 0).astype(np.int64)
    misses = (grid >= 0.75).astype(np.int64) * 5
    none = np.zeros(10, dtype=np.int64)
    sweep = Counted(grid, {"c": (Tables(100, 0, misses, none), Tables(100, 0, alarms, none))})
    assert choose_offset(sweep, [protected(0.1)], {"c": Labels(200, 200)}, 0.05).threshold == 0.4


def test_a_tolerance_is_not_used_up_where_it_need_not_be() -> None:
    """A candidate that is the dense network, of a class with so many cases that 40 more misses would be proved."""
    generator = np.random.default_rng(0)
    truth = np.arange(3000) < 2000
    dense = generator.normal(size=3000) + 2 * truth - 1
    sweep = sweep_of(dense.tolist(), truth.tolist(), (dense >= 0).tolist())
    limits, labels = protected(0.05, 0.1), {"c": Labels(2000, 1000)}
    misses, alarms = _tables(sweep, "c", thresholds(sweep.margin))
    chances = chance_on_both_sides(misses, alarms, limits, labels["c"], 0.05)
    assert misses.at(int(np.flatnonzero(chances >= WANT)[-1])).newly_missed > 40
    choice = choose_offset(sweep, [limits], labels, 0.05)
    assert (
        choice.misses["c"].newly_missed
        == choice.misses["c"].newly_found
        == choice.alarms["c"].newly_missed
        == 0
    )


def test_a_network_that_slid_along_its_roc_curve_is_moved_back() -> None:
    """The candidate is the dense network with all scores .8 lower: its offset undoes just that."""
    generator = np.random.default_rng(0)
    truth = np.arange(400) < 150
    dense = generator.normal(size=400) + 2 * truth - 1
    sweep = sweep_of((dense - 0.8).tolist(), truth.tolist(), (dense >= 0).tolist())
    choice = choose_offset(sweep, [protected()], {"c": Labels(300, 500)}, 0.05)
    assert -1.0 < choice.threshold < -0.5
    assert choice.chance >= WANT
    assert choice.misses["c"].newly_missed <= 4


def test_no_cases_no_chance() -> None:
    sweep = sweep_of([0.0, 1.0], [True, True], [True, False])
    assert choose_offset(sweep, [protected()], {"c": Labels(100, 100)}, 0.05).chance == 0.0
    assert choose_offset(WORKED, [protected()], {"c": Labels(0, 100)}, 0.05).chance == 0.0


def test_a_side_that_is_not_guarded_is_not_counted() -> None:
    misses, alarms = Evidence(100, 10, 1, 1), Evidence(100, 10, 60, 0)
    sides = one_table(misses), one_table(alarms)
    labels = Labels(1000, 1000)
    assert chance_on_both_sides(*sides, protected(0.1, None), labels, 0.05)[0] > 0.9
    assert chance_on_both_sides(*sides, protected(0.1, 0.1), labels, 0.05)[0] < 1e-6


def test_biases_are_one_a_class_or_one_for_one_logit() -> None:
    assert biases({"b": 0.5}, ["a", "b"], 2) == [0.0, 0.5]
    assert biases({"a": 0.25, "b": 0.5}, ["a", "b"], 1) == [0.25]


def test_conditions_have_a_say_where_they_are_counted_at_the_same_thresholds() -> None:
    """In fog the network is the same, or its margins are lower by .4, or they were counted at other thresholds."""
    limits, labels = (protected(0.2, 0.2),), {"c": Labels(205, 450)}
    lower = sweep_of(
        [margin - 0.4 for margin in POSITIVES + NEGATIVES],
        WORKED.truth["c"].tolist(),
        WORKED.dense["c"].tolist(),
    )

    def chosen(*under: Sweep | Counted) -> tuple[float, float]:
        choice = choose_offset(WORKED, limits, labels, 0.05, 1.0, under=[(one, limits) for one in under])
        return choice.threshold, choice.chance

    threshold, chance = chosen()
    assert chosen(WORKED) == (threshold, pytest.approx(chance**2))
    assert chosen(Counted(np.zeros(1), {})) == (threshold, chance)
    moved, less = chosen(lower)
    assert moved < threshold
    assert less < chance


def test_infinite_margins_lie_beyond_all_thresholds() -> None:
    infinite = float("inf")
    assert thresholds(np.array([-infinite, 0.0, 1.0, infinite])).tolist() == [-1.0, 0.5, 2.0]
    assert thresholds(np.array([-infinite, infinite])).tolist() == [0.0]
    sweep = sweep_of([-infinite, 0.0, 1.0, infinite], [True, False, True, False], [True, False, True, False])
    misses, alarms = _tables(sweep, "c", sweep.tried)
    assert (misses.new.tolist(), alarms.new.tolist()) == ([1, 1, 2], [2, 1, 1])
