"""Which channels are coupled: by hand on small networks, and by taking them out on large ones."""

from __future__ import annotations

import builtins
import copy
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from tests.support.compare import weights

torch_pruning = pytest.importorskip("torch_pruning")

from lightning_classprune.pruning.channels import find_channels  # noqa: E402

torch.set_num_threads(1)


def conv_bn(fan_in: int, fan_out: int, **options: Any) -> nn.Sequential:
    conv = nn.Conv2d(fan_in, fan_out, 3, padding=1, **options)
    return nn.Sequential(conv, nn.BatchNorm2d(fan_out), nn.ReLU())


class Net(nn.Module):
    """A network whose forward is a function of its layers."""

    def __init__(self, forward: Any, **layers: nn.Module) -> None:
        super().__init__()
        self.run = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


def pooled(x: Tensor) -> Tensor:
    return x.mean((2, 3))


IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def owners(table: dict[str, Tensor]) -> dict[str, list[int]]:
    return {name: owner.tolist() for name, owner in table.items()}


def test_a_chain_by_hand():
    net = nn.Sequential(conv_bn(3, 4), nn.Flatten(), nn.Linear(4 * 64, 2))
    found = find_channels(net, IMAGE)
    assert found.stays == {"2": "it gives the output of the network"}
    (group,) = found.groups
    assert (group.name, group.size) == ("0.0", 4)
    everyone = [0, 1, 2, 3]
    assert owners(group.outputs) == {
        "0.0.weight": everyone,
        "0.0.bias": everyone,
        "0.1.weight": everyone,
        "0.1.bias": everyone,
    }
    assert owners(group.inputs) == {"2.weight": [c for c in everyone for _ in range(64)]}


def test_a_residual_couples_both_branches():
    net = Net(
        lambda n, x: n.head(pooled(n.stem(x) + n.branch(n.stem(x)))),
        stem=nn.Conv2d(3, 4, 1, bias=False),
        branch=nn.Conv2d(4, 4, 3, padding=1, bias=False),
        head=nn.Linear(4, 2),
    )
    (group,) = find_channels(net, IMAGE).groups
    assert set(group.outputs) == {"stem.weight", "branch.weight"}
    assert owners(group.inputs) == {"branch.weight": [0, 1, 2, 3], "head.weight": [0, 1, 2, 3]}


def test_a_concatenation_leaves_each_part_its_own_group():
    net = Net(
        lambda n, x: n.head(pooled(n.norm(torch.cat([n.a(x), n.b(x)], 1)))),
        a=nn.Conv2d(3, 2, 1),
        b=nn.Conv2d(3, 3, 1),
        norm=nn.BatchNorm2d(5),
        head=nn.Linear(5, 2),
    )
    a, b = find_channels(net, IMAGE).groups
    assert owners(a.inputs) == {"head.weight": [0, 1, -1, -1, -1]}
    assert owners(b.inputs) == {"head.weight": [-1, -1, 0, 1, 2]}
    assert b.outputs["norm.bias"].tolist() == [-1, -1, 0, 1, 2]


def test_a_depthwise_convolution_is_written_and_read_by_the_same_channel():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 1),
        nn.Conv2d(4, 4, 3, groups=4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    )
    (group,) = find_channels(net, IMAGE).groups
    assert group.outputs["1.weight"].tolist() == [0, 1, 2, 3]
    assert set(group.inputs) == {"4.weight"}


def test_the_parts_of_a_grouped_convolution_lose_the_same_place():
    net = nn.Sequential(
        nn.Conv2d(3, 6, 1),
        nn.Conv2d(6, 4, 1, groups=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    )
    first, second = find_channels(net, IMAGE).groups
    assert (first.size, second.size) == (3, 2)
    assert first.outputs["0.weight"].tolist() == [0, 1, 2, 0, 1, 2]
    assert first.inputs["1.weight"].tolist() == [0, 1, 2]
    assert second.outputs["1.weight"].tolist() == [0, 1, 0, 1]
    assert second.inputs["4.weight"].tolist() == [0, 1, 0, 1]


shared = nn.Conv2d(4, 4, 1)
STAYS: dict[str, tuple[nn.Module, str, str]] = {
    "softmax": (
        Net(lambda n, x: n.b(pooled(n.a(x)).softmax(1)), a=nn.Conv2d(3, 4, 1), b=nn.Linear(4, 2)),
        "a",
        "Softmax may mix channels",
    ),
    "group norm": (
        Net(
            lambda n, x: n.b(pooled(n.norm(n.a(x)))),
            a=nn.Conv2d(3, 4, 1),
            norm=nn.GroupNorm(2, 4),
            b=nn.Linear(4, 2),
        ),
        "a",
        "norm (GroupNorm) mixes channels, or is not supported",
    ),
    "shuffle": (
        Net(
            lambda n, x: n.b(pooled(n.a(x).view(2, 2, 2, 8, 8).transpose(1, 2).reshape(2, 4, 8, 8))),
            a=nn.Conv2d(3, 4, 1),
            b=nn.Linear(4, 2),
        ),
        "a",
        "Transpose may mix channels",
    ),
    "coupled with the input": (
        Net(lambda n, x: n.b(pooled(x + n.a(x))), a=nn.Conv2d(3, 3, 1), b=nn.Linear(3, 2)),
        "a",
        "_ModelInput may mix channels",
    ),
    "mean over channels": (
        Net(lambda n, x: n.b(n.a(x).mean((1, 2))), a=nn.Conv2d(3, 4, 1), b=nn.Linear(8, 2)),
        "a",
        "a mean is taken over samples or channels",
    ),
    "also an output": (
        Net(lambda n, x: [n.b(pooled(y := n.a(x))), y], a=nn.Conv2d(3, 4, 1), b=nn.Linear(4, 2)),
        "a",
        "it gives the output of the network",
    ),
    "constant after zero": (
        Net(lambda n, x: n.b(pooled(n.a(x).sigmoid())), a=nn.Conv2d(3, 4, 1), b=nn.Linear(4, 2)),
        "a",
        "its channels cannot be taken out without a trace",
    ),
    "fixed reshape": (
        Net(lambda n, x: n.b(n.a(x).view(2, 4 * 64)), a=nn.Conv2d(3, 4, 1), b=nn.Linear(256, 2)),
        "a",
        "its channels cannot be taken out without a trace",
    ),
    "tied": (
        Net(
            lambda n, x: n.c(pooled(n.b(n.a(n.stem(x))))),
            stem=nn.Conv2d(3, 4, 1),
            a=shared,
            b=nn.Sequential(nn.ReLU(), copy.copy(shared)),
            c=nn.Linear(4, 2),
        ),
        "a",
        "b.1 (Conv2d) shares a parameter with another layer",
    ),
    "a parameter of its own": (
        Net(lambda n, x: n.b(pooled(n.a(x) * n.scale["weight"])), a=nn.Conv2d(3, 4, 1), b=nn.Linear(4, 2)),
        "a",
        "a parameter outside of convolutions, linear layers and BatchNorm takes part",
    ),
    "transposed": (
        Net(
            lambda n, x: n.b(pooled(n.up(n.a(x)))),
            a=nn.Conv2d(3, 4, 1),
            up=nn.ConvTranspose2d(4, 4, 2),
            b=nn.Linear(4, 2),
        ),
        "a",
        "up (ConvTranspose2d) is a transposed convolution",
    ),
    "not reached": (
        Net(lambda n, x: n.b(pooled(x)), a=nn.Conv2d(3, 4, 1), b=nn.Linear(3, 2)),
        "a",
        "the forward does not reach it",
    ),
}
STAYS["a parameter of its own"][0].scale = nn.ParameterDict({"weight": torch.ones(4, 1, 1)})


@pytest.mark.parametrize("case", STAYS)
def test_what_the_graph_does_not_understand_stays_and_is_reported(case):
    net, layer, why = STAYS[case]
    found = find_channels(net, IMAGE)
    assert found.stays[layer] == why
    assert all(f"{layer}.weight" not in group.outputs for group in found.groups)


def test_the_model_its_mode_gradients_and_the_random_state_are_left_alone():
    net = nn.Sequential(conv_bn(3, 4), nn.Dropout(), nn.Flatten(), nn.Linear(256, 2)).train()
    net[0][0].weight.requires_grad_(False)
    before, random = weights(net), torch.get_rng_state()
    assert len(find_channels(net, IMAGE).groups) == 1, "a frozen layer is followed too"
    assert torch.equal(torch.get_rng_state(), random)
    assert net.training
    assert not net[0][0].weight.requires_grad
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(net).items())
    assert all(p.grad is None for p in net.parameters())


def test_inputs_may_be_positional_or_keyword_arguments():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Linear(3, 4), nn.Linear(5, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.head((self.a(x) + self.b(y)).relu())

    x, y = torch.randn(2, 3), torch.randn(2, 5)
    for example in ((x, y), [x, y], {"y": y, "x": x}):
        (group,) = find_channels(Two(), example).groups
        assert set(group.outputs) == {"a.weight", "a.bias", "b.weight", "b.bias"}


def test_a_wrong_example_is_refused():
    with pytest.raises(ValueError, match="could not be traced on the example input"):
        find_channels(conv_bn(3, 4), torch.randn(2, 5, 8, 8))


def test_a_missing_torch_pruning_names_the_extra(monkeypatch):
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "torch_pruning":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"lightning-classprune\[compact\]"):
        find_channels(conv_bn(3, 4), IMAGE)


def test_all_channels_of_a_resnet_but_its_classes_can_go():
    net = torchvision.models.resnet18(num_classes=2)
    found = find_channels(net, torch.randn(1, 3, 32, 32))
    # Every stage has its stream and one inner width a block, and the stem writes the first stream.
    assert sum(group.size for group in found.groups) == 3 * (64 + 128 + 256 + 512)
    assert set(found.stays) == {"fc"}
