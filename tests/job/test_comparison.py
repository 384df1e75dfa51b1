"""Dense beside delivered."""

from __future__ import annotations

import pytest
import torch

from lightning_classprune.guard.outcomes import Decisions
from lightning_classprune.job.comparison import RATES, compared, measures
from lightning_classprune.job.final_test import Answers
from tests.job.report.pages import DELIVERED, DENSE, answers, scores


def test_one_network_by_hand() -> None:
    one = measures(answers(DENSE, "crack"), "crack")
    assert (one.missed.count, one.missed.cases, one.missed.share) == (1, 4, 0.25)
    assert (one.alarms.count, one.alarms.cases) == (1, 4)
    assert one.auc == 14 / 16
    # Positives -1, -2, 3, .5; negatives -4, -3, -2.5, .25: without an alarm two are found.
    assert one.missed_at == dict.fromkeys(RATES, 2)
    assert one.missed.interval == pytest.approx((0.0063, 0.8059), abs=1e-4)


def test_what_is_known_is_compared() -> None:
    both = compared(scores("crack"), ["crack"])
    assert {split: list(networks) for split, networks in both["crack"].items()} == {
        "guard": ["dense", "delivered"],
        "test": ["dense", "delivered"],
    }
    assert both["crack"]["test"]["delivered"] == measures(answers(DELIVERED, "crack"), "crack")
    assert compared({"test": {"delivered": answers(DENSE, "crack")}}, ["crack"])["crack"].keys() == {"test"}


def test_a_split_without_negatives_has_no_curve() -> None:
    target = torch.ones(2, dtype=torch.long)
    one = measures(Answers(Decisions(target, target, 2, ("a", "b")), {"b": torch.ones(2)}), "b")
    assert (one.auc, one.alarms.share, one.alarms.interval) == (None, None, None)
    assert set(one.missed_at.values()) == {None}
