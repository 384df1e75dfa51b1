"""Bad input that only a model, its data or a trainer shows: a clear error before the first training batch.

It names the constructor argument. What the arguments alone show is refused before: see `rounds/test_settings.py`.
"""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EarlyStopping, ModelPruning, StochasticWeightAveraging
from lightning.pytorch.strategies import Strategy
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, WeightedRandomSampler

from tests.support.kit import (
    dataset,
    fit,
    guard_loader,
    loader,
    pruner,
    refusing,
    tiny,
    train_loader,
    trainer,
    val_loader,
)
from tests.support.older import EMAWeightAveraging, WeightAveraging


class NoBatch(pl.Callback):
    """Fails the test if training begins."""

    def on_train_batch_start(self, *_: Any) -> None:
        raise AssertionError("a training batch was reached")


def refuses(message: str, module: Any = None, callback: Any = None, *callbacks: Any, **options: Any) -> None:
    module, callback = module or tiny(), callback or pruner()
    limits = {"max_epochs": 2} | options
    with pytest.raises(MisconfigurationException, match=message):
        fit(module, callback, NoBatch(), *callbacks, **limits)


# -- the module --


def test_target_below_the_sparsity_that_is_there():
    module = tiny()
    with torch.no_grad():
        module.net[0].weight[:9] = 0
    refuses("target_sparsity=0.4 is below", module, pruner(target_sparsity=0.4))


def test_target_that_would_empty_a_tensor():
    refuses("target_sparsity=0.99 leaves 1 of 120", None, pruner(target_sparsity=0.99))


def test_nothing_trainable_to_prune():
    module = tiny()
    module.net[0].weight.requires_grad_(False)
    module.net[4].weight.requires_grad_(False)
    refuses("prunable=None leaves no trainable parameter", module)


def test_no_layer_of_a_prunable_kind():
    refuses("prunable: pattern 'conv", None, pruner(prunable="conv*"))


def test_predicate_that_selects_nothing():
    refuses("prunable=.* leaves no", None, pruner(prunable=lambda name, parameter: False))


@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64])
def test_integer_and_complex_parameters(dtype):
    module = tiny()
    module.table = nn.Parameter(torch.ones(3, 3).to(dtype), requires_grad=False)
    refuses("prunable: `table` has dtype", module, pruner(prunable=lambda name, parameter: "net" not in name))


def test_uninitialized_parameters():
    module = tiny()
    module.head = nn.LazyLinear(2)
    refuses("prunable: `head.weight` is not initialized", module)


@pytest.mark.parametrize(
    "criterion",
    [
        lambda weight, start: weight.abs().sum(),
        lambda weight, start: weight * float("nan"),
        lambda weight, start: None,
        lambda weight, start: weight.to(torch.complex64),
    ],
)
def test_criterion_that_gives_no_scores(criterion):
    refuses("criterion must return", None, pruner(criterion=criterion))


# -- predict --


@pytest.mark.parametrize(
    ("predict", "message"),
    [
        (lambda module, batch: module(batch[0]), "predict must return"),
        (lambda module, batch: (module(batch[0]), batch[1], 0), "predict must return"),
        (lambda module, batch: (module(batch[0]).tolist(), batch[1]), "predict must return two tensors"),
        (lambda module, batch: (module(batch[0])[:, :1].repeat(1, 3), batch[1]), "predict returned scores"),
        (lambda module, batch: (module(batch[0])[:-1], batch[1]), "predict returned scores"),
        (lambda module, batch: (module(batch[0]).mean(), batch[1]), "predict"),
        (lambda module, batch: (module(batch[0]).unsqueeze(2), batch[1]), "predict returned scores"),
        (lambda module, batch: (module(batch[0]).argmax(1), batch[1]), "predict returned scores of dtype"),
        (lambda module, batch: (module(batch[0]), batch[1] + 1), "predict returned targets from"),
        (lambda module, batch: (module(batch[0]), batch[1] - 1), "predict returned targets from"),
        (lambda module, batch: (module(batch[0]), batch[1] * 0.5), "predict returned targets from"),
        (lambda module, batch: (module(batch[0]) * float("nan"), batch[1]), "predict returned NaN"),
        (lambda module, batch: (module(batch[0]), batch[1][:, None].repeat(1, 3)), "predict"),
    ],
)
@pytest.mark.parametrize("sanity", [0, 2])
def test_predict_that_makes_no_sense(predict, message, sanity):
    refuses(message, None, pruner(predict=predict), num_sanity_val_steps=sanity)


def test_fewer_outputs_than_classes():
    refuses(
        r"predict returned scores \(50, 2\).*num_classes=5", None, pruner(num_classes=5, protect={4: 0.1})
    )


def test_predict_is_checked_under_fast_dev_run_too():
    callback = pruner(predict=lambda module, batch: module(batch[0]))
    with pytest.raises(MisconfigurationException, match="predict must return"):
        fit(tiny(), callback, fast_dev_run=True)


def test_nan_weights_at_the_start():
    module = tiny()
    with torch.no_grad():
        module.net[0].weight[0] = float("nan")
    refuses("NaN", module)


def test_an_error_inside_predict_is_the_users_own():
    def predict(module: Any, batch: Any) -> Any:
        raise KeyError("image")

    with pytest.raises(KeyError, match="image"):
        fit(tiny(), pruner(predict=predict), NoBatch())


# -- data --


def test_neither_guard_nor_validation_data():
    made = trainer(pruner(guard_dataloader=None), NoBatch())
    with pytest.raises(MisconfigurationException, match="guard_dataloader: there is neither"):
        made.fit(tiny(), train_loader())


def test_validation_turned_off_is_no_validation_data():
    refuses("guard_dataloader: there is neither", None, pruner(guard_dataloader=None), limit_val_batches=0)


def test_an_empty_guard_split():
    empty = DataLoader(TensorDataset(torch.zeros(0, 8), torch.zeros(0, dtype=torch.long)), batch_size=4)
    refuses("guard_dataloader", None, pruner(guard_dataloader=empty))


def test_guard_data_that_visits_samples_twice():
    data = guard_loader().dataset
    sampler = WeightedRandomSampler([1.0] * len(data), len(data), replacement=True)
    twice = DataLoader(data, batch_size=10, sampler=sampler)
    refuses("guard_dataloader: .*more than once", None, pruner(guard_dataloader=twice))


@pytest.mark.parametrize(
    ("rewind", "limits"),
    [
        ("epoch:2", {"max_epochs": 2}),
        ("epoch:2", {"max_epochs": None, "max_steps": 12}),
        ("epoch:2", {"max_epochs": 5, "max_steps": 12}),
        ("step:12", {"max_epochs": 2}),
        ("step:12", {"max_epochs": None, "max_steps": 12}),
        ("step:13", {"max_epochs": -1, "max_steps": 12}),
    ],
)
def test_a_rewind_point_outside_the_round(rewind, limits):
    refuses(f"rewind='{rewind}' is not inside a round", None, pruner(rewind=rewind), **limits)


@pytest.mark.parametrize("rewind", ["epoch:1", "step:3"])
def test_fast_dev_run_is_no_error_for_a_rewind_point(rewind):
    callback = pruner(rewind=rewind)
    fit(tiny(), callback, fast_dev_run=True)
    assert len(callback.ledger) == 1


# -- the trainer --


def test_nothing_that_ends_a_round():
    refuses("max_epochs=-1", max_epochs=-1)


def test_early_stopping_may_end_rounds_without_a_limit():
    class Rising(pl.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            pl_module.log("rising", float(trainer.current_epoch))

    callback = pruner(max_rounds=1)
    fit(tiny(), callback, Rising(), EarlyStopping(monitor="rising", patience=1), max_epochs=-1)
    assert [row["epochs"] for row in callback.ledger] == [2, 2]


def test_stochastic_weight_averaging():
    refuses("StochasticWeightAveraging.*WeightAveraging", None, None, StochasticWeightAveraging(swa_lrs=0.1))


def test_lightnings_own_pruning():
    refuses("ModelPruning", None, None, ModelPruning("l1_unstructured", amount=0.5))


def test_two_averages_of_the_weights():
    refuses("more than one WeightAveraging callback", None, None, WeightAveraging(), EMAWeightAveraging())


def test_two_pruning_callbacks():
    # Lightning refuses them where it can see them, we where they came later
    with pytest.raises(RuntimeError, match=r"more than one .*ClassAwarePruningCallback"):
        trainer(pruner(), pruner(protect={0: 0.1}))
    made = trainer(pruner(), NoBatch())
    made.callbacks.append(pruner(protect={0: 0.1}))
    with pytest.raises(MisconfigurationException, match="more than one ClassAwarePruningCallback"):
        made.fit(tiny(), train_loader(), val_loader())


class Foreign(Strategy):
    """A strategy that the package does not know."""

    @property
    def root_device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def is_global_zero(self) -> bool:
        return True

    def model_to_device(self) -> None:
        pass

    def reduce(self, tensor: Any, *_: Any, **__: Any) -> Any:
        return tensor

    def barrier(self, name: str | None = None) -> None:
        pass

    def broadcast(self, obj: Any, src: int = 0) -> Any:
        return obj

    def all_gather(self, tensor: Any, *_: Any, **__: Any) -> Any:
        return tensor


def test_an_unsupported_strategy():
    refuses("strategy Foreign is not supported", strategy=Foreign(accelerator=None), accelerator="auto")


def test_the_trainer_is_as_it_was_after_an_error():
    callback = pruner(target_sparsity=0.99)
    made = trainer(callback)
    before = list(made.callbacks)
    module = tiny()
    with pytest.raises(MisconfigurationException, match="target_sparsity"):
        made.fit(module, train_loader(), val_loader())
    assert made.callbacks == before
    assert made.max_epochs == 2
    # and the same trainer works once the argument is right
    callback = pruner(max_rounds=1)
    made.callbacks[:] = [callback]
    made.fit(module, train_loader(), val_loader())
    assert callback.sparsity == 48 / 120


def test_bad_validation_data_is_found_by_the_monitor_before_training():
    """The guard may be fine where the validation set has a class that `num_classes` does not know."""
    strange = loader(n=40, seed=2, classes=3)
    module = tiny(outputs=2)
    module.validation_step = lambda batch, batch_idx: None
    with pytest.raises(MisconfigurationException, match="predict returned targets from 0 to 2"):
        fit(module, pruner(), NoBatch(), val=strange, num_sanity_val_steps=2)


def test_good_input_reaches_training():
    """The guard of these tests itself: without bad input, `NoBatch` is reached."""
    with pytest.raises(AssertionError, match="a training batch was reached"):
        fit(tiny(), refusing(), NoBatch())


# -- streams --


class Shuffled(IterableDataset):
    """Another order at every reading, of its own random numbers."""

    def __init__(self, *orders: int) -> None:
        self.samples, self.orders, self.read = dataset(40, 3), list(orders), 0

    def __iter__(self) -> Any:
        seed = self.orders[min(self.read, len(self.orders) - 1)]
        self.read += 1
        order = torch.randperm(40, generator=torch.Generator().manual_seed(seed))
        return iter([self.samples[i] for i in order.tolist()])


def test_a_guard_stream_in_another_order_at_each_reading():
    refuses("guard_dataloader: read twice, the stream gave 40 cases and then 40, or", None,
            pruner(guard_dataloader=DataLoader(Shuffled(1, 2, 3), batch_size=20)))  # fmt: skip


def test_guard_data_that_can_be_read_once():
    refuses("guard_dataloader: read twice, the stream gave 120 cases and then 0", None,
            pruner(guard_dataloader=iter(guard_loader())))  # fmt: skip


def test_a_validation_stream_in_another_order_where_it_chooses():
    stream = DataLoader(Shuffled(1, 2, 3), batch_size=20)
    callback = pruner(search="adaptive", guard_dataloader=guard_loader(seed=8))
    refuses("validation data: read twice", None, callback, val=stream, num_sanity_val_steps=0)


def test_a_stream_that_begins_anew_is_a_guard():
    callback = pruner(guard_dataloader=DataLoader(Shuffled(1), batch_size=20), max_rounds=1)
    fit(tiny(), callback, max_epochs=1)
    assert len(callback.ledger) == 2
