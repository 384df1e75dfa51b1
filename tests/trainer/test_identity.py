"""What can be told of users' functions and objects: equal where they are, in every process, and different where not."""

from __future__ import annotations

import ast
import functools
import io
import operator
import subprocess
import sys
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from lightning_classprune.rounds.resuming import STATE_VERSION, check_same_run
from lightning_classprune.trainer.identity import identity, is_opaque
from tests.support import ROOT
from tests.support.kit import plain_pruner


class Scaled:
    """A criterion with something to set."""

    def __init__(self, scale: Any) -> None:
        self.scale = scale

    def __call__(self, weight: Tensor, rewind_point: Tensor) -> Tensor:
        return weight.abs() * self.scale

    def score(self, weight: Tensor, rewind_point: Tensor) -> Tensor:
        return weight.abs() * self.scale

    def other(self, weight: Tensor, rewind_point: Tensor) -> Tensor:
        return weight.abs() * self.scale


class Stateful(Scaled):
    """It says itself what matters."""

    def __init__(self, scale: float, scratch: str) -> None:
        super().__init__(scale)
        self.scratch = scratch

    def state_dict(self) -> dict[str, Any]:
        return {"scale": self.scale}


class Slotted:
    """Nothing can be told of it."""

    __slots__ = ("scale",)

    def __call__(self, weight: Tensor, rewind_point: Tensor) -> Tensor:
        return weight


class Level(IntEnum):
    LOW = 1
    HIGH = 2


def power(weight: Tensor, rewind_point: Tensor, exponent: float = 1.0, *, sign: int = 1) -> Tensor:
    return sign * weight.abs() ** exponent


def powered(exponent: Any) -> Any:
    """A function that depends on where it was made."""

    def score(weight: Tensor, rewind_point: Tensor) -> Tensor:
        return weight.abs() ** exponent

    return score


def with_default(exponent: float) -> Any:
    def score(weight: Tensor, rewind_point: Tensor, exponent: float = exponent) -> Tensor:
        return weight.abs() ** exponent

    return score


def with_keyword(exponent: float) -> Any:
    def score(weight: Tensor, rewind_point: Tensor, *, exponent: float = exponent) -> Tensor:
        return weight.abs() ** exponent

    return score


def either(first: bool) -> Any:
    """Two functions of one name."""
    if first:

        def score(weight: Tensor, rewind_point: Tensor) -> Tensor:
            return weight.abs()
    else:

        def score(weight: Tensor, rewind_point: Tensor) -> Tensor:
            return -weight.abs()

    return score


PAIRS: dict[str, tuple[Any, Any]] = {
    "instances": (Scaled(1.0), Scaled(-1.0)),
    "attributes of another kind": (Scaled(None), Scaled("none")),
    "tensors": (Scaled(torch.tensor([1.0, 2.0])), Scaled(torch.tensor([1.0, 2.5]))),
    "shapes": (Scaled(torch.zeros(2, 3)), Scaled(torch.zeros(3, 2))),
    "dtypes": (Scaled(torch.zeros(2)), Scaled(torch.zeros(2, dtype=torch.int32))),
    "arrays": (Scaled(np.array([1, 2])), Scaled(np.array([2, 1]))),
    "nested": (Scaled({"a": [1, (2, 3)]}), Scaled({"a": [1, (2, 4)]})),
    "sets": (Scaled({"a", "b"}), Scaled({"a", "c"})),
    "classes": (Scaled(1.0), Stateful(1.0, "")),
    "states": (Stateful(1.0, "x"), Stateful(-1.0, "x")),
    "functions": (power, powered(1.0)),
    "lambdas": (lambda w, r: w.abs(), lambda w, r: -w.abs()),
    "constants of lambdas": (lambda w, r: w * 2, lambda w, r: w * 3),
    "lambdas in lambdas": (lambda w, r: (lambda: 2)() * w, lambda w, r: (lambda: 3)() * w),
    "names in lambdas": (lambda w, r: w.abs(), lambda w, r: w.neg()),
    "functions of one name": (either(True), either(False)),
    "partials": (functools.partial(power, exponent=1.0), functools.partial(power, exponent=2.0)),
    "places of partials": (functools.partial(power, 1), functools.partial(power, 2)),
    "functions of partials": (functools.partial(power), functools.partial(powered(1.0))),
    "closures": (powered(1.0), powered(2.0)),
    "tensors in closures": (powered(torch.ones(2)), powered(torch.zeros(2))),
    "functions in closures": (powered(either(True)), powered(either(False))),
    "defaults": (with_default(1.0), with_default(2.0)),
    "keywords": (with_keyword(1.0), with_keyword(2.0)),
    "objects of methods": (Scaled(1.0).score, Scaled(2.0).score),
    "methods": (Scaled(1.0).score, Scaled(1.0).other),
    "builtins": (torch.abs, torch.neg),
    "types": (dict, list),
}


@pytest.mark.parametrize("name", PAIRS)
def test_what_differs_is_told_apart_in_each_place_where_a_user_may_give_it(name: str) -> None:
    one, other = PAIRS[name]
    assert identity(one) == identity(one)
    assert identity(one) != identity(other)
    for option in ("criterion", "predict", "prunable"):
        mine, theirs = (plain_pruner(**{option: given}).settings.state_dict() for given in (one, other))
        assert mine != theirs
        with pytest.raises(MisconfigurationException, match=rf"other settings: (Cut\.)?{option} was "):
            check_same_run({"version": STATE_VERSION, "settings": theirs}, mine)
        check_same_run({"version": STATE_VERSION, "settings": mine}, dict(mine))


def test_what_is_made_alike_is_the_same() -> None:
    for made in (
        lambda: Scaled(torch.tensor([1.0, 2.0])),
        lambda: Stateful(1.0, "x"),
        lambda: powered(2.0),
        lambda: powered({"a": torch.ones(2)}),
        lambda: functools.partial(power, exponent=2.0),
        lambda: Scaled(3).score,
        lambda: with_keyword(2.0),
        lambda: Scaled(float("nan")),
    ):
        assert made() is not made()
        assert identity(made()) == identity(made())
    assert identity(Stateful(1.0, "x")) == identity(Stateful(1.0, "y"))


def test_a_closure_is_told_as_far_as_it_has_values() -> None:
    """A `predict` may name the callback that it is about to be given to."""

    def predict(module: Any, batch: Any) -> Any:
        return module(batch[0]) * factor, callback

    factor = 2.0
    assert identity(predict)["closure"] == {"factor": 2.0}
    callback = plain_pruner(predict=predict)
    assert callback.settings.state_dict()["predict"]["closure"] == {"factor": 2.0}


def test_an_object_that_holds_itself_has_an_end() -> None:
    scaled = Scaled([1])
    scaled.scale.append(scaled)
    assert identity(scaled) == identity(scaled)
    assert not is_opaque(identity(scaled))


def test_a_network_is_told_by_its_class() -> None:
    """A checkpoint has its weights."""
    assert identity(nn.Linear(2, 3)) == identity(nn.Linear(4, 5)) == "torch.nn.modules.linear.Linear"
    module = nn.Linear(2, 3)
    assert identity(module.forward) == identity(nn.Linear(2, 3).forward)


def test_a_safe_load_takes_what_is_told() -> None:
    told = identity(
        Scaled(
            {
                "numpy": (np.float64(0.5), np.float32(0.5), np.int64(3), np.str_("a"), np.bool_(True)),
                "enum": Level.HIGH,
                "dtype": torch.float16,
                "bytes": b"\x00",
                "path": Path("a") / "b",
                "module": torch,
                3: frozenset({1, 2}),
            }
        )
    )
    file = io.BytesIO()
    torch.save(told, file)
    file.seek(0)
    assert torch.load(file, weights_only=True) == told
    assert told["state"]["scale"]["enum"] == "2"
    assert told["state"]["scale"]["path"] == str(Path("a") / "b")


@pytest.mark.parametrize(
    "opaque", [Slotted(), operator.itemgetter(0), powered(Slotted()), functools.partial(power, Slotted())]
)
def test_what_cannot_be_told_is_not_continued(opaque: Any) -> None:
    """Only where it would matter: a run may begin with it."""
    assert is_opaque(identity(opaque))
    mine = plain_pruner(criterion=opaque).settings.state_dict()
    with pytest.raises(
        MisconfigurationException, match=r"Cut.criterion cannot be compared.*give it state_dict\(\)"
    ):
        check_same_run({"version": STATE_VERSION, "settings": mine}, mine)


def test_a_checkpoint_of_another_version_is_not_read() -> None:
    with pytest.raises(MisconfigurationException, match=f"version 1; this package reads {STATE_VERSION}"):
        check_same_run({"version": 1, "settings": {}}, {})


TELL = """
import functools, torch
from lightning_classprune.trainer.identity import identity
from tests.trainer.test_identity import Scaled, either, power, powered, with_keyword

print(identity([
    power, powered(2.0), powered(torch.arange(3)), either(False), with_keyword(0.5),
    functools.partial(power, exponent=2.0), Scaled({"a", "b", "c", "d"}), Scaled(torch.ones(2)).score,
    lambda name, parameter: name in {"a", "b", "c", "d"} or (name, 1) in ((x, 1) for x in "ef"),
]))
"""


@pytest.mark.processes
def test_two_processes_tell_the_same() -> None:
    """Whatever seed Python gives its hashes: here that of this process, there one."""
    here: list[Any] = []
    exec(TELL, {"__name__": "__main__", "print": here.append})
    environment = {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "1", "PYTHONWARNINGS": "ignore", "PATH": ""}
    command = [sys.executable, "-c", TELL]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
    there = ast.literal_eval(done.stdout)
    assert [there] == here
    assert there[:3] == identity([power, powered(2.0), powered(torch.arange(3))])


def test_a_function_for_a_key_is_told_as_elsewhere() -> None:
    told = identity({power: 1, powered(2.0): 2, "power": 3, 4: 5})
    assert told == identity({power: 1, powered(2.0): 2, "power": 3, 4: 5})
    assert sorted(told.values()) == [1, 2, 3, 5]
    assert told["4"] == 5
    assert not any("0x" in key for key in told)
    assert is_opaque(identity({operator.itemgetter(0): 1}))
