"""Channels as units of pruning, by hand and by their properties."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lightning_classprune.pruning.channel_units import ChannelUnits, prunable_groups
from lightning_classprune.pruning.criteria import magnitude, magnitude_increase
from lightning_classprune.pruning.masks import full_masks
from lightning_classprune.pruning.slicing import ChannelGroup

torch.set_num_threads(1)


def units(scope: Any = "global", by_layer: bool = False) -> ChannelUnits:
    """Two groups: three channels that `a` writes through the norm `n`, and two of `b`."""
    parameters = {
        "a.weight": nn.Parameter(torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0]])),
        "a.bias": nn.Parameter(torch.tensor([0.0, 9.0, 0.0])),
        "n.weight": nn.Parameter(torch.tensor([0.0, 1.0, 3.0])),
        "b.weight": nn.Parameter(torch.tensor([[10.0], [30.0]])),
        "head.weight": nn.Parameter(torch.ones(2, 2)),
    }
    three, two = torch.arange(3), torch.arange(2)
    groups = [
        ChannelGroup("a", 3, {"a.weight": three, "a.bias": three, "n.weight": three}, {"b.weight": three}),
        ChannelGroup("b", 2, {"b.weight": two}, {"head.weight": two}),
    ]
    return ChannelUnits(groups, parameters, scope, by_layer)


def shrink(cut: ChannelUnits, pruned: int, masks: Any = None, criterion: Any = magnitude) -> Any:
    start = {name: torch.full_like(p, 2.0) for name, p in cut.parameters.items()}
    return cut.shrink(
        masks or full_masks(cut.parameters),
        lambda name: criterion(cut.parameters[name].detach(), start[name]),
        pruned,
    )


def alive(masks: Any) -> list[list[int]]:
    return [masks["a.bias"].int().tolist(), masks["b.weight"][:, 0].int().tolist()]


def test_channels_are_counted_over_the_groups_and_cover_what_they_write():
    cut = units()
    assert (cut.total, cut.most) == (5, 3)
    assert set(cut.parameters) == {"a.weight", "a.bias", "n.weight", "b.weight"}
    assert cut.zeros() == 0
    cut.parameters["b.weight"].data[1] = 0
    assert cut.zeros() == 1
    cut.parameters["a.weight"].data[0] = 0
    assert cut.zeros() == 2, "gamma is zero already, and no bias"


def test_scores_are_squares_relative_to_the_group_without_biases():
    # a: 25 + 0, 1 + 1, 0 + 9 (mean 12) -> 2.08, 0.17, 0.75; b: 100, 900 (mean 500) -> 0.2, 1.8.
    order = [alive(shrink(units(), k)) for k in range(4)]
    assert order == [
        [[1, 1, 1], [1, 1]],
        [[1, 0, 1], [1, 1]],
        [[1, 0, 1], [0, 1]],
        [[1, 0, 0], [0, 1]],
    ]


def test_scores_are_relative_to_the_channels_that_are_left():
    # Without a's channel 1 its mean is 17: channel 2 scores 9 / 17, still above b's first.
    first = shrink(units(), 1)
    assert alive(shrink(units(), 2, first)) == [[1, 0, 1], [0, 1]]


def test_by_layer_a_channel_counts_relative_to_those_of_its_group_that_are_no_smaller():
    # a: 25, 2, 9 -> 1, 2 / 36, 9 / 34; b: 100, 900 -> 100 / 1000, 1. Each group keeps its largest.
    order = [alive(shrink(units(by_layer=True), k)) for k in range(4)]
    assert order == [
        [[1, 1, 1], [1, 1]],
        [[1, 0, 1], [1, 1]],
        [[1, 0, 1], [0, 1]],
        [[1, 0, 0], [0, 1]],
    ]
    cut = units(by_layer=True)
    cut.parameters["b.weight"].data[0] = 20.0  # 400 / 1300 is more than 9 / 34 now, and less than 9 / 12
    assert alive(shrink(cut, 2)) == [[1, 0, 0], [1, 1]]
    with pytest.raises(ValueError, match="NaN"):
        shrink(units(by_layer=True), 1, criterion=lambda weight, _: weight * float("nan"))


def test_a_channel_dies_with_all_that_writes_it():
    masks = shrink(units(), 1)
    assert masks["a.weight"].tolist() == [[True, True], [False, False], [True, True]]
    assert masks["a.bias"].tolist() == masks["n.weight"].tolist() == [True, False, True]
    assert units().pruned(masks) == 1


def test_one_scope_for_each_group():
    assert alive(shrink(units("layer"), 2)) == [[1, 0, 1], [0, 1]]
    assert alive(shrink(units("layer"), 3)) == [[1, 0, 0], [0, 1]]


def test_weights_that_shrank_come_before_weights_that_grew():
    # |w| - 2 with signs: a: 1 + 4 - 4, -1 - 4 - 1, -4 - 4 + 1; b: 64, 784.
    masks = shrink(units(), 2, criterion=magnitude_increase)
    assert alive(masks) == [[1, 0, 0], [1, 1]]


def test_no_group_loses_its_last_channel_and_no_score_may_be_nan():
    with pytest.raises(ValueError, match="from 0 to 3"):
        shrink(units(), 4)
    with pytest.raises(ValueError, match="NaN"):
        shrink(units(), 1, criterion=lambda weight, _: weight * float("nan"))


def test_channels_of_equal_score_leave_by_place():
    cut = units()
    for parameter in cut.parameters.values():
        parameter.data.fill_(1.0)
    assert [alive(shrink(cut, k)) for k in (1, 2, 3)] == [
        [[0, 1, 1], [1, 1]],
        [[0, 0, 1], [1, 1]],
        [[0, 0, 1], [0, 1]],
    ]


def test_zero_scores_divide_by_nothing():
    cut = units()
    for parameter in cut.parameters.values():
        parameter.data.zero_()
    assert cut.pruned(shrink(cut, 3)) == 3


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.data())
def test_any_number_of_channels_is_met_and_masks_only_shrink(sizes, data):
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    parameters = {
        f"{g}.weight": nn.Parameter(torch.randint(-2, 3, (n, 2), generator=generator).float())
        for g, n in enumerate(sizes)
    }
    groups = [ChannelGroup(str(g), n, {f"{g}.weight": torch.arange(n)}) for g, n in enumerate(sizes)]
    cut = ChannelUnits(groups, parameters, data.draw(st.sampled_from(["global", "layer"])))
    assert cut.most == sum(sizes) - len(sizes)
    masks, before = full_masks(parameters), 0
    for _ in range(3):
        pruned = data.draw(st.integers(before, cut.most))
        shrunk = shrink(cut, pruned, masks)
        assert cut.pruned(shrunk) == pruned
        for name, mask in shrunk.items():
            assert not (mask & ~masks[name]).any()
            assert torch.equal(mask.all(1), mask.any(1)), "a channel leaves as a whole"
        masks, before = shrunk, pruned


def test_the_score_is_the_group_importance_of_torch_pruning_for_what_writes():
    tp = pytest.importorskip("torch_pruning")
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 36, 2))
    net[1].weight.data.uniform_()
    graph = tp.DependencyGraph().build_dependency(net, torch.randn(1, 3, 8, 8))
    group = graph.get_pruning_group(net[0], tp.prune_conv_out_channels, list(range(5)))
    # Their group without the layer that reads.
    group._group = [item for item in group.items if item.dep.target.module is not net[4]]
    theirs = tp.importance.GroupMagnitudeImportance(p=2)(group)
    parameters = dict(net.named_parameters())
    mine = ChannelUnits(
        [ChannelGroup("0", 5, {n: torch.arange(5) for n in ("0.weight", "0.bias", "1.weight", "1.bias")})],
        parameters,
        "global",
    )
    scores = mine._importance(
        mine.groups[0], lambda name: parameters[name].detach().abs(), torch.ones(5, dtype=torch.bool)
    )
    torch.testing.assert_close(scores.float(), theirs)


def test_a_group_with_a_layer_that_may_not_be_pruned_stays():
    net = nn.ModuleDict({"a": nn.Linear(2, 3), "n": nn.BatchNorm1d(3), "b": nn.Linear(3, 2)})
    groups = units().groups
    chosen = {"a.weight": net["a"].weight}
    ready, held = prunable_groups(net, groups, chosen)
    assert [group.name for group in ready] == ["a"]
    assert held == ["b"]
