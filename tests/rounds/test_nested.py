"""The nested round by steps: what a member's forward sees, which gradients count, and that weights are whole after."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from lightning_classprune.pruning.enforcement import Enforcement
from lightning_classprune.rounds.nested import NestedRound, check_can_nest
from tests.support.compare import assert_same

torch.manual_seed(0)
X = torch.randn(6, 4)
HALF, QUARTER = (torch.rand(3, 4) < share for share in (0.6, 0.4))
QUARTER &= HALF


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layer, self.norm = nn.Linear(4, 3), nn.BatchNorm1d(3)
        with torch.no_grad():
            self.layer.weight *= HALF

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.layer(x))
        return out


def nested(net: Net, step: int = 0) -> tuple[NestedRound, Any]:
    cutter = SimpleNamespace(
        units=SimpleNamespace(parameters={"layer.weight": net.layer.weight}), placed=lambda masks: masks
    )
    clock = SimpleNamespace(round_step=step)
    made = NestedRound(net, cutter, clock)  # type: ignore[arg-type]
    made.begin([{"layer.weight": HALF}, {"layer.weight": QUARTER}])
    return made, clock


def train(net: Net, made: NestedRound, optimizer: Any) -> None:
    held = Enforcement()
    held.hold({"layer.weight": HALF}, {"layer.weight": net.layer.weight}, [optimizer])
    made.enter()
    optimizer.zero_grad()
    net(X).square().sum().backward()
    made.before_step()
    optimizer.step()
    made.leave()
    held.release()


def test_each_step_is_that_of_a_network_of_its_own_with_the_members_weights() -> None:
    net = Net()
    made, clock = nested(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    lone = [Net(), Net()]  # for the members' buffers
    for step in range(4):
        mask = (HALF, QUARTER)[step % 2]
        before = net.layer.weight.detach().clone()
        twin = lone[step % 2]
        twin.load_state_dict(
            net.state_dict() | {name: buffer.clone() for name, buffer in twin.named_buffers()}
        )
        with torch.no_grad():
            twin.layer.weight *= mask
        twin.zero_grad()
        own = torch.optim.SGD(twin.parameters(), lr=0.1)
        twin(X).square().sum().backward()
        twin.layer.weight.grad *= mask  # type: ignore[operator]
        own.step()
        clock.round_step = step
        train(net, made, optimizer)
        assert torch.equal(net.layer.weight, torch.where(mask, twin.layer.weight, before))
        assert torch.equal(net.norm.weight, twin.norm.weight)
    for number, twin in enumerate(lone):
        with made.member(number):
            assert_same(dict(net.named_buffers()), dict(twin.named_buffers()))
            assert torch.equal(net.layer.weight != 0, (HALF, QUARTER)[number])
    assert torch.equal(net.layer.weight != 0, HALF)
    assert_same(dict(net.named_buffers()), dict(lone[0].named_buffers()))


def test_momentum_moves_whole_weights_and_what_is_outside_of_all_stays_zero() -> None:
    net = Net()
    made, clock = nested(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    train(net, made, optimizer)
    before = net.layer.weight.detach().clone()
    clock.round_step = 1
    train(net, made, optimizer)
    assert bool((net.layer.weight != before)[HALF & ~QUARTER].all())
    assert not net.layer.weight.detach()[~HALF].any()


def test_a_batch_without_a_step_and_one_that_fails_change_nothing() -> None:
    net = Net()
    made, _ = nested(net, step=1)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    made.enter()
    assert not net.layer.weight.detach()[~QUARTER].any()
    made.enter()  # once more, by whoever: it is inside already
    made.leave()
    assert_same(net.state_dict(), before)
    made.leave()
    assert_same(net.state_dict(), before)


def test_outside_of_the_round_nothing_is_touched() -> None:
    net = Net()
    made, _ = nested(net)
    made.end()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    made.enter()
    net(X).sum().backward()
    gradient = net.layer.weight.grad
    assert gradient is not None
    made.before_step()
    assert gradient[~QUARTER].any()
    made.leave()
    assert made.is_over
    assert not made.is_training
    assert torch.equal(net.layer.weight, before["layer.weight"])


def test_a_round_that_is_saved_goes_on_as_it_would_have() -> None:
    net, twin = Net(), Net()
    made, clock = nested(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    train(net, made, optimizer)
    clock.round_step = 1
    train(net, made, optimizer)
    made.after = "the target sparsity is reached"
    saved = made.state_dict()
    twin.load_state_dict(net.state_dict())
    again, _ = nested(twin, step=3)
    again.end()
    again.load_state_dict(saved)
    assert (again.after, again.is_over, again.is_next) == (made.after, False, False)
    clock.round_step = 3
    train(net, made, optimizer)
    train(twin, again, torch.optim.SGD(twin.parameters(), lr=0.1))
    assert_same(twin.state_dict(), net.state_dict())
    for number in (0, 1):
        with made.member(number), again.member(number):
            assert_same(twin.state_dict(), net.state_dict())


def test_masks_that_are_not_nested_are_an_error() -> None:
    made, _ = nested(Net())
    with pytest.raises(RuntimeError, match="not nested"):
        made.begin([{"layer.weight": QUARTER}, {"layer.weight": HALF}])


@pytest.mark.parametrize(
    ("sharded", "automatic", "optimizer", "why"),
    [
        (True, True, torch.optim.SGD, "use DDP, or nested=False"),
        (False, False, torch.optim.SGD, "use automatic optimization, or nested=False"),
        (False, True, torch.optim.LBFGS, "use another optimizer, or nested=False"),
    ],
)
def test_what_cannot_be_trained_so_is_refused_with_the_mend(
    sharded: bool, automatic: bool, optimizer: Any, why: str
) -> None:
    trainer = SimpleNamespace(
        lightning_module=SimpleNamespace(automatic_optimization=automatic),
        optimizers=[optimizer(Net().parameters(), lr=0.1)],
    )
    with pytest.raises(MisconfigurationException, match=why):
        check_can_nest(trainer, sharded=sharded)
