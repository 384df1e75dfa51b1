"""The benchmark of corruption: what it reads off the margins of two networks, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.robustness import (
    CLEAN,
    auc,
    average_precision,
    interval,
    measured,
    measured_boxes,
    new_module,
)
from lightning_classprune.job.data.base import TensorBatches

Y = np.array([1, 1, 1, 1, 0, 0, 0, 0])
DENSE = [-1.0, 1.0, 2.0, 3.0, -3.0, -2.0, -1.5, 0.5]  # misses one, one false alarm


def test_the_network_is_built_as_the_job_builds_one() -> None:
    one = torch.zeros(1)
    train = TensorBatches(torch.zeros(4, 1, 16, 16), torch.tensor([0, 1, 0, 1]), one, one + 1)
    module = new_module(train, [2, 2])
    assert module(train.x).shape == (4, 2)
    assert module.make_optimizer(module.parameters()).param_groups[0]["lr"] == 3e-3
    assert module.scheduler_interval == "step"


def test_misses_are_compared_at_equal_clean_misses() -> None:
    """The pruned network's scores are the dense one's and 5 more: the same network at another threshold."""
    same = [value + 5 for value in DENSE]
    fogged = [value - 1.5 for value in DENSE]
    found = {
        "1": {CLEAN: DENSE, "fog": fogged},
        "0.1": {CLEAN: same, "fog": [value - 1.5 for value in same]},
    }
    told = measured(Y, found)
    assert (told["1", CLEAN]["fn"], told["1", CLEAN]["fp"]) == (0.25, 0.25)
    assert told["1", "fog"]["fn"] == 0.5
    for name in (CLEAN, "fog"):
        rises = told["0.1", name]
        assert (rises["fn_rise"], rises["fp_rise"], rises["auc_rise"]) == (0, 0, 0)


def test_the_area_and_the_interval() -> None:
    assert auc(Y, np.array(DENSE)) == 15 / 16
    assert auc(Y, np.zeros(8)) == 0.5
    mean, half = interval([0.0, 0.1])
    assert (mean, half) == (pytest.approx(0.05), pytest.approx(12.706 * 0.05, rel=1e-3))


def test_the_average_precision_by_hand() -> None:
    """Right, wrong, right of three boxes: precision 1 up to a recall of 1/3, 2/3 up to 2/3."""
    assert average_precision(np.array([0.9, 0.5]), np.array([0.7]), 3) == pytest.approx((1 + 2 / 3) / 3)
    assert average_precision(np.zeros(0), np.array([0.7]), 3) == 0


def test_boxes_are_compared_at_equal_clean_misses() -> None:
    """The pruned network finds as many clean boxes from a threshold of .2 on as the dense one from .3."""
    dense = {"boxes": 4, "matched": [0.9, 0.8, 0.4, 0.1], "unmatched": [0.5]}
    dense_fog = {"boxes": 4, "matched": [0.9, 0.2], "unmatched": [0.5, 0.4]}
    pruned = {"boxes": 4, "matched": [0.6, 0.3, 0.2], "unmatched": [0.4, 0.25, 0.1]}
    fog = {"boxes": 4, "matched": [0.3, 0.25, 0.1], "unmatched": []}
    found = {
        "1": {CLEAN: {"a": dense}, "fog": {"a": dense_fog}},
        "0.1": {CLEAN: {"a": pruned}, "fog": {"a": fog}},
    }
    told = measured_boxes(found, "a", 0.3)
    assert (told["1", CLEAN]["fn"], told["1", CLEAN]["fp"]) == (0.25, 0.25)
    assert told["1", "fog"]["fn"] == 0.75
    assert (told["0.1", CLEAN]["fn_rise"], told["0.1", CLEAN]["fp_rise"]) == (0, 0.25)
    assert (told["0.1", "fog"]["fn_rise"], told["0.1", "fog"]["fp_rise"]) == (-0.25, -0.5)
