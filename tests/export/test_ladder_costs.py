"""What a forward costs with each ticket of a ladder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lightning_classprune.export.ladder_costs import measure_ladder
from lightning_classprune.tickets.joint_file import read_ladder
from lightning_classprune.tickets.ladder import Ladder
from lightning_classprune.tickets.switching import switch_ticket
from tests.support.compare import assert_same, weights
from tests.support.ladders import card, network, written


def test_multiplications_by_weights_that_are_not_zero(tmp_path: Path) -> None:
    made = written(tmp_path)
    net = network()
    before = weights(net)
    ladder = measure_ladder(read_ladder(tmp_path), net, torch.randn(3, 40))
    assert_same(weights(net), before)
    kept = [int(masks["0.weight"].sum()) + 40 for _, masks in made]
    assert [one.multiplications for one in ladder.members] == kept
    assert kept[0] == 840
    assert all(one.ms is not None and one.ms > 0 for one in ladder.members)
    assert switch_ticket(net, ladder, max_multiplications=kept[1]).round == 1
    slowest = max(one.ms or 0.0 for one in ladder.members)
    assert switch_ticket(net, ladder, max_ms=slowest).round == 0


class Twice(nn.Module):
    """A convolution used twice, a grouped one, a transposed one, and a product that no layer knows of."""

    def __init__(self) -> None:
        super().__init__()
        self.same = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.grouped = nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False)
        self.up = nn.ConvTranspose2d(4, 2, 2, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(self.grouped(self.same(self.same(x))))
        return x.flatten(2) @ x.flatten(2).transpose(1, 2)


def test_every_use_of_a_weight_counts(tmp_path: Path) -> None:
    net = Twice()
    with torch.no_grad():
        net.same.weight[0] = 0
        net.grouped.weight[0] = 0
        net.up.weight[0] = 0
    told = card(0, 0.5)
    Ladder(tmp_path).add(told["verdict"], net.state_dict(), {}, told)
    (member,) = measure_ladder(read_ladder(tmp_path), Twice(), torch.randn(2, 4, 8, 8)).members
    same, grouped, up = 3 * 36 * 64 * 2, 3 * 18 * 64, 3 * 8 * 64
    assert member.multiplications == same + grouped + up + 2 * 2 * 256


def test_an_example_that_does_not_fit_is_said(tmp_path: Path) -> None:
    written(tmp_path)
    with pytest.raises(ValueError, match="the forward fails on the example: RuntimeError"):
        measure_ladder(read_ladder(tmp_path), network(), torch.randn(3, 4))
    with pytest.raises(ValueError, match="does not fit the model"):
        measure_ladder(read_ladder(tmp_path), nn.Linear(40, 2), torch.randn(3, 40))
