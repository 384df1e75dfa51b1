"""What C reads of a network, and what it refuses by name."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_classprune.export.c_network import Layer, Pool, read_steps

IMAGE = torch.randn(2, 3, 8, 8)


def test_norms_and_marks_go_into_the_steps_before_them() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False),
        norm,
        nn.ReLU(),
        nn.Dropout(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 2),
    ).eval()
    conv, pool, head = read_steps(net, IMAGE)
    assert isinstance(conv, Layer)
    assert isinstance(pool, Pool)
    assert isinstance(head, Layer)
    assert [conv.relu, pool.relu, head.relu] == [True, False, False]
    assert (conv.reads, conv.writes, conv.stride, conv.padding) == ((3, 8, 8), (4, 4, 4), (2, 2), (1, 1))
    assert (pool.kind, pool.kernel, pool.stride, pool.writes) == ("average", (2, 2), (2, 2), (4, 2, 2))
    assert (head.weight.shape, head.reads, head.writes) == ((2, 16, 1, 1), (16, 1, 1), (2, 1, 1))
    with torch.no_grad():
        got = F.conv2d(IMAGE, torch.from_numpy(conv.weight), torch.from_numpy(conv.bias), 2, 1)
        torch.testing.assert_close(got, net[:2](IMAGE))


class Calls(nn.Module):
    """Functions and methods in place of modules."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding="same", dilation=2), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(F.relu(self.conv(x)), training=self.training)
        return self.head(torch.flatten(x.amax((2, 3), keepdim=True), 1))


def test_functions_are_read_as_well() -> None:
    conv, pool, head = read_steps(Calls().eval(), IMAGE)
    assert isinstance(conv, Layer)
    assert (conv.padding, conv.dilation, conv.relu) == ((2, 2), (2, 2), True)
    assert isinstance(pool, Pool)
    assert (pool.kind, pool.kernel, pool.writes) == ("max", (8, 8), (4, 1, 1))
    assert head.writes == (2, 1, 1)


class Adds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Scales(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.scale = nn.Conv2d(3, 2, 1), nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * self.scale


@pytest.mark.parametrize(
    ("net", "named"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.SiLU()), "layer '1' is a SiLU"),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU6()), "layer '1' is a ReLU6"),
        (nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1)), "layer '0' is a BatchNorm without"),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)), "layer '2' is a BatchNorm without"),
        (
            nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")),
            "layer '0' pads with .*'reflect'",
        ),
        (
            nn.Sequential(nn.AvgPool2d(3, padding=1), nn.Conv2d(3, 4, 1)),
            "layer '0' is an average over windows",
        ),
        (
            nn.Sequential(nn.MaxPool2d(2, dilation=2), nn.Conv2d(3, 4, 1)),
            "layer '0' is a pooling with dilation",
        ),
        (
            nn.Sequential(nn.AdaptiveMaxPool2d(3), nn.Conv2d(3, 4, 1)),
            "layer '0' pools .* in windows of several sizes",
        ),
        (nn.Sequential(nn.Linear(8, 2)), "layer '0' is a Linear on .* flattened first"),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(2)), "layer '1' makes .* flattened whole"),
        (nn.Sequential(nn.ReLU(), nn.Conv2d(3, 4, 1)), "a ReLU is before the first layer"),
        (nn.Sequential(nn.MaxPool2d(2)), "no convolution and no linear layer"),
        (Adds(), "the operation 'add' does not follow"),
        (Branches(), "its forward cannot be followed"),
        (Scales(), "the operation 'scale'"),
    ],
)
def test_what_c_cannot_do_is_named(net: nn.Module, named: str) -> None:
    with pytest.raises(ValueError, match=f"cannot be written as C: {named}.*; it may have Conv2d|{named}"):
        read_steps(net.eval(), IMAGE)
