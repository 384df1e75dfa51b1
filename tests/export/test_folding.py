"""Similar channels become one: without a trace where they are equal, and never with a claim."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.export.test_compact import chain, randomized, same
from tests.pruning.test_channels import IMAGE, Net, conv_bn, pooled
from tests.support.compare import assert_same, weights

pytest.importorskip("torch_pruning")

from lightning_classprune.export.compact import NOT_DECLARED, compact
from lightning_classprune.export.compact_files import load_compact, save_compact
from lightning_classprune.export.folding import estimate_batchnorm
from lightning_classprune.pruning.channels import find_channels

X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def doubled(net: nn.Module, example: Tensor = IMAGE) -> nn.Module:
    """With channels that are equal two by two, wherever they can leave."""
    layers = dict(net.named_modules())
    with torch.no_grad():
        for group in find_channels(net, example).groups:
            for name, owner in group.outputs.items():
                layer, _, field = name.rpartition(".")
                tensors = [getattr(layers[layer], field)]
                if isinstance(layers[layer], nn.BatchNorm2d) and field == "weight":
                    tensors += [layers[layer].running_mean, layers[layer].running_var]
                for tensor in tensors:
                    for channel in range(0, group.size - 1, 2):
                        tensor[owner == channel + 1] = tensor[owner == channel]
    return net


def residual() -> Net:
    return Net(
        lambda n, x: n.head(pooled(n.stem(x) + n.branch(n.stem(x).relu()))),
        stem=conv_bn(3, 4),
        branch=nn.Sequential(conv_bn(4, 6), conv_bn(6, 4)),
        head=nn.Linear(4, 2),
    )


def preactivated() -> Net:
    """A BatchNorm behind a sum, and one behind a convolution whose output is used twice."""

    def forward(n: Any, x: Tensor) -> Tensor:
        x = n.stem(x)
        return n.head(pooled(x + n.conv(n.norm(x).relu())))

    return Net(
        forward,
        stem=nn.Conv2d(3, 4, 3, padding=1),
        norm=nn.BatchNorm2d(4),
        conv=nn.Conv2d(4, 4, 3, padding=1),
        head=nn.Linear(4, 2),
    )


def concatenated() -> Net:
    return Net(
        lambda n, x: n.head(pooled(n.last(torch.cat([n.one(x), n.two(x), n.one(x).tanh()], 1)))),
        one=conv_bn(3, 4),
        two=conv_bn(3, 6),
        last=conv_bn(14, 4),
        head=nn.Linear(4, 2),
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "chain": lambda: nn.Sequential(conv_bn(3, 4), conv_bn(4, 6), nn.Flatten(), nn.Linear(384, 2)),
    "without BatchNorm": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 6), nn.ReLU(), nn.Linear(6, 2)
    ),
    "other activations": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.SiLU(),
        nn.Conv2d(4, 4, 3),
        nn.Sigmoid(),
        nn.Flatten(),
        nn.Linear(64, 2),
    ),
    "residual": residual,
    "before activation": preactivated,
    "concatenated": concatenated,
    "depthwise": lambda: nn.Sequential(
        conv_bn(3, 4), conv_bn(4, 4, groups=4), conv_bn(4, 6), nn.Flatten(), nn.Linear(384, 2)
    ),
    "grouped": lambda: nn.Sequential(
        conv_bn(3, 8), conv_bn(8, 8, groups=2), conv_bn(8, 4), nn.Flatten(), nn.Linear(256, 2)
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_equal_channels_become_one_without_a_trace(name: str) -> None:
    net = doubled(randomized(NETWORKS[name](), 3).eval())
    before = weights(net)
    made = compact(net, IMAGE, fold=0.5)
    assert_same(weights(net), before)
    groups = find_channels(net, IMAGE).groups
    # Of channels that are read: those of a grouped convolution count once for all parts.
    assert made.report["merged"] == {g.name: [g.size // 2, g.size] for g in groups}
    assert made.report["difference"] < 1e-5
    assert made.report["claim"] == NOT_DECLARED == "unproven (not declared)"
    same(net, made.model, X)


def test_factors_pass_where_they_can() -> None:
    net = randomized(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))
    with torch.no_grad():
        for row in (1, 3):
            for tensor in (net[0].weight, net[0].bias):
                tensor[row] = 2.5 * row * tensor[row - 1]
    x = torch.randn(6, 3)
    made = compact(net, x, fold=2)
    assert made.report["difference"] < 1e-6
    torch.testing.assert_close(made.model(x), net(x))
    bent = nn.Sequential(net[0], nn.Tanh(), net[2])
    assert compact(bent, x, fold=2).report["difference"] > 0.01


def test_a_merged_channel_by_hand() -> None:
    """The mean of two rows, each counted by how much of it is read; what reads them reads their sum."""
    net = nn.Sequential(nn.Linear(1, 2), nn.Tanh(), nn.Linear(2, 1))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0], [3.0]]))
        net[0].bias.copy_(torch.tensor([0.0, 4.0]))
        net[2].weight.copy_(torch.tensor([[3.0, 1.0]]))
    made = compact(net, torch.randn(4, 1), fold=1)
    assert made.model[0].weight.tolist() == [[pytest.approx(0.9 * 1 + 0.1 * 3)]]
    assert made.model[0].bias.tolist() == [pytest.approx(0.4)]
    assert made.model[2].weight.tolist() == [[4.0]]
    assert (made.kept, made.report["merged"]) == ({"0": (1, 2)}, {"0": [1, 2]})
    assert made.report["parameters"] == [7, 4]


@pytest.mark.parametrize(("fold", "left"), [(4, (4, 4)), (0.75, (3, 4)), (0.01, (1, 1))])
def test_how_many_are_left(fold: float, left: tuple[int, int]) -> None:
    made = compact(randomized(chain()), IMAGE, fold=fold)
    assert [len(made.model[n][0].weight) for n in (0, 1)] == list(left)
    assert set(made.report["merged"]) == {f"{n}.0" for n, size in ((0, 4), (1, 5)) if left[n] < size}


def test_widths_in_multiples() -> None:
    net = randomized(nn.Sequential(conv_bn(3, 8), conv_bn(8, 8), nn.Flatten(), nn.Linear(512, 2)))
    made = compact(net, IMAGE, fold=3, multiple=4)
    assert made.kept == {"0.0": (4, 8), "1.0": (4, 8)}


def test_what_is_zero_leaves_first() -> None:
    net = doubled(randomized(chain()))
    masks = {"0.0.weight": torch.ones(4, 3, 3, 3, dtype=torch.bool)}
    masks["0.0.weight"][2:] = False
    with torch.no_grad():
        for tensor in (net[0][0].bias, net[0][1].weight, net[0][1].bias):
            tensor[2:] = 0
    made = compact(net, IMAGE, masks, fold=1)
    assert made.kept["0.0"] == (1, 4)
    assert made.report["merged"]["0.0"] == [1, 2]


@pytest.mark.parametrize("fold", [0, -1, 0.0, 1.0, 1.5, float("nan"), True, "half"])
def test_a_number_that_is_none(fold: Any) -> None:
    with pytest.raises(ValueError, match=r"fold=.* is out of range: channels to leave in each group"):
        compact(chain(), IMAGE, fold=fold)


def normed(norm: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), norm, nn.ReLU(), nn.Flatten(), nn.Linear(256, 2))


def tied() -> nn.Sequential:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    net[2].weight = net[0].weight
    return net


@pytest.mark.parametrize(
    ("net", "x", "error"),
    [
        (normed(nn.GroupNorm(2, 4)), IMAGE, r"fold=2 merges nothing: .*0: 1 \(GroupNorm\) mixes channels"),
        (normed(nn.LayerNorm([4, 8, 8])), IMAGE, r"merges nothing: .*LayerNorm\) mixes channels"),
        (tied(), torch.randn(2, 4), "merges nothing: .* shares a parameter with another layer"),
        (nn.Linear(4, 3), torch.randn(2, 4), "merges nothing: .*gives the output of the network"),
        (nn.Sequential(conv_bn(3, 1), nn.Flatten(), nn.Linear(64, 2)), IMAGE, "merges nothing"),
        (
            nn.Sequential(conv_bn(3, 2), nn.Flatten(), nn.Linear(128, 2)),
            IMAGE,
            "no group of channels is wider than that, the widest has 2",
        ),
    ],
)
def test_what_cannot_be_merged_is_said_by_name(net: nn.Module, x: Tensor, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        compact(net, x, fold=2)


def test_one_layer_that_cannot_does_not_keep_the_others() -> None:
    net = randomized(
        nn.Sequential(
            conv_bn(3, 4), nn.Conv2d(4, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(256, 2)
        )
    )
    made = compact(net, IMAGE, fold=2)
    assert made.report["merged"] == {"0.0": [2, 4]}
    assert made.report["stays"]["1"] == "2 (GroupNorm) mixes channels, or is not supported"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(value: float) -> None:
    net = chain()
    net[1][1].running_var[0] = value
    with pytest.raises(ValueError, match=r"1\.1\.running_var has values that are not finite"):
        compact(net, IMAGE, fold=2)


def test_the_same_for_the_same_seed_and_no_random_number_is_drawn() -> None:
    net = randomized(chain(), 5)
    torch.manual_seed(0)
    first = compact(net, IMAGE, fold=2, seed=3)
    after = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(1), after)
    assert_same(weights(first.model), weights(compact(net, IMAGE, fold=2, seed=3).model))


def test_statistics_are_measured_anew_on_data() -> None:
    net = randomized(chain(), 2)
    data = [torch.randn(8, 3, 8, 8) for _ in range(3)]
    plain = compact(net, IMAGE, fold=2)
    made = compact(net, IMAGE, fold=2, data=data)
    assert (plain.report["batchnorm"], made.report["batchnorm"]) == (0, 2)
    for name, tensor in weights(plain.model).items():
        assert torch.equal(tensor, weights(made.model)[name]) != ("running" in name), name
    with torch.no_grad():
        seen = torch.stack([made.model[0][0](x).mean((0, 2, 3)) for x in data]).mean(0)
    torch.testing.assert_close(made.model[0][1].running_mean, seen)
    assert not any(module.training for module in made.model.modules())
    assert made.model[0][1].momentum == 0.1
    # A merged channel is as far spread as those that it was made of, which narrower sums would not be.
    assert not torch.equal(made.model(IMAGE), plain.model(IMAGE))


@pytest.mark.parametrize(
    ("data", "error"),
    [([], "data is empty"), ([torch.randn(2, 5, 8, 8)], "data: the forward fails on batch 0: RuntimeError")],
)
def test_data_that_are_none(data: list[Tensor], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        compact(chain(), IMAGE, fold=2, data=data)
    with pytest.raises(ValueError, match="only a folded network is measured anew; give fold as well"):
        compact(chain(), IMAGE, data=data)


def test_batchnorm_that_measures_nothing_stays() -> None:
    net = nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False), nn.BatchNorm1d(3)).eval()
    assert estimate_batchnorm(net, [torch.randn(4, 3) + 5]) == 1
    assert net[1].num_batches_tracked == 0


def test_a_folded_network_is_saved_and_loaded(tmp_path: Path) -> None:
    net = randomized(residual())
    made = compact(net, IMAGE, fold=0.5)
    save_compact(tmp_path / "folded.safetensors", made, {})
    loaded, told = load_compact(tmp_path / "folded.safetensors", copy.deepcopy(net))
    assert torch.equal(loaded(X), made.model(X))
    assert told["report"]["claim"] == NOT_DECLARED
