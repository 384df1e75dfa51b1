"""Folding offsets into a bias: the last layer that takes them exactly, or none."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_classprune.rounds.handover import fold

NAMES = ("a", "b", "c")
OFFSETS = {"b": 0.75}


def decided(net: nn.Module, x: torch.Tensor) -> list[int]:
    with torch.no_grad():
        return net(x).argmax(1).tolist()


def wanted(net: nn.Module, x: torch.Tensor) -> list[int]:
    with torch.no_grad():
        return (net(x) + torch.tensor([0.0, 0.75, 0.0])).argmax(1).tolist()


def test_the_last_bias_takes_them() -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3)), torch.randn(200, 4)
    want, before = wanted(net, x), {name: tensor.clone() for name, tensor in net.state_dict().items()}
    assert want != decided(net, x)
    assert fold(net, OFFSETS, NAMES, lambda: decided(net, x) == want) == "2.bias"
    assert decided(net, x) == want
    shifted = before["2.bias"] + torch.tensor([0.0, 0.75, 0.0])
    assert torch.equal(net[2].bias, shifted)
    assert torch.equal(net[0].bias, before["0.bias"])


def test_where_none_takes_them_the_network_is_as_it_was() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3, bias=False))
    x = torch.randn(200, 4)
    want, before = wanted(net, x), {name: tensor.clone() for name, tensor in net.state_dict().items()}
    assert fold(net, OFFSETS, NAMES, lambda: decided(net, x) == want) is None
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in before.items())


def test_one_logit_takes_the_difference() -> None:
    net = nn.Linear(2, 1)
    before = net.bias.item()
    assert fold(net, {"b": 0.5, "a": 0.25}, ("a", "b"), lambda: True) == "bias"
    assert net.bias.item() == pytest.approx(before + 0.25)
