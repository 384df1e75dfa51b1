"""Granularities: what goes together, and whole fits with each; a new one is a line of the registry."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lightning_classprune import ClassAwarePruningCallback
from lightning_classprune.pruning.granularities import GRANULARITIES, Granularity, find_units
from lightning_classprune.pruning.masks import Masks
from lightning_classprune.pruning.selection import Scores, shrink_masks
from lightning_classprune.pruning.units import Parameters, Surroundings
from lightning_classprune.trainer.processes import Processes
from lightning_classprune.trainer.sharding import Sharding
from tests.support import kit
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
    """Rounds of 30% of the channels to 60%, all accepted, unless told otherwise."""
    defaults = {"guard_dataloader": images(seed=3), "granularity": "channel", "target_sparsity": 0.6}
    if options.get("search") != "adaptive":
        defaults["fraction"] = 0.3
    return kit.pruner(**(defaults | options))


def fit(module: pl.LightningModule, *callbacks: Any, ckpt_path: Any = None, **options: Any) -> pl.Trainer:
    made = trainer(*callbacks, **options)
    pl.seed_everything(7, verbose=False)
    made.fit(module, images(seed=1, shuffle=True), ckpt_path=ckpt_path)
    return made


def network(**options: Any) -> Convolutions:
    torch.manual_seed(11)
    return Convolutions(**options)


# -- arguments --


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"granularity": "filter"}, "Cut.granularity='filter' is unknown: 'weight' or 'channel' or '2:4'"),
        ({"granularity": "2:4"}, r"use target_sparsity=0.5, search=Fixed\(fraction=0.5\)"),
        ({"granularity": "2:4", "target_sparsity": 0.5}, "Fixed.fraction=0.3 cannot be met"),
        (
            {
                "granularity": "2:4",
                "target_sparsity": 0.5,
                "fraction": 0.5,
                "on_refusal": "retry",
                "retries": 1,
            },
            "retries=1 does not go with it",
        ),
        (
            {"granularity": "2:4", "target_sparsity": 0.5, "search": "adaptive"},
            r"search='adaptive' has nothing to choose; use search=Fixed\(fraction=0.5\)",
        ),
    ],
)
def test_arguments_that_do_not_go_together(options, message):
    with pytest.raises(ValueError, match=message):
        pruner(**options)


# -- a granularity of one's own --


class InputFeatures:
    """Whole columns of one linear layer: input features that a network stops looking at."""

    name = "features"

    def __init__(self, parameters: Parameters) -> None:
        (self.key,) = parameters
        self.parameters = parameters
        self.total = parameters[self.key].shape[1]
        self.most = self.total - 1

    def pruned(self, masks: Masks) -> int:
        return int((~masks[self.key].any(0)).sum())

    def zeros(self) -> int:
        return int((self.parameters[self.key] == 0).all(0).sum())

    def shrink(self, masks: Masks, scores: Scores, pruned: int) -> Masks:
        columns = {self.key: masks[self.key].any(0)}
        kept = shrink_masks(columns, lambda name: scores(name).sum(0), pruned, "global")
        return {self.key: kept[self.key].expand_as(masks[self.key]).clone()}


def find_features(here: Surroundings) -> tuple[InputFeatures, list[str]]:
    first = {name: p for name, p in here.parameters.items() if name == "net.0.weight"}
    if not first:
        raise ValueError("there is no first layer")
    return InputFeatures(first), [name for name in here.parameters if name not in first]


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> str:
    """The one line that a new granularity takes beside its file."""
    monkeypatch.setitem(GRANULARITIES, "feature", Granularity(find_features))
    return "feature"


def test_a_granularity_of_ones_own_is_a_line_in_the_registry(own: str) -> None:
    module = kit.tiny()
    callback = kit.pruner(granularity=own, fraction=0.25, target_sparsity=0.5)
    assert callback.settings.cut.granularity == own
    with log_messages() as messages:
        kit.fit(module, callback)
    assert any("8 features can be pruned; dense stay net.4.weight" in message for message in messages)
    assert [(row["sparsity"], row["units"]) for row in callback.ledger] == [
        (0.0, "features"),
        (2 / 8, "features"),
        (4 / 8, "features"),
    ]
    mask = callback.masks["net.0.weight"]
    assert torch.equal(mask, mask[:1].expand_as(mask))
    assert int(mask[0].sum()) == 4
    assert bool((module.net[0].weight[~mask] == 0).all())
    assert bool(module.net[0].weight[mask].all())


def test_what_a_granularity_of_ones_own_does_not_find_is_said(own: str) -> None:
    with pytest.raises(MisconfigurationException, match="granularity='feature': there is no first layer"):
        kit.fit(kit.tiny(), kit.pruner(granularity=own, prunable=["net.4*"]))
    with pytest.raises(ValueError, match=r"'weight' or 'channel' or '2:4' or 'feature'$"):
        kit.pruner(granularity="input")


# -- fits --


def test_channels_in_a_fit():
    pytest.importorskip("torch_pruning")
    module, callback = network(), pruner()
    with log_messages() as messages:
        fit(module, callback)
    # The stem's stream (with `outer`) and the inner width: 16 channels, rounds of 30% up to 10.
    assert any("16 channels can be pruned; dense stay head" in message for message in messages)
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
    with pytest.raises(
        MisconfigurationException, match=r"Cut\.granularity was 'channel' and is now 'weight'"
    ):
        fit(network(), pruner(granularity="weight"), ckpt_path=keep.files[0])


def test_channels_by_validation_data():
    """The schedule counts channels as it counts weights."""
    pytest.importorskip("torch_pruning")
    module, callback = network(), pruner(search="adaptive")
    made = trainer(callback)
    made.fit(module, images(seed=1, shuffle=True), images(seed=2))
    assert [row["sparsity"] for row in callback.ledger] == [0.0, 10 / 16]
    assert callback.ledger[0]["validation_passes"] > 2


def test_two_of_four_in_a_fit():
    module = network()
    callback = pruner(granularity="2:4", target_sparsity=0.5, fraction=0.5)
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
    callback = pruner(prunable=["!outer*"], scope=scope, target_sparsity=0.5, fraction=0.5)
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


@pytest.mark.parametrize("granularity", ["channel", "2:4"])
def test_units_that_need_whole_weights_refuse_sharded_models(granularity):
    module = network()
    parameters = dict(module.named_parameters())
    sharding = Sharding(Processes(), frozenset({"stem.0.weight"}))
    with pytest.raises(MisconfigurationException, match="FSDP2 cuts them into pieces"):
        find_units(granularity, Surroundings(trainer(), module, parameters, "global", sharding))


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
        fit(network(width=6), pruner(granularity="2:4", target_sparsity=0.5, fraction=0.5))
    module = network()
    module.example_input_array = torch.randn(2, 2, 6, 6)
    with pytest.raises(MisconfigurationException, match="could not be traced"):
        fit(module, pruner())
