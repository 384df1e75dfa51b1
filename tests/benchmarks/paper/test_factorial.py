"""benchmarks/paper/factorial.py: effects of a made-up 2 x 2 x 2 x 2, known by construction."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.paper.factorial import ARMS, FACTORS, effect, factor_rows

# Misses that each factor takes away; seed s starts at 100 + 10 s, and a resample moves all cells alike.
TAKES = (40.0, 0.0, 8.0, 2.0)
DENSITY = 0.01


def made_up(arms: Any = ARMS) -> Any:
    point, boot = {}, {}
    for arm, seed in product(arms, (1, 2, 3)):
        misses = 100 + 10 * seed - np.dot(ARMS[arm], TAKES[:3])
        point[arm, DENSITY, seed] = {"fn": misses, "fn_offset": misses - TAKES[3]} | dict.fromkeys(
            ("fp", "fp_offset", "fn_at_fpr_1", "auc_roc"), 0.5
        )
        boot[arm, DENSITY, seed] = {
            name: value + np.array([0.0, 1.0, -1.0, 2.0]) for name, value in point[arm, DENSITY, seed].items()
        }
    return SimpleNamespace(point=point, boot=boot)


def test_the_effect_of_each_factor_is_what_it_takes_away() -> None:
    rows = {(r["measure"], r["factor"]): r for r in factor_rows(made_up(), "cracks", DENSITY)}
    for factor, taken in zip(FACTORS, TAKES, strict=True):
        row = rows["fn", factor]
        assert row["seeds"] == 3
        # All cells move alike from seed to seed and from resample to resample, so nothing is uncertain.
        assert (row["mean"], row["low"], row["high"]) == pytest.approx((-taken,) * 3)
        rest = 120 - sum(TAKES) / 2 + taken / 2
        assert (row["without"], row["with"]) == pytest.approx((rest, rest - taken))


def test_scores_alone_have_no_offset() -> None:
    found = [r["factor"] for r in factor_rows(made_up(), "cracks", DENSITY) if r["measure"] == "auc_roc"]
    assert found == list(FACTORS[:3])


def test_an_interaction_is_spread_over_the_others_levels() -> None:
    cells = {
        levels: (np.array([float(levels == (1, 1))]), np.zeros((1, 2)))
        for levels in product((0, 1), repeat=2)
    }
    assert effect(cells, 0)[:2] == (0.0, 0.5)


def test_nothing_is_said_where_an_arm_is_missing() -> None:
    assert factor_rows(made_up(list(ARMS)[1:]), "cracks", DENSITY) == []
