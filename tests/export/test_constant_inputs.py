"""Which inputs are the same number whatever the network is fed."""

from __future__ import annotations

import torch
from torch import nn

from lightning_classprune.export.constant_inputs import constant_inputs

NAN = float("nan")


def test_constants_by_hand():
    net = nn.Sequential(nn.Linear(2, 3), nn.Sigmoid(), nn.Linear(3, 1)).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]))
        net[0].bias.copy_(torch.tensor([1.0, 0.0, 2.0]))
    seen = constant_inputs(net, torch.randn(4, 2))
    expected = torch.tensor([NAN, 0.5, 2.0]).double()
    expected[2] = torch.sigmoid(expected[2])
    torch.testing.assert_close(seen["2"], expected, equal_nan=True)
    assert seen["0"].isnan().all()
    table = nn.Sequential(nn.Embedding(3, 2), net)
    assert constant_inputs(table, torch.tensor([1])) == {}
