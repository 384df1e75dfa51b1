"""The channel graph before it is tried: what it couples by hand, and why channels stay."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

torch_pruning = pytest.importorskip("torch_pruning")

from lightning_classprune.pruning.channel_graph import ChannelGraph  # noqa: E402

torch.set_num_threads(1)


def groups(net: nn.Module, example: Any) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Name of each group -> its size, what writes it and what reads it; and why layers stay."""
    stays: dict[str, str] = {}
    found = ChannelGraph(torch_pruning, net, example).groups(stays)
    told = {
        group.name: {
            "size": group.size,
            "outputs": {name: owner.tolist() for name, owner in group.outputs.items()},
            "inputs": {name: owner.tolist() for name, owner in group.inputs.items()},
        }
        for group in found
    }
    return told, stays


def test_a_chain_by_hand() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1))
    assert groups(net, torch.randn(1, 2)) == (
        {
            "0": {
                "size": 3,
                "outputs": {"0.weight": [0, 1, 2], "0.bias": [0, 1, 2]},
                "inputs": {"2.weight": [0, 1, 2]},
            },
            "2": {
                "size": 2,
                "outputs": {"2.weight": [0, 1], "2.bias": [0, 1]},
                "inputs": {"4.weight": [0, 1]},
            },
        },
        {"4": "it gives the output of the network"},
    )


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(2, 3), nn.Linear(2, 3, bias=False), nn.Linear(3, 2)
        self.idle = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.a(x) + self.b(x))


def test_what_is_added_up_leaves_together_and_what_is_not_reached_stays() -> None:
    found, stays = groups(Sum(), torch.randn(1, 2))
    ((name, group),) = found.items()
    assert name == "a"
    assert set(group["outputs"]) == {"a.weight", "a.bias", "b.weight"}
    assert stays == {
        "idle": "the forward does not reach it",
        "head": "it gives the output of the network",
    }


class Mixing(nn.Module):
    def __init__(self, mix: Any) -> None:
        super().__init__()
        self.a, self.head, self.mix = nn.Linear(2, 4), nn.Linear(4, 2), mix

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mix(self.a(x)))


@pytest.mark.parametrize(
    "reduce",
    [
        lambda y: y.amax((2, 3)),
        lambda y: y.amin((-1, -2)),
        lambda y: y.sum((2, 3), keepdim=True).flatten(1),
        lambda y: y.mean((-2, -1)),
    ],
)
def test_what_is_reduced_inside_each_channel_can_leave(reduce: Any) -> None:
    net = Mixing(reduce)
    net.a = nn.Conv2d(2, 4, 3)  # type: ignore[assignment]
    found, stays = groups(net, torch.randn(2, 2, 5, 5))
    assert found == {
        "a": {
            "size": 4,
            "outputs": {"a.weight": [0, 1, 2, 3], "a.bias": [0, 1, 2, 3]},
            "inputs": {"head.weight": [0, 1, 2, 3]},
        }
    }
    assert stays == {"head": "it gives the output of the network"}


@pytest.mark.parametrize(
    ("mix", "why"),
    [
        (lambda y: y.softmax(1), "Softmax may mix channels"),
        (lambda y: y.roll(1, dims=1), "Roll may mix channels"),
        (lambda y: y @ torch.eye(4), "Mm may mix channels"),
        (lambda y: y.amax(1, keepdim=True) * y, "a maximum is taken over samples or channels"),
        (lambda y: y.sum(0, keepdim=True) * y, "a sum is taken over samples or channels"),
        (lambda y: y - y.sum(), "a sum is taken over samples or channels"),
        (nn.LayerNorm(4), "mix (LayerNorm) mixes channels, or is not supported"),
    ],
)
def test_what_may_mix_channels_keeps_them(mix: Any, why: str) -> None:
    found, stays = groups(Mixing(mix), torch.randn(1, 2))
    assert found == {}
    assert stays == {"a": why, "head": "it gives the output of the network"}


def test_a_forward_that_fails_or_gives_nothing_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"could not be traced on the example input: RuntimeError: mat1 and mat2"
    ):
        ChannelGraph(torch_pruning, Sum(), torch.randn(1, 5))
    constant = Mixing(nn.Identity())
    constant.forward = lambda x: torch.ones(1)  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="the output does not depend on any parameter"):
        ChannelGraph(torch_pruning, constant, torch.randn(1, 2))
