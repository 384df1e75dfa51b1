"""A compact network computes what the sparse one computes, with exactly the channels that matter."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.pruning.test_channels import IMAGE, Net, conv_bn, pooled
from tests.pruning.test_granularities import fit, images, network
from tests.support.compare import weights

pytest.importorskip("torch_pruning")

from lightning_classprune import ClassAwarePruningCallback, Cut, Fixed, Guard
from lightning_classprune.export.compact import compact
from lightning_classprune.job.models import conv_net
from lightning_classprune.pruning.channel_units import ChannelUnits
from lightning_classprune.pruning.channels import find_channels
from lightning_classprune.pruning.masks import apply_masks, full_masks

torch.set_num_threads(1)
NAN = float("nan")


def randomized(net: nn.Module, seed: int = 0) -> nn.Module:
    """All weights, biases and statistics drawn, so that no zero hides anything."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in (*net.parameters(), *net.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_var.abs_().add_(0.5)
    return net.eval()


def zero(net: nn.Module, *names: str, index: Any) -> None:
    with torch.no_grad():
        for name in names:
            net.get_parameter(name)[index] = 0


def same(net: nn.Module, smaller: nn.Module, x: torch.Tensor = IMAGE) -> None:
    with torch.no_grad():
        torch.testing.assert_close(smaller(x), net.eval()(x), rtol=1e-4, atol=1e-5)


def chain(**options: Any) -> nn.Sequential:
    return nn.Sequential(conv_bn(3, 4, **options), conv_bn(4, 5), nn.Flatten(), nn.Linear(320, 2))


def test_a_dense_network_stays_as_it_is():
    net = randomized(chain())
    made = compact(net, IMAGE)
    assert made.kept == {}
    assert made.report["parameters"] == [sum(p.numel() for p in net.parameters())] * 2
    assert made.report["stays"] == {"3": "it gives the output of the network"}
    assert made.report["difference"] == 0
    assert torch.equal(made.model(IMAGE), net(IMAGE))
    assert made.model is not net


def test_a_channel_that_is_zero_leaves_with_its_readers():
    net = randomized(chain())
    zero(net, "0.0.weight", "0.0.bias", "0.1.weight", "0.1.bias", index=2)
    before = weights(net)
    made = compact(net, IMAGE)
    assert made.kept == {"0.0": (3, 4)}
    assert made.model[1][0].weight.shape == (5, 3, 3, 3)
    same(net, made.model)
    # A filter of 27 weights, its bias, gamma and beta, and 5 x 9 that read it.
    assert made.report["parameters"] == [957, 957 - 30 - 45]
    # The readers were not zero, and useless.
    assert made.report["nonzero"] == [928 - 27, 928 - 27 - 45]
    assert made.report["effective_sparsity"] == pytest.approx(72 / 928)
    # 64 places, each with 27 multiplications a filter, 9 x 4 a second filter, and the head.
    assert made.report["macs"] == [64 * (27 * 4 + 36 * 5) + 640, 64 * (27 * 3 + 27 * 5) + 640]
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(net).items())


def test_a_channel_that_nothing_reads_leaves_whatever_it_is():
    net = randomized(chain())
    zero(net, "3.weight", index=(slice(None), slice(64, 128)))
    made = compact(net, IMAGE)
    assert made.kept == {"1.0": (4, 5)}
    same(net, made.model)


def test_deaths_travel_back():
    # Only the second layer's first channel is read, and it reads only the first layer's last.
    net = randomized(chain())
    zero(net, "3.weight", index=(slice(None), slice(64, None)))
    zero(net, "1.0.weight", index=(0, slice(0, 3)))
    made = compact(net, IMAGE)
    assert made.kept == {"0.0": (1, 4), "1.0": (1, 5)}
    same(net, made.model)


def test_masks_are_applied_first_and_must_fit():
    net = randomized(chain())
    masks = {"3.weight": torch.ones(2, 320, dtype=torch.bool)}
    masks["3.weight"][:, 64:128] = False
    made = compact(net, IMAGE, masks)
    assert made.kept == {"1.0": (4, 5)}
    sparse = copy.deepcopy(net)
    apply_masks(masks, dict(sparse.named_parameters()))
    same(sparse, made.model)
    with pytest.raises(ValueError, match=r"`3.weight` has shape \(2, 3\), the model has \(2, 320\)"):
        compact(net, IMAGE, {"3.weight": torch.ones(2, 3, dtype=torch.bool)})
    with pytest.raises(ValueError, match=r"`x` has shape .* no such parameter"):
        compact(net, IMAGE, {"x": torch.ones(2)})


def test_a_constant_moves_into_the_bias_behind_it():
    net = randomized(nn.Sequential(conv_bn(3, 4), nn.Conv2d(4, 5, 3), nn.Flatten(), nn.Linear(180, 2)))
    zero(net, "0.0.weight", index=2)
    net[0][1].bias.data[2] = 0.7
    made = compact(net, IMAGE)
    assert (made.kept, made.report["folded"]) == ({"0.0": (3, 4)}, 1)
    assert not torch.equal(made.model[1].bias, net[1].bias)
    same(net, made.model)


def test_a_constant_before_padding_stays():
    net = randomized(chain())
    zero(net, "0.0.weight", index=2)
    net[0][0].bias.data[2], net[0][1].weight.data[2], net[0][1].bias.data[2] = 5.0, 1.0, 5.0
    made = compact(net, IMAGE)
    assert (made.kept, made.report["folded"]) == ({}, 0)
    net[0][1].bias.data[2] = -50.0
    assert compact(net, IMAGE).kept == {"0.0": (3, 4)}, "ReLU makes it zero"


def test_a_layer_of_which_nothing_is_read_keeps_an_idle_channel():
    net = randomized(chain())
    zero(net, "1.0.weight", index=slice(None))
    net[1][1].bias.data[0] = 3.0
    made = compact(net, IMAGE)
    assert made.report["collapsed"] == ["0.0", "1.0"]
    assert made.kept == {"0.0": (1, 4), "1.0": (1, 5)}
    same(net, made.model)


def test_a_residual_channel_leaves_only_with_all_that_writes_it():
    net = randomized(
        Net(
            lambda n, x: n.head(pooled(n.stem(x) + n.branch(n.stem(x).relu()))),
            stem=nn.Conv2d(3, 4, 1, bias=False),
            branch=nn.Conv2d(4, 4, 3, padding=1, bias=False),
            head=nn.Linear(4, 2),
        )
    )
    zero(net, "stem.weight", index=1)
    assert compact(net, IMAGE).kept == {}
    zero(net, "branch.weight", index=1)
    made = compact(net, IMAGE)
    assert made.kept == {"stem": (3, 4), "branch": (3, 4)}
    same(net, made.model)


def test_concatenations_depthwise_and_grouped_convolutions():
    net = randomized(
        Net(
            lambda n, x: n.head(pooled(n.grouped(n.norm(n.deep(torch.cat([n.a(x), n.b(x)], 1)).relu())))),
            a=nn.Conv2d(3, 4, 1),
            b=nn.Conv2d(3, 4, 1),
            deep=nn.Conv2d(8, 8, 3, padding=1, groups=8),
            norm=nn.BatchNorm2d(8),
            grouped=nn.Conv2d(8, 6, 1, groups=2),
            head=nn.Linear(6, 2),
        )
    )
    # The third place of both parts of the grouped convolution: channel 2 of a and of b.
    for name in ("a", "b"):
        zero(net, f"{name}.weight", f"{name}.bias", index=2)
    for channel in (2, 6):
        zero(net, "deep.weight", "deep.bias", "norm.weight", "norm.bias", index=channel)
    zero(net, "grouped.weight", "grouped.bias", index=[1, 4])
    made = compact(net, IMAGE)
    assert made.kept == {"a": (3, 4), "b": (3, 4), "deep": (6, 8), "grouped": (4, 6)}
    smaller = made.model
    assert (smaller.deep.groups, smaller.grouped.groups, smaller.grouped.in_channels) == (6, 2, 6)
    same(net, smaller)
    net.a.bias.data[2] = 1.0
    net.deep.weight.data[2] = 1.0
    net.norm.weight.data[2] = 1.0
    assert compact(net, IMAGE).kept.keys() == {"grouped"}, "one part of two still needs its channel"


def test_a_dead_depthwise_filter_kills_the_channel_before_it():
    net = randomized(
        nn.Sequential(
            nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, groups=4, padding=1), nn.Flatten(), nn.Linear(256, 2)
        )
    )
    zero(net, "1.weight", "1.bias", index=3)
    made = compact(net, IMAGE)
    assert made.kept == {"0": (3, 4), "1": (3, 4)}
    same(net, made.model)


def test_a_unit_that_happens_to_be_silent_on_the_example_is_not_taken_for_dead():
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, 1.0], [-1.0, -1e-3]]))
        net[0].bias.copy_(torch.tensor([0.0, -20.0]))
    x = torch.rand(8, 2)
    assert bool((net[1](net[0](x))[:, 1] == 0).all())
    assert compact(net, x).kept == {}


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 999), st.floats(0.3, 0.99))
def test_any_zeros_of_a_small_residual_network(seed, share):
    net = randomized(network(width=4), seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter[torch.rand(parameter.shape, generator=generator) < share] = 0
    x = torch.randn(3, 1, 6, 6, generator=generator)
    made = compact(net, x)
    same(net, made.model, x)
    assert sum(p.numel() for p in made.model.parameters()) <= sum(p.numel() for p in net.parameters())
    again = compact(made.model, x)
    assert again.report["nonzero"][0] <= made.report["nonzero"][1]


NETWORKS = {
    "mobilenet": lambda: torchvision.models.mobilenet_v2(num_classes=2, width_mult=0.25),
    # Its last stage ends in a maximum over the image, not in a mean.
    "conv_net": lambda: conv_net(3, width=4),
    "densenet": lambda: torchvision.models.DenseNet(4, (2, 3), num_init_features=8, num_classes=2),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_half_of_the_channels_of_known_networks(name):
    net = randomized(NETWORKS[name]())
    x = torch.randn(1, 3, 32, 32)
    parameters = dict(net.named_parameters())
    units = ChannelUnits(find_channels(net, x).groups, parameters, "layer")
    masks = units.shrink(
        full_masks(units.parameters), lambda n: parameters[n].detach().abs(), units.total // 2
    )
    made = compact(net, x, masks)
    rows = {n: int(mask.flatten(1).any(1).sum()) for n, mask in masks.items() if mask.ndim > 1}
    assert {f"{layer}.weight": kept for layer, (kept, _) in made.kept.items()} == {
        name: kept for name, kept in rows.items() if kept < len(masks[name])
    }
    before, after = made.report["macs"]
    assert after < 0.45 * before
    apply_masks(masks, parameters)
    same(net, made.model, x)


def test_a_channel_run_shrinks_to_its_channels():
    module = network()
    callback = ClassAwarePruningCallback(
        num_classes=2,
        protect={1: 1.0},
        target_sparsity=0.6,
        search=Fixed(fraction=0.3),
        guard=Guard(confidence=None, max_fp_rise=None),
        cut=Cut(granularity="channel"),
        guard_dataloader=images(seed=3),
    )
    fit(module, callback)
    x = torch.randn(5, 1, 6, 6)
    made = compact(module, x, callback.masks)
    stream = int(callback.masks["stem.0.bias"].sum())
    assert made.kept["stem.0"] == made.kept["outer"] == (stream, 8)
    assert made.kept["inner.0"] == (6 - stream, 8)
    same(module, made.model, x)


def test_low_precision_is_kept():
    net = randomized(chain()).bfloat16()
    zero(net, "0.0.weight", "0.0.bias", "0.1.weight", "0.1.bias", index=2)
    made = compact(net, IMAGE.bfloat16())
    assert made.kept == {"0.0": (3, 4)}
    assert {p.dtype for p in made.model.parameters()} == {torch.bfloat16}


def test_widths_are_rounded_up_with_channels_that_nothing_reads() -> None:
    net = randomized(nn.Sequential(nn.Conv2d(3, 20, 3), nn.ReLU(), nn.Flatten(), nn.Linear(20 * 36, 2)))
    zero(net, "0.weight", "0.bias", index=list(range(5, 20)))
    exact, expected = compact(net, IMAGE), net.eval()(IMAGE)
    assert exact.kept == {"0": (5, 20)}
    for multiple, width in ((4, 8), (5, 5), (16, 16), (32, 20)):
        rounded = compact(net, IMAGE, multiple=multiple)
        assert rounded.model[0].out_channels == width
        torch.testing.assert_close(rounded.model(IMAGE), expected)
        assert rounded.report["nonzero"] == exact.report["nonzero"]
