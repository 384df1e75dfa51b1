"""Units: every weight alone; whole fits with other units are in test_granularities."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_classprune.pruning.masks import full_masks
from lightning_classprune.pruning.units import SingleWeights, Units
from lightning_classprune.trainer.processes import Processes
from lightning_classprune.trainer.sharding import Sharding

torch.set_num_threads(1)


def single(scope: str = "global", by_layer: bool = False) -> SingleWeights:
    parameters = {
        "a": nn.Parameter(torch.tensor([[1.0, -4.0], [0.0, 2.0]])),
        "b": nn.Parameter(torch.tensor([-5.0, 3.0, 0.0])),
    }
    return SingleWeights(parameters, scope, Sharding(Processes()), by_layer)


def test_every_weight_counts_and_each_tensor_keeps_one() -> None:
    units: Units = single()
    assert (units.name, units.total, units.most, units.zeros()) == ("weights", 7, 5, 2)
    assert units.pruned(full_masks(units.parameters)) == 0


@pytest.mark.parametrize(
    ("scope", "a", "b"),
    [
        ("global", [[False, True], [False, False]], [True, True, False]),
        ("layer", [[False, True], [False, True]], [True, False, False]),
    ],
)
def test_the_smallest_scores_leave_over_all_or_in_every_tensor(
    scope: str, a: list[list[bool]], b: list[bool]
) -> None:
    units = single(scope)
    masks = units.shrink(full_masks(units.parameters), lambda name: units.parameters[name].detach().abs(), 4)
    assert units.pruned(masks) == 4
    assert masks["a"].tolist() == a
    assert masks["b"].tolist() == b


def test_by_layer_a_weight_counts_relative_to_those_of_its_tensor_that_are_no_smaller() -> None:
    # a: 1 / 21, 16 / 16, 0, 4 / 20; b: 1, 9 / 34, 0.
    units, asked = single(by_layer=True), list[str]()

    def scores(name: str) -> torch.Tensor:
        asked.append(name)
        return units.parameters[name].detach().abs()

    masks = units.shrink(full_masks(units.parameters), scores, 4)
    assert masks["a"].tolist() == [[False, True], [False, False]]
    assert masks["b"].tolist() == [True, True, False]
    assert asked == ["a", "b"], "each is scored once"


def test_what_cannot_be_pruned_is_refused() -> None:
    units = single()
    masks = full_masks(units.parameters)
    with pytest.raises(ValueError, match="from 0 to 5"):
        units.shrink(masks, lambda name: units.parameters[name].detach().abs(), 6)
    with pytest.raises(ValueError, match="NaN"):
        units.shrink(masks, lambda name: units.parameters[name].detach() * float("nan"), 1)


def gated(scope: str = "global") -> SingleWeights:
    parameters = {
        "rnn": nn.Parameter(torch.arange(1.0, 13.0).view(6, 2)),
        "head": nn.Parameter(torch.tensor([[0.5, 20.0]])),
    }
    return SingleWeights(parameters, scope, Sharding(Processes()), gates={"rnn": 3})


def test_every_gate_of_a_tensor_keeps_a_weight() -> None:
    units = gated()
    assert (units.total, units.most) == (14, 10)
    masks = units.shrink(full_masks(units.parameters), lambda name: units.parameters[name].detach(), 10)
    assert {name: mask.nonzero().tolist() for name, mask in masks.items()} == {
        "rnn": [[1, 1], [3, 1], [5, 1]],  # the largest of each two rows
        "head": [[0, 1]],
    }
    with pytest.raises(ValueError, match="from 10 to 10"):
        units.shrink(masks, lambda name: units.parameters[name].detach(), 11)


def test_gates_change_nothing_but_which_weight_is_spared_and_read_the_scores_once_a_pass() -> None:
    torch.manual_seed(0)
    parameters = {name: nn.Parameter(torch.randn(12, 5)) for name in "ab"}
    plain, with_gates = (
        SingleWeights(parameters, "global", Sharding(Processes()), gates=gates)
        for gates in ({}, {"a": 4, "b": 3})
    )
    asked: list[str] = []

    def scores(name: str) -> torch.Tensor:
        asked.append(name)
        return parameters[name].detach().abs()

    masks = full_masks(parameters)
    expected, counts = plain.shrink(masks, scores, 70), len(asked)
    found = with_gates.shrink(masks, scores, 70)
    assert all(torch.equal(expected[name], found[name]) for name in "ab")
    assert all(found[name].is_contiguous() for name in "ab")
    assert len(asked) <= 2 * counts
    by_gate = SingleWeights(parameters, "layer", Sharding(Processes()), gates={"a": 4, "b": 3})
    layered = by_gate.shrink(masks, scores, 60)
    assert all(int(gate.sum()) in (7, 8) for gate in layered["a"].chunk(4))
    assert by_gate.pruned(layered) == 60


@pytest.mark.parametrize(
    ("rows", "count", "world"), [(12, 4, 3), (12, 4, 5), (9, 3, 2), (4, 4, 8), (8, 1, 3)]
)
def test_the_gates_of_a_sharded_tensor_are_those_of_the_whole(rows: int, count: int, world: int) -> None:
    whole = torch.arange(rows)
    parts: list[list[int]] = [[] for _ in range(count)]
    for rank in range(world):
        sharding = Sharding(Processes(rank, world), frozenset({"a"}))
        units = SingleWeights(
            {"a": nn.Parameter(torch.zeros(rows, 2))}, "global", sharding, gates={"a": count}
        )
        piece = sharding.pieces({"a": whole})["a"]
        for part, own in zip(parts, units._rows("a", piece), strict=True):
            part += piece[own].tolist()
    assert parts == [gate.tolist() for gate in whole.view(count, -1)]
