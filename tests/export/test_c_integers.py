"""Layers in eight bits as they are read from ONNX Runtime's quantised graph."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from lightning_classprune.export.c_integers import read_integers
from lightning_classprune.export.c_network import Layer, read_steps
from lightning_classprune.export.deployed import Deployed
from lightning_classprune.export.onnx_export import make_graph
from lightning_classprune.export.quantization import quantized

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

X = torch.rand(16, 2, 6, 6, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    ).eval()


def test_weights_are_the_layers_within_half_a_step_and_roundings_lead_from_one_to_the_next() -> None:
    net = network()
    steps = read_steps(net, X)
    conv, head = read_integers(quantized(make_graph(Deployed(net, thresholds={}), X).proto, X), steps)
    for own, step in ((conv, steps[0]), (head, steps[-1])):
        assert isinstance(step, Layer)
        assert own.weight.dtype == np.int8
        assert own.weight.shape == step.weight.shape
        out = own.writes.scale if own.writes is not None else np.float32(1)
        unit = (own.multiplier * out / own.reads.scale)[:, None, None, None]
        assert np.abs(own.weight * unit - step.weight).max() <= unit.max() * 0.501
        assert np.abs(own.bias * (own.multiplier * out) - step.bias).max() <= (own.multiplier * out).max()
    assert conv.writes is not None
    assert conv.writes.zero == 0, "behind a ReLU nothing is negative"
    assert head.writes is None, "scores are floats"
    assert 0 < conv.reads.scale < 1 / 200
    assert not conv.bias.any()


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(2, 3, 3), nn.Flatten()),
        nn.Sequential(nn.Conv2d(2, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    ],
)
def test_a_network_that_does_not_begin_and_end_with_a_layer_is_refused(net: nn.Module) -> None:
    with pytest.raises(ValueError, match="int8: in C the network must begin and end with a convolution or"):
        read_integers(None, read_steps(net.eval(), X))


def test_a_graph_of_another_network_is_refused() -> None:
    steps = read_steps(network(), X)
    node = SimpleNamespace(op_type="Gemm", input=["x", "w"], output=["y"])
    other = SimpleNamespace(graph=SimpleNamespace(node=[node], initializer=[]))
    with pytest.raises(ValueError, match="the quantised graph has 1 layers for 2 of the network"):
        read_integers(other, steps)
