"""The networks of the ready-made job."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lightning_classprune.job.models import GlobalMax, conv_net, mlp, paper_alexnet


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_mlp_has_the_layers_asked_for() -> None:
    model = mlp(12, num_classes=3, hidden=(8, 5))
    assert [tuple(p.shape) for p in model.parameters()] == [(8, 12), (8,), (5, 8), (5,), (3, 5), (3,)]
    assert model(torch.randn(4, 3, 2, 2)).shape == (4, 3)
    assert count(mlp(12, num_classes=1, hidden=())) == 13


def test_conv_net_size_by_hand() -> None:
    convolutions = 9 * (1 * 16 + 16 * 48 + 48 * 96 + 96 * 128)
    norms = 2 * (16 + 48 + 96 + 128)
    assert convolutions + 128 * 2 == 159_376
    assert count(conv_net()) == 159_376 + norms + 2


@pytest.mark.parametrize("size", [(1, 1), (28, 28), (64, 64), (65, 97)])
def test_conv_net_takes_any_size(size: tuple[int, int]) -> None:
    assert conv_net(3, num_classes=5, width=4)(torch.randn(2, 3, *size)).shape == (2, 5)


def test_global_maxima_and_their_gradients_are_those_of_pooling() -> None:
    x = torch.randn(4, 3, 5, 6, requires_grad=True)
    twin = x.detach().clone().requires_grad_()
    ours, theirs = GlobalMax()(x), nn.AdaptiveMaxPool2d(1)(twin)
    assert torch.equal(ours, theirs)
    for out in (ours, theirs):
        (out * torch.arange(12.0).reshape(4, 3, 1, 1)).sum().backward()
    assert torch.equal(x.grad, twin.grad)


def test_conv_net_is_cheap_enough_for_a_cpu() -> None:
    with FlopCounterMode(display=False) as counter:
        conv_net()(torch.randn(1, 1, 64, 64))
    # Each stage halves the side: outputs of 32, 16, 8 and 4 pixels a side, and the head.
    by_hand = 9 * (32**2 * 16 + 16**2 * 16 * 48 + 8**2 * 48 * 96 + 4**2 * 96 * 128) + 2 * 128
    assert counter.get_total_flops() // 2 == by_hand == 6_340_864


def test_paper_alexnet_has_the_papers_number_of_parameters() -> None:
    model = paper_alexnet()
    assert count(model) == 2_471_842
    assert [p.shape[0] for p in model.parameters() if p.ndim == 4] == [64, 192, 384, 256, 256]
    assert [tuple(p.shape) for p in model.parameters() if p.ndim == 2] == [(8, 256), (8, 8), (2, 8)]
    for size in (63, 64, 224):
        assert model(torch.randn(2, 3, size, size)).shape == (2, 2)


def test_paper_alexnet_takes_grey_images() -> None:
    assert paper_alexnet(num_classes=1, in_channels=1)(torch.randn(2, 1, 64, 64)).shape == (2, 1)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: mlp(0), "in_features=0 must be at least 1"),
        (lambda: mlp(3, hidden=(4, 0)), "hidden=0"),
        (lambda: mlp(3, num_classes=0), "num_classes=0"),
        (lambda: mlp(3, dropout=1.0), r"dropout=1.0 must lie in \[0, 1\)"),
        (lambda: conv_net(width=0), "width=0"),
        (lambda: conv_net(in_channels=0), "in_channels=0"),
        (lambda: paper_alexnet(dropout=-0.1), "dropout=-0.1"),
    ],
)
def test_bad_sizes(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
