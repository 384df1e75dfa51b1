"""Channels and 2:4 as units of pruning: exact choices by hand, and whole fits."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lightning_classprune import ClassAwarePruningCallback
from lightning_classprune.pruning.channel_units import ChannelUnits, prunable_groups
from lightning_classprune.pruning.criteria import magnitude, magnitude_increase
from lightning_classprune.pruning.granularities import find_units
from lightning_classprune.pruning.masks import full_masks
from lightning_classprune.pruning.slicing import ChannelGroup
from lightning_classprune.pruning.two_four import TwoOfFour, keep_two_of_four, two_four_weights
from lightning_classprune.trainer.processes import Processes
from lightning_classprune.trainer.sharding import Sharding
from tests.support.compare import assert_same, optimizer_states, weights, without_seconds
from tests.support.kit import trainer
from tests.support.witness import log_messages

torch.set_num_threads(1)


class Convolutions(pl.LightningModule):
    """A residual network with BatchNorm and a head, small enough to fit in a second."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.inner = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
        self.outer = nn.Conv2d(width, width, 1)
        self.head = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        return self.head((y + self.outer(self.inner(y).relu())).relu().mean((2, 3)))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)


def images(n: int = 48, seed: int = 0, **options: Any) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 1, 6, 6, generator=generator)
    return DataLoader(TensorDataset(x, (x.mean((1, 2, 3)) > 0).long()), batch_size=16, **options)


def pruner(**options: Any) -> ClassAwarePruningCallback:
    defaults: dict[str, Any] = {
        "num_classes": 2,
        "protect": {1: 1.0},
        "confidence": None,
        "guard_dataloader": images(seed=3),
        "granularity": "channel",
        "target_sparsity": 0.6,
        "prune_fraction": 0.3,
    }
    return ClassAwarePruningCallback(**(defaults | options))


def fit(module: pl.LightningModule, *callbacks: Any, ckpt_path: Any = None, **options: Any) -> pl.Trainer:
    made = trainer(*callbacks, **options)
    pl.seed_everything(7, verbose=False)
    made.fit(module, images(seed=1, shuffle=True), ckpt_path=ckpt_path)
    return made


def network(**options: Any) -> Convolutions:
    torch.manual_seed(11)
    return Convolutions(**options)


# -- channels, by hand --


def units(scope: Any = "global") -> ChannelUnits:
    """Two groups: three channels that `a` writes through the norm `n`, and two of `b`."""
    parameters = {
        "a.weight": nn.Parameter(torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0]])),
        "a.bias": nn.Parameter(torch.tensor([0.0, 9.0, 0.0])),
        "n.weight": nn.Parameter(torch.tensor([0.0, 1.0, 3.0])),
        "b.weight": nn.Parameter(torch.tensor([[10.0], [30.0]])),
        "head.weight": nn.Parameter(torch.ones(2, 2)),
    }
    three, two = torch.arange(3), torch.arange(2)
    groups = [
        ChannelGroup("a", 3, {"a.weight": three, "a.bias": three, "n.weight": three}, {"b.weight": three}),
        ChannelGroup("b", 2, {"b.weight": two}, {"head.weight": two}),
    ]
    return ChannelUnits(groups, parameters, scope)


def shrink(cut: ChannelUnits, pruned: int, masks: Any = None, criterion: Any = magnitude) -> Any:
    start = {name: torch.full_like(p, 2.0) for name, p in cut.parameters.items()}
    return cut.shrink(
        masks or full_masks(cut.parameters),
        lambda name: criterion(cut.parameters[name].detach(), start[name]),
        pruned,
    )


def alive(masks: Any) -> list[list[int]]:
    return [masks["a.bias"].int().tolist(), masks["b.weight"][:, 0].int().tolist()]


def test_channels_are_counted_over_the_groups_and_cover_what_they_write():
    cut = units()
    assert (cut.total, cut.most) == (5, 3)
    assert set(cut.parameters) == {"a.weight", "a.bias", "n.weight", "b.weight"}
    assert cut.zeros() == 0
    cut.parameters["b.weight"].data[1] = 0
    assert cut.zeros() == 1
    cut.parameters["a.weight"].data[0] = 0
    assert cut.zeros() == 2, "gamma is zero already, and no bias"


def test_scores_are_squares_relative_to_the_group_without_biases():
    # a: 25 + 0, 1 + 1, 0 + 9 (mean 12) -> 2.08, 0.17, 0.75; b: 100, 900 (mean 500) -> 0.2, 1.8.
    order = [alive(shrink(units(), k)) for k in range(4)]
    assert order == [
        [[1, 1, 1], [1, 1]],
        [[1, 0, 1], [1, 1]],
        [[1, 0, 1], [0, 1]],
        [[1, 0, 0], [0, 1]],
    ]


def test_scores_are_relative_to_the_channels_that_are_left():
    # Without a's channel 1 its mean is 17: channel 2 scores 9 / 17, still above b's first.
    first = shrink(units(), 1)
    assert alive(shrink(units(), 2, first)) == [[1, 0, 1], [0, 1]]


def test_a_channel_dies_with_all_that_writes_it():
    masks = shrink(units(), 1)
    assert masks["a.weight"].tolist() == [[True, True], [False, False], [True, True]]
    assert masks["a.bias"].tolist() == masks["n.weight"].tolist() == [True, False, True]
    assert units().pruned(masks) == 1


def test_one_scope_for_each_group():
    assert alive(shrink(units("layer"), 2)) == [[1, 0, 1], [0, 1]]
    assert alive(shrink(units("layer"), 3)) == [[1, 0, 0], [0, 1]]


def test_weights_that_shrank_come_before_weights_that_grew():
    # |w| - 2 with signs: a: 1 + 4 - 4, -1 - 4 - 1, -4 - 4 + 1; b: 64, 784.
    masks = shrink(units(), 2, criterion=magnitude_increase)
    assert alive(masks) == [[1, 0, 0], [1, 1]]


def test_no_group_loses_its_last_channel_and_no_score_may_be_nan():
    with pytest.raises(ValueError, match="from 0 to 3"):
        shrink(units(), 4)
    with pytest.raises(ValueError, match="NaN"):
        shrink(units(), 1, criterion=lambda weight, _: weight * float("nan"))


def test_channels_of_equal_score_leave_by_place():
    cut = units()
    for parameter in cut.parameters.values():
        parameter.data.fill_(1.0)
    assert [alive(shrink(cut, k)) for k in (1, 2, 3)] == [
        [[0, 1, 1], [1, 1]],
        [[0, 0, 1], [1, 1]],
        [[0, 0, 1], [0, 1]],
    ]


def test_zero_scores_divide_by_nothing():
    cut = units()
    for parameter in cut.parameters.values():
        parameter.data.zero_()
    assert cut.pruned(shrink(cut, 3)) == 3


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.data())
def test_any_number_of_channels_is_met_and_masks_only_shrink(sizes, data):
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    parameters = {
        f"{g}.weight": nn.Parameter(torch.randint(-2, 3, (n, 2), generator=generator).float())
        for g, n in enumerate(sizes)
    }
    groups = [ChannelGroup(str(g), n, {f"{g}.weight": torch.arange(n)}) for g, n in enumerate(sizes)]
    cut = ChannelUnits(groups, parameters, data.draw(st.sampled_from(["global", "layer"])))
    assert cut.most == sum(sizes) - len(sizes)
    masks, before = full_masks(parameters), 0
    for _ in range(3):
        pruned = data.draw(st.integers(before, cut.most))
        shrunk = shrink(cut, pruned, masks)
        assert cut.pruned(shrunk) == pruned
        for name, mask in shrunk.items():
            assert not (mask & ~masks[name]).any()
            assert torch.equal(mask.all(1), mask.any(1)), "a channel leaves as a whole"
        masks, before = shrunk, pruned


def test_the_score_is_the_group_importance_of_torch_pruning_for_what_writes():
    tp = pytest.importorskip("torch_pruning")
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 36, 2))
    net[1].weight.data.uniform_()
    graph = tp.DependencyGraph().build_dependency(net, torch.randn(1, 3, 8, 8))
    group = graph.get_pruning_group(net[0], tp.prune_conv_out_channels, list(range(5)))
    # Their group without the layer that reads.
    group._group = [item for item in group.items if item.dep.target.module is not net[4]]
    theirs = tp.importance.GroupMagnitudeImportance(p=2)(group)
    parameters = dict(net.named_parameters())
    mine = ChannelUnits(
        [ChannelGroup("0", 5, {n: torch.arange(5) for n in ("0.weight", "0.bias", "1.weight", "1.bias")})],
        parameters,
        "global",
    )
    scores = mine._importance(
        mine.groups[0], lambda name: parameters[name].detach().abs(), torch.ones(5, dtype=torch.bool)
    )
    torch.testing.assert_close(scores.float(), theirs)


def test_a_group_with_a_layer_that_may_not_be_pruned_stays():
    net = nn.ModuleDict({"a": nn.Linear(2, 3), "n": nn.BatchNorm1d(3), "b": nn.Linear(3, 2)})
    groups = units().groups
    chosen = {"a.weight": net["a"].weight}
    ready, held = prunable_groups(net, groups, chosen)
    assert [group.name for group in ready] == ["a"]
    assert held == ["b"]


# -- 2:4, by hand --


def test_two_of_four_by_hand():
    scores = torch.tensor(
        [[1.0, 4.0, 3.0, 2.0, 5.0, 5.0, 5.0, 5.0], [-1.0, -2.0, -3.0, -4.0, 0.0, 9.0, 0.0, 8.0]]
    )
    assert keep_two_of_four(scores).int().tolist() == [[0, 1, 1, 0, 0, 0, 1, 1], [1, 1, 0, 0, 0, 1, 0, 1]]


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), st.integers(0, 99))
def test_every_four_inputs_keep_their_two_largest(rows, fours, kernel, seed):
    shape = (rows, 4 * fours, kernel, kernel)
    scores = torch.randint(0, 5, shape, generator=torch.Generator().manual_seed(seed)).float()
    kept = keep_two_of_four(scores)
    assert kept.is_contiguous()
    groups = kept.permute(0, 2, 3, 1).reshape(-1, 4)
    values = scores.permute(0, 2, 3, 1).reshape(-1, 4)
    assert bool((groups.sum(1) == 2).all())
    lost = values.masked_fill(groups, -1).amax(1)
    assert bool((values.masked_fill(~groups, 9).amin(1) >= lost).all())


def test_layers_whose_inputs_four_divides():
    net = nn.ModuleDict(
        {
            "linear": nn.Linear(8, 3),
            "odd": nn.Linear(6, 3),
            "conv": nn.Conv2d(4, 3, 3),
            "grouped": nn.Conv2d(8, 8, 1, groups=4),
            "up": nn.ConvTranspose2d(4, 4, 2),
            "table": nn.Embedding(3, 4),
        }
    )
    chosen = two_four_weights(net, {n: p for n, p in net.named_parameters() if n.endswith("weight")})
    assert list(chosen) == ["linear.weight", "conv.weight"]
    cut = TwoOfFour(chosen)
    assert (cut.total, cut.most) == (24 + 108, 66)
    with pytest.raises(ValueError, match="66 of 132"):
        cut.shrink(full_masks(chosen), lambda name: chosen[name].detach(), 65)
    with pytest.raises(ValueError, match="NaN"):
        cut.shrink(full_masks(chosen), lambda name: chosen[name].detach() * float("nan"), 66)


# -- arguments --


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"granularity": "filter"}, "granularity='filter' is unknown: 'weight' or 'channel' or '2:4'"),
        ({"granularity": "2:4"}, "use target_sparsity=0.5, prune_fraction=0.5"),
        ({"granularity": "2:4", "target_sparsity": 0.5}, "prune_fraction=0.3 cannot be met"),
        (
            {
                "granularity": "2:4",
                "target_sparsity": 0.5,
                "prune_fraction": 0.5,
                "on_refusal": "retry",
                "retries": 1,
            },
            "retries=1 does not go with it",
        ),
        (
            {
                "granularity": "2:4",
                "target_sparsity": 0.5,
                "prune_fraction": 0.5,
                "schedule": "adaptive",
            },
            "schedule='adaptive' has nothing to choose",
        ),
    ],
)
def test_arguments_that_do_not_go_together(options, message):
    with pytest.raises(ValueError, match=message):
        pruner(**options)


# -- fits --


def test_channels_in_a_fit():
    pytest.importorskip("torch_pruning")
    module, callback = network(), pruner()
    with log_messages() as messages:
        fit(module, callback)
    # The stem's stream (with `outer`) and the inner width: 16 channels, rounds of 30% up to 10.
    assert any("16 channels in 2 groups can be pruned; dense stay head" in message for message in messages)
    assert [row["sparsity"] for row in callback.ledger] == [0.0, 5 / 16, 9 / 16, 10 / 16]
    assert callback.sparsity == 10 / 16
    assert {row["verdict"] for row in callback.ledger} == {"baseline", "accepted"}
    stream, inner = callback.masks["stem.0.bias"], callback.masks["inner.1.bias"]
    assert int(stream.sum() + inner.sum()) == 6
    assert stream.any()
    assert inner.any()
    for names, kept in (
        (("stem.0", "stem.1", "outer"), stream),
        (("inner.0", "inner.1"), inner),
    ):
        for name in names:
            for field, parameter in module.get_submodule(name).named_parameters():
                whole = callback.masks[f"{name}.{field}"].reshape(8, -1)
                assert torch.equal(whole, kept[:, None].expand_as(whole))
                assert bool((parameter[~kept] == 0).all())
                assert bool(parameter[kept].any())
    assert not any(name.startswith("head") for name in callback.masks)
    y = module.eval().stem(torch.randn(2, 1, 6, 6))
    assert bool((y[:, ~stream] == 0).all())


def test_a_refused_step_of_channels_is_undone():
    pytest.importorskip("torch_pruning")
    module = network()

    def predict(net: Any, batch: Any) -> tuple[Tensor, Tensor]:
        scores = net(batch[0])
        return scores - torch.tensor([0.0, 1e6]) * (len(callback.ledger) == 2), batch[1]

    callback = pruner(predict=predict, protect={1: 0.1})
    fit(module, callback)
    assert [row["verdict"] for row in callback.ledger] == ["baseline", "accepted", "refused"]
    assert callback.sparsity == 5 / 16
    assert sum(int((~callback.masks[n]).sum()) for n in ("stem.0.bias", "inner.1.bias")) == 5


class Keep(pl.callbacks.Checkpoint):
    def __init__(self, folder: Any) -> None:
        self.folder, self.files = folder, list[str]()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.files.append(str(self.folder / f"{len(self.files)}.ckpt"))
        trainer.save_checkpoint(self.files[-1])


def test_a_resumed_channel_run_ends_as_the_uninterrupted_one(tmp_path):
    pytest.importorskip("torch_pruning")

    def result(module: Any, callback: Any, made: Any) -> Any:
        return [weights(module), callback.masks, without_seconds(callback.ledger), optimizer_states(made)]

    module, callback, keep = network(), pruner(), Keep(tmp_path)
    expected = result(module, callback, fit(module, callback, keep))
    assert len(keep.files) == 8
    for file in keep.files[1:6:2] + keep.files[2:3]:
        module, callback = network(), pruner()
        torch.nn.init.normal_(module.head.weight)
        assert_same(expected, result(module, callback, fit(module, callback, ckpt_path=file)))
        assert callback.sparsity == 10 / 16


def test_a_run_of_another_granularity_is_not_resumed(tmp_path):
    pytest.importorskip("torch_pruning")
    keep = Keep(tmp_path)
    fit(network(), pruner(), keep)
    with pytest.raises(MisconfigurationException, match="granularity was 'channel' and is now 'weight'"):
        fit(network(), pruner(granularity="weight"), ckpt_path=keep.files[0])


def test_channels_by_validation_data():
    """The schedule counts channels as it counts weights."""
    pytest.importorskip("torch_pruning")
    module, callback = network(), pruner(schedule="adaptive")
    made = trainer(callback)
    made.fit(module, images(seed=1, shuffle=True), images(seed=2))
    assert [row["sparsity"] for row in callback.ledger] == [0.0, 10 / 16]
    assert callback.ledger[0]["validation_passes"] > 2


def test_two_of_four_in_a_fit():
    module = network()
    callback = pruner(granularity="2:4", target_sparsity=0.5, prune_fraction=0.5)
    with log_messages() as messages:
        fit(module, callback)
    assert [row["sparsity"] for row in callback.ledger] == [0.0, 0.5]
    assert callback.sparsity == 0.5
    assert set(callback.masks) == {"inner.0.weight", "outer.weight", "head.weight"}
    assert any("dense stay stem.0.weight" in message for message in messages)
    for name, mask in callback.masks.items():
        assert bool((mask.movedim(1, -1).reshape(-1, 4).sum(1) == 2).all())
        assert bool((module.get_parameter(name)[~mask] == 0).all())
    fit(module, callback)
    assert callback.sparsity == 0.5
    assert len(callback.ledger) == 1, "the target was reached before"


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_prunable_and_scope_hold_for_channels(scope):
    pytest.importorskip("torch_pruning")
    callback = pruner(prunable=["!outer*"], scope=scope, target_sparsity=0.5, prune_fraction=0.5)
    fit(network(), callback, max_epochs=1)
    assert set(callback.masks) == {"inner.0.weight", "inner.1.weight", "inner.1.bias"}
    assert callback.sparsity == 0.5


class Batches(TensorDataset):
    """Gives a whole batch at once, as its tensors."""

    def __getitems__(self, indices: list[int]) -> Any:
        return tuple(tensor[indices] for tensor in self.tensors)


def test_the_example_is_read_as_the_loader_reads_it():
    pytest.importorskip("torch_pruning")
    data = images(seed=1).dataset.tensors
    whole = DataLoader(Batches(*data), batch_size=16, collate_fn=lambda batch: batch)
    callback = pruner(max_rounds=1)
    trainer(callback, max_epochs=1).fit(network(), whole)
    assert callback.sparsity == 5 / 16


@pytest.mark.parametrize(
    "options", [{}, {"granularity": "2:4", "target_sparsity": 0.5, "prune_fraction": 0.5}]
)
def test_sharded_models_are_refused(options):
    module = network()
    sharding = Sharding(Processes(), frozenset({"stem.0.weight"}))
    with pytest.raises(MisconfigurationException, match="FSDP2 cuts them into pieces"):
        find_units(pruner(**options).settings, trainer(), module, dict(module.named_parameters()), sharding)


@pytest.mark.parametrize("whole", [True, False])
def test_compiled_modules_are_followed_too(whole):
    pytest.importorskip("torch_pruning")
    module, callback = network(), pruner(max_rounds=1)
    if not whole:
        module.inner = torch.compile(module.inner, backend="eager")
    made = trainer(callback, max_epochs=1)
    made.fit(torch.compile(module, backend="eager") if whole else module, images(seed=1))
    assert callback.sparsity == 5 / 16
    assert "inner.0.weight" in callback.masks


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(images(seed=1).dataset)


def test_a_stream_needs_an_example():
    pytest.importorskip("torch_pruning")
    stream = DataLoader(Stream(), batch_size=16)
    with pytest.raises(MisconfigurationException, match="set `example_input_array`"):
        trainer(pruner()).fit(network(), stream)
    module = network()
    module.example_input_array = torch.randn(2, 1, 6, 6)
    callback = pruner()
    trainer(callback).fit(module, stream)
    assert callback.sparsity == 10 / 16


def test_what_cannot_be_cut_is_refused_before_training():
    pytest.importorskip("torch_pruning")
    with pytest.raises(MisconfigurationException, match=r"no channel can leave .*head \(it gives the output"):
        fit(network(), pruner(prunable=["head*"]))
    with pytest.raises(MisconfigurationException, match="leaves 0 of 16 channels for 2 groups"):
        fit(network(), pruner(target_sparsity=0.95))
    with pytest.raises(MisconfigurationException, match="number of inputs that four divides"):
        fit(network(width=6), pruner(granularity="2:4", target_sparsity=0.5, prune_fraction=0.5))
    module = network()
    module.example_input_array = torch.randn(2, 2, 6, 6)
    with pytest.raises(MisconfigurationException, match="could not be traced"):
        fit(module, pruner())
