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
    assert asked == ["a", "b"], "each is sorted once"


def test_what_cannot_be_pruned_is_refused() -> None:
    units = single()
    masks = full_masks(units.parameters)
    with pytest.raises(ValueError, match="from 0 to 5"):
        units.shrink(masks, lambda name: units.parameters[name].detach().abs(), 6)
    with pytest.raises(ValueError, match="NaN"):
        units.shrink(masks, lambda name: units.parameters[name].detach() * float("nan"), 1)
