"""Reuse: second fits, evaluation after a fit, copies for k-fold runs, starting from weights that are there."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from tests.support.compare import assert_same, weights, without_seconds
from tests.support.kit import (
    Tiny,
    fit,
    guard_loader,
    pruner,
    refusing,
    refusing_all,
    tiny,
    train_loader,
    trainer,
    val_loader,
    verdicts,
)
from tests.support.witness import Watch

# -- nothing happens outside fit --


def test_validate_test_and_predict_before_and_after_a_fit_change_nothing(tmp_path):
    module, callback = tiny(), pruner()
    made = trainer(callback)
    made.validate(module, val_loader(), verbose=False)
    made.test(module, val_loader(), verbose=False)
    assert callback.ledger == []
    assert callback.masks == {}
    made.fit(module, train_loader(), val_loader())
    delivered, ledger, masks = weights(module), without_seconds(callback.ledger), dict(callback.masks)
    made.validate(module, val_loader(), verbose=False)
    made.test(module, val_loader(), verbose=False)
    predictions = made.predict(module, val_loader())
    assert_same(weights(module), delivered)
    assert without_seconds(callback.ledger) == ledger
    assert_same(callback.masks, masks)
    assert callback.sparsity == 0.75
    with torch.no_grad():
        assert_same(predictions[0], module.eval()(next(iter(val_loader()))[0]))


def test_results_of_an_unused_callback_are_empty():
    callback = pruner()
    assert callback.masks == {}
    assert callback.sparsity == 0
    assert callback.ledger == []
    assert callback.state_dict() == {}
    assert callback.round_epoch == 0


# -- a second fit --


def run(callback: Any, module: Tiny, seed: int = 7) -> dict[str, Any]:
    fit(module, callback, seed=seed)
    return {
        "weights": weights(module),
        "ledger": without_seconds(callback.ledger),
        "masks": dict(callback.masks),
    }


def test_a_second_fit_of_another_module_is_like_the_first():
    callback = refusing(2, on_refusal="retry", retries=1)
    first = run(callback, tiny())
    assert len(first["ledger"]) > 4
    assert_same(run(callback, tiny()), first)


def test_a_second_fit_with_the_same_trainer_and_another_module():
    """Lightning counts on; the rounds begin anew."""
    callback = pruner()
    made = trainer(callback)
    made.fit(tiny(), train_loader(), val_loader())
    module = tiny(5)
    made.fit(module, train_loader(), val_loader())
    assert verdicts(callback) == ["baseline", "accepted", "accepted", "accepted"]
    assert [row["sparsity"] for row in callback.ledger] == [0, 48 / 120, 77 / 120, 0.75]
    assert [row["epochs"] for row in callback.ledger] == [2, 2, 2, 2]
    assert made.current_epoch == 16
    assert made.max_epochs == 2
    flat = torch.cat([module.net[0].weight.flatten(), module.net[4].weight.flatten()])
    assert int((flat == 0).sum()) == 90


@pytest.mark.parametrize("same_trainer", [True, False])
def test_a_second_fit_of_the_delivered_module_prunes_on(same_trainer):
    """Its round 0 is the delivered ticket, trained under its masks."""
    callback, module = pruner(max_rounds=1), tiny()
    made = fit(module, callback)
    masks = dict(callback.masks)
    assert callback.sparsity == 48 / 120
    if not same_trainer:
        made = trainer(callback)
    made.fit(module, train_loader(), val_loader())
    assert [row["sparsity"] for row in callback.ledger] == [48 / 120, 77 / 120]
    assert verdicts(callback) == ["baseline", "accepted"]
    assert all(not (callback.masks[name] & ~masks[name]).any() for name in masks)


def test_a_second_fit_of_a_pruned_network_is_judged_against_the_first_dense_one():
    """Else damage would add up unseen; what was spent of the error budget is spent."""
    callback, module = pruner(max_rounds=1, confidence=0.9, protect={1: 0.5}), tiny()
    fit(module, callback)
    first = callback.guard_outcomes["dense"]
    spent = callback.state_dict()["budget"]["tests"]
    fit(module, callback)
    assert callback.guard_outcomes["dense"].same_decisions(first)
    assert callback.ledger[0]["reason"].startswith("the dense network of an earlier fit")
    assert callback.ledger[0]["classes"]["1"]["fn"] == int(
        ((first.target == 1) & (first.predicted == 0)).sum()
    )
    assert callback.state_dict()["budget"]["tests"] == spent + 1 == 2


def test_a_refusal_of_the_first_fit_is_not_won_back_by_a_second():
    callback, module = refusing(2, confidence=0.9), tiny()
    fit(module, callback)
    assert verdicts(callback) == ["baseline", "accepted", "refused"]
    fit(module, callback)
    assert verdicts(callback) == ["baseline"]
    assert "has spent what this guard can prove" in callback.ledger[0]["reason"]


@pytest.mark.filterwarnings("ignore")
def test_a_pruned_network_of_an_unknown_fit_is_called_so():
    module = tiny()
    fit(module, pruner(max_rounds=1))
    other = pruner(baseline="current", rewind="lr", max_rounds=1)
    fit(module, other)
    assert (
        "the network as it came, of which 40.0% of the prunable weights are zero already"
        in other.ledger[0]["reason"]
    )


def test_a_second_fit_at_the_target_keeps_the_ticket_trainable_and_sparse():
    callback, module = pruner(), tiny()
    fit(module, callback)
    masks, before = dict(callback.masks), weights(module)
    fit(module, callback)
    assert verdicts(callback) == ["baseline"]
    assert callback.sparsity == 0.75
    assert_same(callback.masks, masks)
    assert not torch.equal(weights(module)["net.0.weight"], before["net.0.weight"])


def test_a_fit_after_an_exception_works():
    class Fail(pl.Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.current_epoch == 3:
                raise KeyboardInterruptLike

    class KeyboardInterruptLike(Exception):
        pass

    callback = pruner()
    with pytest.raises(KeyboardInterruptLike):
        fit(tiny(), callback, Fail())
    assert_same(run(callback, tiny()), run(pruner(), tiny()))


# -- copies --


def test_a_copy_made_before_a_fit_is_independent():
    callback = refusing(2, on_refusal="retry", retries=1)
    expected = run(refusing(2, on_refusal="retry", retries=1), tiny())
    twin = copy.deepcopy(pruner())
    original = pruner()
    run(original, tiny())
    assert twin.ledger == []
    assert twin.masks == {}
    assert_same(run(twin, tiny()), run(pruner(), tiny()))
    assert_same(run(callback, tiny()), expected)


def test_k_fold_with_a_copied_callback():
    """Deep copies of one configured callback: each fold is the run of a callback of its own."""
    template = pruner(max_rounds=1)
    folds = []
    for fold in range(3):
        module, callback = tiny(fold), copy.deepcopy(template)
        fit(module, callback, train=train_loader(seed=fold))
        own_module, own = tiny(fold), pruner(max_rounds=1)
        fit(own_module, own, train=train_loader(seed=fold))
        assert_same(weights(module), weights(own_module))
        folds.append(callback)
    assert template.ledger == []
    assert len({str(without_seconds(callback.ledger)) for callback in folds}) == 3


@pytest.mark.parametrize("make", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
def test_a_copy_made_after_a_fit_has_the_results_and_can_go_on(make):
    callback, module = pruner(max_rounds=1), tiny()
    fit(module, callback)
    twin = make(callback)
    assert twin.ledger == callback.ledger
    assert_same(twin.masks, callback.masks)
    assert_same(twin.state_dict(), callback.state_dict())
    fit(module, twin)
    assert [row["sparsity"] for row in twin.ledger] == [48 / 120, 77 / 120]
    assert [row["sparsity"] for row in callback.ledger] == [0, 48 / 120]


def test_a_copy_made_during_a_fit_carries_no_model():
    class Copy(pl.Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == 20:
                self.size = len(pickle.dumps(callback))
                self.twin = copy.deepcopy(callback)

    inside, callback = Copy(), pruner()
    fit(tiny(), callback, inside)
    assert inside.twin.ledger == []
    assert inside.size < len(pickle.dumps(pruner())) + 1000


# -- weights that are there --


def pretrained(tmp_path: Any, **options: Any) -> tuple[Tiny, str]:
    """A module of a plain run, and its checkpoint without our state."""
    module = tiny(**options)
    made = fit(module, max_epochs=3)
    path = str(tmp_path / "plain.ckpt")
    made.save_checkpoint(path)
    return module, path


@pytest.mark.parametrize("rewind", ["lr", "none"])
def test_a_pretrained_module_is_judged_as_the_dense_network(rewind):
    module = tiny(scheduler="step")
    fit(module)
    dense = weights(module)
    seen: list[Any] = []

    def predict(pl_module: Any, batch: Any) -> Any:
        if not callback.ledger:
            seen.append(weights(pl_module))
        return pl_module(batch[0]), batch[1]

    watch = Watch()
    callback = pruner(baseline="current", rewind=rewind, predict=predict)
    fit(module, callback, watch)
    assert verdicts(callback) == ["baseline", "accepted", "accepted", "accepted"]
    assert [row["epochs"] for row in callback.ledger] == [0, 2, 2, 2]
    assert seen
    for judged in seen:
        assert_same(judged, dense)
    assert callback.sparsity == 0.75
    assert len(watch.losses) == 3 * 2 * 6
    # the first training starts from the given weights under the first mask
    start = watch.epochs[0]["weights"]
    assert_same(start["net.0.bias"], dense["net.0.bias"])
    kept = start["net.0.weight"] != 0
    assert_same(start["net.0.weight"][kept], dense["net.0.weight"][kept])
    assert int((~kept).sum()) > 0


def test_a_pretrained_module_whose_every_round_is_refused_is_returned_untouched():
    module = tiny()
    fit(module)
    dense = weights(module)
    callback = refusing_all(baseline="current", rewind="lr")
    fit(module, callback)
    assert verdicts(callback) == ["baseline", "refused"]
    assert_same(weights(module), dense)


@pytest.mark.parametrize("rewind", ["lr", "none"])
def test_a_checkpoint_without_our_state_is_judged_as_the_dense_network(rewind, tmp_path):
    dense, path = pretrained(tmp_path)
    module, watch = tiny(99), Watch()
    callback = pruner(baseline="current", rewind=rewind)
    made = fit(module, callback, watch, ckpt_path=path)
    assert verdicts(callback) == ["baseline", "accepted", "accepted", "accepted"]
    assert [row["epochs"] for row in callback.ledger] == [0, 2, 2, 2]
    assert_same(watch.epochs[0]["weights"]["net.0.bias"], weights(dense)["net.0.bias"])
    momentum = watch.epochs[0]["optimizers"][0]["state"]
    assert bool(momentum) == (rewind == "none")
    assert callback.sparsity == 0.75
    # Lightning goes on counting from the checkpoint
    assert made.current_epoch == 3 + 6
    assert made.max_epochs == 2


def test_a_checkpoint_without_our_state_is_where_round_0_goes_on(tmp_path):
    """`baseline="train"`: the user's run, continued as without the callback, then rounds back to where it went on."""

    class Stop(pl.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 1:
                trainer.should_stop = True

    stopped = fit(tiny(scheduler="onecycle"), Stop(), max_epochs=4)
    assert stopped.current_epoch == 2
    path = str(tmp_path / "plain.ckpt")
    stopped.save_checkpoint(path)
    start = torch.load(path, weights_only=True)["state_dict"]

    plain = tiny(99, scheduler="onecycle")
    fit(plain, ckpt_path=path, max_epochs=4)
    judged: list[Any] = []

    def predict(pl_module: Any, batch: Any) -> Any:
        judged.append((len(callback.ledger), weights(pl_module)))
        return pl_module(batch[0]), batch[1]

    module, watch = tiny(98, scheduler="onecycle"), Watch()
    callback = pruner(predict=predict, max_rounds=1)
    made = fit(module, callback, watch, ckpt_path=path, max_epochs=4)
    dense = [w for attempt, w in judged if attempt == 0][-1]
    assert_same(dense, weights(plain))
    # round 0 had two epochs left, and so has round 1, from the checkpoint's weights, optimizer and schedule
    assert [row["epochs"] for row in callback.ledger] == [4, 2]
    assert made.current_epoch == 6
    again = watch.epochs[2]
    assert_same(again["optimizers"], watch.epochs[0]["optimizers"])
    assert_same(again["schedulers"], watch.epochs[0]["schedulers"])
    kept = callback.masks["net.0.weight"]
    assert_same(again["weights"]["net.0.weight"][kept], start["net.0.weight"][kept])


@pytest.mark.parametrize(
    "limits",
    [
        {"max_epochs": 2},
        {"max_epochs": 3},
        {"max_epochs": None, "max_steps": 18},
        {"max_epochs": None, "max_steps": 17},
        {"max_epochs": 5, "max_steps": 18},
    ],
)
def test_a_finished_checkpoint_leaves_nothing_for_round_0(limits, tmp_path):
    _, path = pretrained(tmp_path)
    with pytest.raises(MisconfigurationException, match="baseline='current'"):
        fit(tiny(99), pruner(), ckpt_path=path, **limits)


def test_a_rewind_point_before_the_checkpoint(tmp_path):
    _, path = pretrained(tmp_path)
    with pytest.raises(MisconfigurationException, match="rewind='epoch:1' lies before the checkpoint"):
        fit(tiny(99), pruner(rewind="epoch:1"), ckpt_path=path, max_epochs=5)


# -- where guard data comes from --


class Data(pl.LightningDataModule):
    """A datamodule; `guard` says whether it has guard data."""

    def __init__(self, guard: bool) -> None:
        super().__init__()
        if guard:
            self.guard_dataloader = lambda: guard_loader(n=60)

    def train_dataloader(self) -> Any:
        return train_loader()

    def val_dataloader(self) -> Any:
        return val_loader()


def support(loader: Any) -> int:
    return int((loader.dataset.tensors[1] == 1).sum())


def fit_datamodule(callback: Any, guard: bool, *callbacks: Any, **options: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer(callback, *callbacks, **options).fit(tiny(), datamodule=Data(guard))
    return [str(w.message) for w in caught if "guard" in str(w.message)]


def test_the_argument_comes_first_and_may_be_a_function():
    for argument in (guard_loader(), guard_loader, [guard_loader(n=70), guard_loader(n=50, seed=4)]):
        callback = pruner(guard_dataloader=argument, max_rounds=1)
        assert fit_datamodule(callback, guard=True) == []
        expected = (
            support(guard_loader(n=70)) + support(guard_loader(n=50, seed=4))
            if isinstance(argument, list)
            else support(guard_loader())
        )
        assert callback.ledger[0]["classes"]["1"]["support"] == expected


def test_then_the_datamodule():
    callback = pruner(guard_dataloader=None, max_rounds=1)
    assert fit_datamodule(callback, guard=True) == []
    assert callback.ledger[0]["classes"]["1"]["support"] == support(guard_loader(n=60))


def of_the_guard_data(messages: list[str]) -> list[str]:
    """Those that say where the guard data come from; others are of the dense network."""
    return [message for message in messages if "guard_dataloader" in message]


def test_then_validation_with_a_warning():
    callback = pruner(guard_dataloader=None, max_rounds=1)
    (message,) = of_the_guard_data(fit_datamodule(callback, guard=False))
    assert "guard_dataloader is not given" in message
    assert callback.ledger[0]["classes"]["1"]["support"] == support(val_loader())


def test_the_warning_names_what_the_guard_data_drives(tmp_path):
    callback = pruner(guard_dataloader=None, max_rounds=1)
    messages = fit_datamodule(
        callback,
        False,
        EarlyStopping("val_loss", patience=9),
        ModelCheckpoint(dirpath=tmp_path, monitor="val_loss"),
    )
    (message,) = of_the_guard_data(messages)
    assert "EarlyStopping" in message
    assert "ModelCheckpoint" in message
    assert "error level" in message


def test_the_warning_when_the_guard_argument_is_the_validation_data():
    """The same samples passed as both are the same problem."""
    data = val_loader()
    callback = pruner(guard_dataloader=data, max_rounds=1)
    with pytest.warns(UserWarning, match=r"guard_dataloader is validation data and drives EarlyStopping"):
        fit(tiny(), callback, EarlyStopping("val_loss", patience=9), val=data)


def test_shuffled_guard_data_is_judged_in_a_fixed_order():
    shuffled = guard_loader(shuffle=True, drop_last=True)
    callback, plain = pruner(guard_dataloader=shuffled), pruner()
    fit(tiny(), callback)
    fit(tiny(), plain)
    assert without_seconds(callback.ledger) == without_seconds(plain.ledger)


def test_guard_data_with_random_transforms_is_the_same_each_time():
    class Noisy(torch.utils.data.Dataset):
        data = guard_loader().dataset

        def __len__(self) -> int:
            return len(self.data)

        def __getitem__(self, i: int) -> Any:
            x, y = self.data[i]
            return x + torch.randn_like(x), y

    seen: dict[int, list[torch.Tensor]] = {}

    def predict(module: Any, batch: Any) -> Any:
        if len(batch[1]) == 50:
            seen.setdefault(len(callback.ledger), []).append(batch[0])
        return module(batch[0]), batch[1]

    noisy = torch.utils.data.DataLoader(Noisy(), batch_size=50)
    callback = pruner(guard_dataloader=noisy, predict=predict)
    fit(tiny(), callback)
    first = seen[1]
    for attempt in (2, 3):
        assert_same(seen[attempt], first)
