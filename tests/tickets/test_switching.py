"""A running network becomes another ticket of its ladder, in place."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lightning_classprune import DecisionOffset
from lightning_classprune.tickets.joint import JointLadder
from lightning_classprune.tickets.joint_file import read_ladder, save_ladder
from lightning_classprune.tickets.ladder import Ladder
from lightning_classprune.tickets.loading import load_ticket
from lightning_classprune.tickets.switching import switch_ticket
from tests.support.compare import assert_same, weights
from tests.support.ladders import card, network, written


@pytest.fixture(params=[True, False], ids=["nested", "own values"])
def ladder(request: pytest.FixtureRequest, tmp_path: Path) -> JointLadder:
    written(tmp_path, request.param)
    return read_ladder(tmp_path)


def sizes(ladder: JointLadder) -> list[int]:
    return [one.bytes for one in ladder.members]


def test_there_and_back_is_the_same_network_bit_for_bit(ladder: JointLadder) -> None:
    net = network()
    seen = []
    for limit in (*sizes(ladder), *reversed(sizes(ladder))):
        member = switch_ticket(net, ladder, max_bytes=limit)
        assert member.bytes == limit
        loaded = network(5)
        load_ticket(ladder.path, loaded, max_bytes=limit)
        assert_same(weights(net), weights(loaded))
        seen.append(weights(net))
    for first, second in zip(seen, reversed(seen), strict=True):
        assert_same(first, second)


def test_it_is_in_place(ladder: JointLadder) -> None:
    """Optimizers hold the parameters, modes and gradients stay, and training goes on from the ticket."""
    net = network()
    net[1].eval()
    net[3].bias.requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
    net(torch.randn(4, 40)).sum().backward()
    optimizer.step()
    there = [(t, t.data_ptr()) for t in (*net.parameters(), *net.buffers())]
    grad = net[0].weight.grad.clone()
    member = switch_ticket(net, ladder, max_bytes=min(sizes(ladder)))
    assert member.round == 2
    assert [(t, t.data_ptr()) for t in (*net.parameters(), *net.buffers())] == there
    assert [m.training for m in net] == [True, False, True, True]
    assert [p.requires_grad for p in net.parameters()] == [True, True, True, True, True, False]
    assert torch.equal(net[0].weight.grad, grad)
    before = net[0].weight.clone()
    optimizer.step()
    assert not torch.equal(net[0].weight, before)


def test_a_gradient_that_was_on_its_way_is_refused_by_torch(ladder: JointLadder) -> None:
    net = network()
    loss = net(torch.randn(4, 40)).sum()
    switch_ticket(net, ladder, max_bytes=sizes(ladder)[1])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("recalls", [(0.9, 0.8, 0.7), (0.7, 0.8, 0.9)])
def test_the_densest_that_keeps_the_budget(recalls: tuple[float, ...], tmp_path: Path) -> None:
    written(tmp_path, recalls=recalls)
    ladder = read_ladder(tmp_path)
    dense, half, tenth = sizes(ladder)
    assert dense > half > tenth
    for limit, number in ((10**9, 0), (dense, 0), (dense - 1, 1), (half, 1), (half - 1, 2), (tenth, 2)):
        assert switch_ticket(network(), ladder, max_bytes=limit).round == number
    same = replace(ladder, members=tuple(replace(one, ms=5.0) for one in ladder.members))
    assert switch_ticket(network(), same, max_ms=5).round == 0


@pytest.mark.parametrize(
    ("limits", "error"),
    [
        ({}, "give exactly one of max_bytes, max_multiplications, max_ms; none is given"),
        ({"max_bytes": 10, "max_ms": 1.0}, "give exactly one .* max_bytes and max_ms are given"),
        ({"max_bytes": 0}, "max_bytes=0 is out of range: a whole number, 1 or more"),
        ({"max_bytes": 10.5}, "max_bytes=10.5 is out of range"),
        ({"max_bytes": True}, "max_bytes=True is out of range"),
        ({"max_ms": float("nan")}, "max_ms=nan is out of range: a number above 0"),
        ({"max_ms": -1}, "max_ms=-1 is out of range"),
        (
            {"max_bytes": 10},
            r"no ticket in .* keeps max_bytes=10; there are round 0: \d+, round 1: \d+, round 2:",
        ),
        ({"max_ms": 1}, r"max_ms=1: that of the tickets .* is not known; measure it .* measure_ladder"),
        ({"max_multiplications": 9}, "max_multiplications=9: that of the tickets"),
    ],
)
def test_a_budget_that_is_none_or_that_nothing_keeps(
    limits: dict[str, Any], error: str, ladder: JointLadder
) -> None:
    net = network()
    before = weights(net)
    with pytest.raises(ValueError, match=error):
        switch_ticket(net, ladder, **limits)
    assert_same(weights(net), before)


@pytest.mark.parametrize(
    ("other", "error"),
    [
        (nn.Linear(40, 20), r"does not fit the model: weight is missing in the file"),
        (
            network().double(),
            r"0\.weight is float32 \[20, 40\] in the file and float64 \[20, 40\] in the model",
        ),
        (network().half(), "in the file and float16"),
        (nn.Sequential(*network(), nn.Linear(2, 2)), r"4\.weight is missing in the file"),
        (network().to("meta"), r"0\.weight is on the meta device"),
    ],
)
def test_another_model_is_refused_and_left_as_it_is(
    other: nn.Module, error: str, ladder: JointLadder, tmp_path: Path
) -> None:
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    save_ladder(tmp_path / "one", ladder)
    for given in (ladder, tmp_path, tmp_path / "one"):
        with pytest.raises(ValueError, match=error):
            switch_ticket(other, given, max_bytes=10**9)
    if not any(tensor.is_meta for tensor in before.values()):
        assert_same(other.state_dict(), before)


def test_from_a_folder_and_from_a_file(ladder: JointLadder, tmp_path: Path) -> None:
    save_ladder(tmp_path / "one", ladder)
    nets = [network(number) for number in range(3)]
    found = [
        switch_ticket(net, given, max_bytes=sizes(ladder)[1])
        for net, given in zip(nets, (ladder, str(tmp_path), tmp_path / "one"), strict=True)
    ]
    assert found == [ladder.members[1]] * 3
    for net in nets[1:]:
        assert_same(weights(net), weights(nets[0]))
    with pytest.raises(FileNotFoundError):
        switch_ticket(nets[0], tmp_path / "nowhere", max_bytes=10**9)


def test_the_layout_of_a_weight_and_what_wraps_it_stay(ladder: JointLadder) -> None:
    plain, turned, wrapped = network(), network(), nn.Module()
    wrapped._orig_mod = network(3)  # what torch.compile puts around a module
    turned[0].weight.data = turned[0].weight.data.t().contiguous().t()
    for net in (plain, turned, wrapped):
        switch_ticket(net, ladder, max_bytes=sizes(ladder)[2])
    assert not turned[0].weight.is_contiguous()
    assert_same(weights(turned), weights(plain))
    assert_same(weights(wrapped._orig_mod), weights(plain))


def test_tied_weights_and_the_network_of_a_lightning_module(tmp_path: Path) -> None:
    net = nn.ModuleDict({"one": nn.Linear(3, 3), "two": nn.Linear(3, 3)})
    net["two"].weight = net["one"].weight
    told = card(0, 0.5)
    whole = nn.ModuleDict({"network": net, "loss": nn.BatchNorm1d(2)})
    Ladder(tmp_path).add(told["verdict"], whole.state_dict(), {}, told)
    other = copy.deepcopy(net)
    with torch.no_grad():
        other["one"].weight.zero_()
    switch_ticket(other, tmp_path, max_bytes=10**6)
    assert other["one"].weight is other["two"].weight
    assert_same(weights(other), weights(net))


def test_offsets_come_along(tmp_path: Path) -> None:
    written(tmp_path, offsets={"crack": 0.25})
    ladder, net = read_ladder(tmp_path), network()
    whole = nn.Sequential(net, DecisionOffset({"good": 9.0}, ["good", "crack"])).eval()
    member = switch_ticket(whole, ladder, max_bytes=sizes(ladder)[1])
    assert member.offsets == {"crack": 0.25}
    x = torch.randn(5, 40)
    assert torch.equal(whole(x), net(x) + torch.tensor([0.0, 0.25]))
    with pytest.warns(
        UserWarning, match=r"round 1 was judged with offsets: add \+0\.25 to crack before the decision"
    ):
        switch_ticket(net, ladder, max_bytes=sizes(ladder)[1])
    stranger = nn.Sequential(net, DecisionOffset({}, ["sound", "broken"]))
    before = weights(stranger)
    with pytest.raises(ValueError, match=r"unknown classes .'crack'.; there are 'sound', 'broken'"):
        switch_ticket(stranger, ladder, max_bytes=sizes(ladder)[2])
    assert_same(weights(stranger), before)


def test_offsets_that_a_bias_took_leave_none_behind(
    ladder: JointLadder, recwarn: pytest.WarningsRecorder
) -> None:
    whole = nn.Sequential(network(), DecisionOffset({"crack": 0.5}, ["good", "crack"]))
    switch_ticket(whole, ladder, max_bytes=10**9)
    assert whole[1].bias.tolist() == [0.0, 0.0]
    switch_ticket(whole[0], ladder, max_bytes=10**9)
    assert not recwarn.list


def test_a_twin_is_its_own(ladder: JointLadder) -> None:
    """Nothing of a ladder is in a network: what is trained there does not change the ladder."""
    net = network()
    switch_ticket(net, ladder, max_bytes=10**9)
    kept = copy.deepcopy(ladder.network(0)[0])
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1.0)
    assert_same(ladder.network(0)[0], kept)
