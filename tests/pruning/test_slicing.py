"""Slicing: layers become smaller plain layers, by hand; and what a forward takes and gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_classprune.pruning.slicing import (
    ChannelGroup,
    cpu_copy,
    fit_layer,
    mapped,
    moved,
    run,
    slice_channels,
    tensors,
)
from tests.support.compare import assert_same, weights
from tests.support.kit import tiny

torch.set_num_threads(1)


def test_slicing_makes_plain_smaller_layers():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(8, 2))
    net[1].running_mean.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    everyone = torch.arange(4)
    group = ChannelGroup(
        "0",
        4,
        {f"{name}.{part}": everyone for name in ("0", "1") for part in ("weight", "bias")},
        {"3.weight": everyone.repeat_interleave(2)},
    )
    before = net[3].weight.detach().clone()
    widths = slice_channels(net, [group], {"0": torch.tensor([False, True, False, True])})
    assert widths == {"0": (2, 4), "1": (2, 4)}
    assert (net[0].out_channels, net[1].num_features, net[3].in_features) == (2, 2, 4)
    assert net[1].running_mean.tolist() == [2.0, 4.0]
    assert torch.equal(net[3].weight, before[:, [2, 3, 6, 7]])
    assert net(torch.randn(5, 3, 1, 2)).shape == (5, 2)


def test_what_two_groups_write_and_read_leaves_by_each_ones_own_numbers() -> None:
    """A concatenation: rows of the norm and columns of the head belong to one group or the other."""
    net = nn.ModuleDict(
        {"a": nn.Conv2d(1, 2, 1), "b": nn.Conv2d(1, 3, 1), "norm": nn.BatchNorm2d(5), "head": nn.Linear(5, 2)}
    )
    first, second = torch.tensor([0, 1, -1, -1, -1]), torch.tensor([-1, -1, 0, 1, 2])
    groups = [
        ChannelGroup("a", 2, {"a.weight": first[:2], "norm.weight": first}, {"head.weight": first}),
        ChannelGroup("b", 3, {"b.weight": second[2:], "norm.weight": second}, {"head.weight": second}),
    ]
    before = weights(net)
    kept = {"a": torch.tensor([True, False]), "b": torch.tensor([False, True, True])}
    assert slice_channels(net, groups, kept) == {"a": (1, 2), "b": (2, 3), "norm": (3, 5)}
    assert_same(net["head"].weight.detach(), before["head.weight"][:, [0, 3, 4]])
    assert_same(net["norm"].running_var, before["norm.running_var"][[0, 3, 4]])
    assert net["norm"].num_batches_tracked.ndim == 0


def test_what_loses_nothing_stays_the_object_that_it_was() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    held = list(net.parameters())
    group = ChannelGroup("0", 4, {"0.weight": torch.arange(4)}, {"1.weight": torch.arange(4)})
    assert slice_channels(net, [group], {"0": torch.ones(4).bool()}) == {}
    assert all(a is b for a, b in zip(held, net.parameters(), strict=True))


def test_a_frozen_layer_stays_frozen() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    net[0].weight.requires_grad_(False)
    group = ChannelGroup("0", 4, {"0.weight": torch.arange(4), "0.bias": torch.arange(4)}, {})
    slice_channels(net, [group], {"0": torch.tensor([True, False, True, True])})
    assert [p.requires_grad for p in net[0].parameters()] == [False, True]


@pytest.mark.parametrize(
    ("layer", "shape", "numbers"),
    [
        (nn.Linear(5, 4), (2, 3), {"in_features": 3, "out_features": 2}),
        (nn.Conv2d(4, 6, 3, groups=2), (4, 1, 3, 3), {"in_channels": 2, "out_channels": 4, "groups": 2}),
        (nn.Conv1d(4, 4, 3, groups=4), (2, 1, 3), {"in_channels": 2, "out_channels": 2, "groups": 2}),
        (nn.BatchNorm2d(4), (3,), {"num_features": 3}),
        (nn.ConvTranspose2d(4, 6, 3), (2, 5, 3, 3), {"in_channels": 4, "out_channels": 6}),
    ],
)
def test_a_layer_learns_its_numbers_from_its_weight(
    layer: Any, shape: tuple[int, ...], numbers: dict[str, int]
) -> None:
    layer.weight = nn.Parameter(torch.zeros(shape))
    fit_layer(layer)
    assert {name: getattr(layer, name) for name in numbers} == numbers


# --- what a forward takes and gives ---

X, Y, N = torch.ones(2), torch.zeros(3), torch.tensor([1, 2])


@pytest.mark.parametrize(
    ("example", "expected"),
    [
        (X, X + 1),
        ((X, N, "text"), (X + 1, N, "text")),
        ([X, None], (X + 1, None)),
        ({"x": X, "n": N}, {"x": X + 1, "n": N}),
    ],
)
def test_every_floating_tensor_of_an_example_is_changed(example: Any, expected: Any) -> None:
    assert_same(mapped(example, lambda tensor: tensor + 1), expected)
    assert_same(moved(mapped(example, lambda tensor: tensor + 1), "cpu"), expected)


def test_an_example_is_moved_without_its_graph() -> None:
    grown = torch.ones(2, requires_grad=True) * 2
    example = moved((grown, N), "cpu")
    assert not example[0].requires_grad


class Adding(nn.Module):
    def forward(self, x: Tensor, y: Tensor | float = 0.0) -> Tensor:
        return x + y


@pytest.mark.parametrize(
    ("example", "total"), [(X, 2.0), ((X, 1.0), 4.0), ([X, X], 4.0), ({"y": 2.0, "x": X}, 6.0)]
)
def test_an_example_is_one_tensor_positions_or_names(example: Any, total: float) -> None:
    assert float(run(Adding(), example).sum()) == total


def test_all_tensors_of_an_output() -> None:
    assert_same(tensors({"a": X, "b": [Y, (N, "text")], "c": None}), [X, Y, N])
    assert tensors("text") == []
    assert tensors(X)[0] is X


def test_a_copy_is_in_eval_mode_and_the_original_is_left_alone() -> None:
    net = tiny()
    twin = cpu_copy(net)
    assert (net.training, twin.training) == (True, False)
    assert_same(weights(twin), weights(net))
    twin.net[0].weight.data.zero_()
    assert net.net[0].weight.any()


def test_the_copy_of_a_compiled_module_is_not_compiled() -> None:
    net = tiny()
    twin = cpu_copy(torch.compile(net, backend="eager"))
    x = torch.ones(2, 8)
    assert torch.equal(twin(x), net.eval()(x))
