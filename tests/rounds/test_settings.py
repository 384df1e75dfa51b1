import io
import math
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_classprune.guard.tolerance import FNTolerance
from lightning_classprune.pruning.criteria import magnitude, random
from lightning_classprune.rounds.rewind import Rewind
from lightning_classprune.rounds.settings import Settings

DEFAULTS = {
    "num_classes": 2,
    "protect": {1: 0.05},
    "class_names": None,
    "confidence": 0.95,
    "target_sparsity": 0.99,
    "prune_fraction": 0.2,
    "criterion": "magnitude",
    "scope": "global",
    "granularity": "weight",
    "threshold": 0.0,
    "rewind": "init",
    "on_refusal": "stop",
    "retries": 0,
    "max_rounds": None,
    "baseline": "train",
    "schedule": "fixed",
    "round_epochs": None,
    "max_total_epochs": None,
}


def parse(**given):
    return Settings.parse(**DEFAULTS | given)


def test_the_defaults_in_the_form_that_the_parts_use():
    assert parse() == Settings(
        num_classes=2,
        protect={1: FNTolerance(rate=0.05)},
        class_names=("0", "1"),
        confidence=0.95,
        target_sparsity=0.99,
        prune_fraction=0.2,
        criterion=magnitude,
        scope="global",
        granularity="weight",
        threshold=0.0,
        rewind=Rewind("init", 0),
        on_refusal="stop",
        retries=0,
        max_rounds=None,
        baseline="train",
        schedule=None,
        round_epochs=None,
        max_total_epochs=None,
    )


NAN, INF = math.nan, math.inf

BAD = {
    "num_classes": [1, 0, -2, 2.0, True, "2", None],
    "class_names": [
        ["a"],
        ["a", "b", "c"],
        ["a", "a"],
        "ab",
        [0, 1],
        ["a", None],
        [["a"], ["b"]],
        5,
        {"a", "b"},
    ],
    "confidence": [0, 1, 0.49, -0.1, 1.5, NAN, "0.95", True],
    "target_sparsity": [0, 1, 0.0, 1.0, -0.1, 99, NAN, INF, "0.9", None, True],
    "prune_fraction": [0, 1, -0.2, 20, NAN, "0.2", None],
    "criterion": ["size", "", None, 3, ["magnitude"]],
    "scope": ["layers", "", None, ["global"]],
    "granularity": ["filter", "", None, 24, ["weight"]],
    "threshold": [NAN, INF, -INF, "0", None, True],
    "rewind": ["epoch", "epoch:", "epoch:-1", "epoch:1.5", "step:x", "init:0", "lr ", "", None, 3, "none:2"],
    "on_refusal": ["continue", "", None],
    "retries": [-1, 1.0, "1", None, True],
    "max_rounds": [0, -1, 2.0, "3", True],
    "schedule": ["adaptative", "", None, 0.2, ["fixed"]],
    "round_epochs": [0, -1, 2.0, "3", True],
    "max_total_epochs": [0, -1, 2.0, "3", True],
    "baseline": ["dense", "", None],
    "protect": [
        {},
        None,
        [1],
        0.05,
        {2: 0.05},
        {-1: 0.05},
        {"2": 0.05},
        {"-1": 0.05},
        {"malignant": 0.05},
        {True: 0.05},
        {1.0: 0.05},
        {None: 0.05},
        {1: -0.1},
        {1: 5},
        {1: NAN},
        {1: "0.05"},
        {1: None},
        {1: 0.05, "1": 0.05},
    ],
}


def test_every_argument_has_bad_values_here():
    assert BAD.keys() == DEFAULTS.keys()


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in BAD.items() for value in values]
)
def test_a_bad_value_is_refused_with_the_arguments_name(name, value):
    with pytest.raises(ValueError, match=name):
        parse(**{name: value})


@pytest.mark.parametrize(
    ("given_together", "message"),
    [
        ({"retries": 1}, "retries=1 does not go with on_refusal='stop'"),
        ({"on_refusal": "retry"}, "retries=0 does not go with on_refusal='retry'"),
        ({"baseline": "current"}, "baseline='current' .*rewind='init'.*use rewind='lr' or rewind='none'"),
        ({"baseline": "current", "rewind": "epoch:2"}, "baseline='current'.*rewind='epoch:2'"),
        ({"protect": {1: FNTolerance(factor=1.5)}}, r"protect\[1\]: .*factor needs confidence=None"),
        (
            {"protect": {"sick": 3}, "class_names": ["well", "sick"]},
            r"protect\['sick'\]: FNTolerance: rate must be a number in \[0, 1\]",
        ),
        (
            {"protect": {"ill": 0.1}, "class_names": ["well", "sick"]},
            "unknown class 'ill'; allowed are 0 to 1 or 'well', 'sick'",
        ),
        ({"protect": {"ill": 0.1}}, "allowed are 0 to 1, or names with class_names="),
        ({"protect": {"sick": 0.1, 1: 0.1}, "class_names": ["well", "sick"]}, "class 'sick' is given twice"),
    ],
)
def test_arguments_that_do_not_go_together(given_together, message):
    with pytest.raises(ValueError, match=message):
        parse(**given_together)


@pytest.mark.parametrize(
    ("protect", "expected"),
    [
        ({0: 0}, {0: FNTolerance(rate=0.0)}),
        ({1: 1}, {1: FNTolerance(rate=1.0)}),
        ({"1": 0.05}, {1: FNTolerance(rate=0.05)}),
        ({"sick": 0.05}, {1: FNTolerance(rate=0.05)}),
        ({np.int64(1): np.float32(0.5)}, {1: FNTolerance(rate=0.5)}),
        ({1: FNTolerance(count=2)}, {1: FNTolerance(count=2)}),
        ({1: FNTolerance(rate=0.1, recall_floor=0.8)}, {1: FNTolerance(rate=0.1, recall_floor=0.8)}),
        ({"sick": 0.1, 0: 0.2}, {1: FNTolerance(rate=0.1), 0: FNTolerance(rate=0.2)}),
    ],
)
def test_every_form_of_a_protected_class(protect, expected):
    parsed = parse(protect=protect, class_names=["well", "sick"])
    assert parsed.protect == expected
    assert all(type(index) is int for index in parsed.protect)


def test_a_name_goes_before_an_index_that_reads_the_same():
    assert parse(class_names=["1", "0"], protect={"1": 0.05}).protect == {0: FNTolerance(rate=0.05)}
    assert parse(class_names=["1", "0"], protect={1: 0.05}).protect == {1: FNTolerance(rate=0.05)}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("num_classes", np.int64(7), 7),
        ("class_names", ("a", "b"), ("a", "b")),
        ("confidence", None, None),
        ("confidence", 0.5, 0.5),
        ("confidence", np.float64(0.9), 0.9),
        ("confidence", Fraction(9, 10), 0.9),
        ("target_sparsity", 1e-9, 1e-9),
        ("target_sparsity", np.float64(0.5), 0.5),
        ("prune_fraction", 0.999, 0.999),
        ("criterion", "random", random),
        ("scope", "layer", "layer"),
        ("threshold", -2, -2.0),
        ("rewind", "epoch:3", Rewind("epoch", 3)),
        ("rewind", "step:0", Rewind("step", 0)),
        ("rewind", "lr", Rewind("lr")),
        ("rewind", "none", Rewind("none")),
        ("max_rounds", 1, 1),
        ("max_rounds", np.int32(4), 4),
    ],
)
def test_good_values_become_plain_ones(name, value, expected):
    parsed = getattr(parse(**{name: value}), name)
    assert parsed == expected
    assert type(parsed) is type(expected)


@pytest.mark.parametrize("rewind", ["lr", "none"])
def test_pairs_that_go_together(rewind):
    assert parse(on_refusal="retry", retries=2).retries == 2
    assert parse(baseline="current", rewind=rewind).baseline == "current"
    factor = FNTolerance(factor=1.5)
    assert parse(confidence=None, protect={1: factor}).protect == {1: factor}


def test_the_error_level_is_exact_in_decimals():
    assert [parse(confidence=c).alpha for c in (None, 0.5, 0.9, 0.95, 0.99, 0.999)] == [
        None,
        0.5,
        0.1,
        0.05,
        0.01,
        0.001,
    ]


@pytest.mark.parametrize(
    ("sparsity", "total", "pruned"),
    [(0.5, 10, 5), (0.5, 11, 6), (0.9, 10, 9), (0.29, 100, 29), (0.07, 100, 7), (0.99, 1, 1), (1e-9, 5, 1)],
)
def test_the_target_in_weights_by_hand(sparsity, total, pruned):
    """.29 * 100 is 28.999999999999996 in floats and .07 * 100 is 7.000000000000001: neither may count."""
    assert parse(target_sparsity=sparsity).target(total) == pruned


@given(st.integers(1, 9999), st.integers(1, 10**9))
def test_the_target_is_the_smallest_share_that_is_enough(parts, total):
    pruned = parse(target_sparsity=parts / 10_000).target(total)
    wanted = Fraction(parts, 10_000)
    assert Fraction(pruned, total) >= wanted > Fraction(pruned - 1, total)


def test_the_state_is_made_of_what_a_safe_load_takes():
    parsed = parse(
        num_classes=np.int64(2),
        protect={np.int64(1): FNTolerance(count=np.int64(3), recall_floor=np.float64(0.8))},
        class_names=["well", "sick"],
        confidence=np.float64(0.9),
        target_sparsity=np.float64(0.5),
        prune_fraction=np.float32(0.25),
        threshold=np.float32(0.5),
        rewind="step:7",
        on_refusal="retry",
        retries=np.int64(2),
        max_rounds=np.int64(9),
        criterion="magnitude_increase",
    )
    file = io.BytesIO()
    torch.save(parsed.state_dict(), file)
    file.seek(0)
    assert torch.load(file, weights_only=True) == {
        "num_classes": 2,
        "class_names": ["well", "sick"],
        "protect": {"sick": {"rate": None, "count": 3, "factor": None, "recall_floor": 0.8}},
        "confidence": 0.9,
        "target_sparsity": 0.5,
        "prune_fraction": 0.25,
        "criterion": "magnitude_increase",
        "scope": "global",
        "granularity": "weight",
        "threshold": 0.5,
        "rewind": "step:7",
        "retries": 2,
        "max_rounds": 9,
        "baseline": "train",
        "schedule": "fixed",
        "round_epochs": None,
        "max_total_epochs": None,
    }


def test_a_callable_criterion_is_known_by_its_name():
    def own(weight, rewind_point):
        return weight

    assert parse(criterion=own).state_dict()["criterion"].endswith("own")
    assert parse(criterion=partial(own)).state_dict()["criterion"] == "partial"


CHANGES = {
    "num_classes": 3,
    "protect": {1: 0.06},
    "class_names": ["a", "b"],
    "confidence": 0.9,
    "target_sparsity": 0.9,
    "prune_fraction": 0.3,
    "criterion": "random",
    "scope": "layer",
    "granularity": "channel",
    "threshold": 0.5,
    "rewind": "epoch:1",
    "max_rounds": 3,
    "schedule": "adaptive",
    "round_epochs": 2,
    "max_total_epochs": 20,
}


@pytest.mark.parametrize("name", list(CHANGES))
def test_two_runs_with_other_settings_have_other_states(name):
    assert parse(**{name: CHANGES[name]}).state_dict() != parse().state_dict()
