"""One fit: rounds, verdicts, what is delivered, and what a refused round leaves behind (nothing)."""

from __future__ import annotations

import os
import re
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from lightning_classprune import ClassAwarePruningCallback, FNTolerance
from tests.support.compare import assert_same, checkpoints, optimizer_states, scheduler_states, weights
from tests.support.kit import (
    fit,
    guard_loader,
    loader,
    pruner,
    refusing,
    refusing_all,
    tiny,
    train_loader,
    trainer,
    val_loader,
    verdicts,
)
from tests.support.witness import Watch, log_messages


class Judged:
    """A predict function that keeps the weights with which each attempt was judged."""

    def __init__(self) -> None:
        self.weights: dict[int, Any] = {}
        self.callback: ClassAwarePruningCallback | None = None

    def __call__(self, module: Any, batch: Any) -> Any:
        assert not module.training
        assert self.callback is not None
        self.weights[len(self.callback.ledger)] = weights(module)
        return module(batch[0]), batch[1]


def prunable_weights(module: Any) -> torch.Tensor:
    return torch.cat([module.net[0].weight.detach().flatten(), module.net[4].weight.detach().flatten()])


# -- rounds and what they deliver --


def test_rounds_in_one_fit_to_the_smallest_sparsity_at_or_above_the_target():
    module, callback = tiny(), pruner()
    made = fit(module, callback)
    total = 8 * 12 + 12 * 2
    pruned = [round(row["sparsity"] * total) for row in callback.ledger]
    # ceil(.4 * 120) = 48, then ceil(.4 * 72) = 29, then the last step is shortened to .75 * 120 = 90.
    assert pruned == [0, 48, 77, 90]
    assert [row["sparsity"] for row in callback.ledger] == [p / total for p in pruned]
    assert verdicts(callback) == ["baseline", "accepted", "accepted", "accepted"]
    assert [row["round"] for row in callback.ledger] == [0, 1, 2, 3]
    assert [row["epochs"] for row in callback.ledger] == [2, 2, 2, 2]
    assert callback.sparsity == 0.75
    assert int((prunable_weights(module) == 0).sum()) == 90
    assert set(callback.masks) == {"net.0.weight", "net.4.weight"}
    assert sum(int((~mask).sum()) for mask in callback.masks.values()) == 90
    assert made.global_step == 4 * 2 * 6


@pytest.mark.parametrize("target", [0.5, 0.501, 0.97])
def test_delivered_sparsity_is_the_smallest_at_or_above_the_target(target):
    module, callback = tiny(width=10), pruner(target_sparsity=target, fraction=0.7)
    fit(module, callback, max_epochs=1, limit_train_batches=2)
    pruned = round(callback.sparsity * 100)
    assert pruned / 100 >= target
    assert (pruned - 1) / 100 < target


def test_delivered_is_bit_for_bit_what_was_judged():
    predict = Judged()
    module = tiny()
    predict.callback = callback = pruner(predict=predict)
    fit(module, callback)
    assert_same(weights(module), predict.weights[3])
    # and pruned weights were at zero when they were judged
    for attempt, row in enumerate(callback.ledger):
        flat = torch.cat([predict.weights[attempt][n].flatten() for n in callback.masks])
        zeros = int((flat == 0).sum())
        assert zeros == round(row["sparsity"] * flat.numel())


def test_masks_only_shrink_and_hold_in_every_step():
    class Leaks(pl.Callback):
        seen: list[Any]

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            self.seen = []

        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            masks = callback.masks
            named = dict(pl_module.named_parameters())
            assert all(not named[n].detach()[~m].any() for n, m in masks.items())
            self.seen.append({n: m.clone() for n, m in masks.items()})

    leaks, callback = Leaks(), pruner()
    fit(tiny(optimizer="adam"), callback, leaks)
    assert len(leaks.seen) == 48
    for before, after in zip(leaks.seen, leaks.seen[1:], strict=False):
        assert all(not (after[n] & ~before[n]).any() for n in before)


def test_max_rounds():
    callback = pruner(max_rounds=2)
    fit(tiny(), callback)
    assert verdicts(callback) == ["baseline", "accepted", "accepted"]
    assert callback.sparsity == pytest.approx(77 / 120)


def test_parameters_shared_by_two_modules_are_counted_once():
    module = tiny()
    module.twin = torch.nn.Linear(12, 2, bias=False)
    module.twin.weight = module.net[4].weight
    callback = pruner(max_rounds=1)
    fit(module, callback)
    assert callback.sparsity == 48 / 120


def test_layer_scope_prunes_every_layer_alike():
    callback = pruner(scope="layer", max_rounds=1)
    fit(tiny(), callback)
    kept = {name: int(mask.sum()) for name, mask in callback.masks.items()}
    assert sum(kept.values()) == 72
    assert kept["net.0.weight"] in (57, 58)


# -- round 0 is the user's own run --


@pytest.mark.parametrize(
    ("scheduler", "options"),
    [
        (None, {}),
        ("onecycle", {"rewind": "epoch:1"}),
        ("plateau", {"rewind": "step:3"}),
        ("step", {"rewind": "lr", "criterion": "random"}),
        ("cosine", {"guard_dataloader": guard_loader(shuffle=True, num_workers=0)}),
        (None, {"guard_dataloader": None}),
    ],
)
@pytest.mark.filterwarnings("ignore:guard_dataloader is not given")
def test_round_0_is_the_run_without_the_callback(scheduler, options):
    plain, watch = tiny(scheduler=scheduler, dropout=0.3), Watch()
    fit(plain, watch, num_sanity_val_steps=2)
    dense = weights(plain)

    predict = Judged()
    module, watch_pruned = tiny(scheduler=scheduler, dropout=0.3), Watch()
    predict.callback = callback = pruner(predict=predict, max_rounds=1, **options)
    fit(module, callback, watch_pruned, num_sanity_val_steps=2)
    assert_same(predict.weights[0], dense)
    assert watch_pruned.losses[:12] == watch.losses
    assert len(watch_pruned.losses) > 12


def test_refuse_everything_delivers_the_dense_network_of_the_plain_run():
    plain = tiny(scheduler="onecycle", dropout=0.3)
    fit(plain)
    module = tiny(scheduler="onecycle", dropout=0.3)
    callback = refusing_all(on_refusal="retry", retries=2)
    fit(module, callback)
    assert verdicts(callback) == ["baseline", "refused", "refused", "refused"]
    assert_same(weights(module), weights(plain))
    assert callback.sparsity == 0
    assert all(mask.all() for mask in callback.masks.values())


# -- refusals leave no trace --


def test_retries_take_half_the_step_from_the_last_accepted_ticket():
    callback = refusing(2, 3, on_refusal="retry", retries=2)
    fit(tiny(), callback)
    total = 120
    assert verdicts(callback)[:5] == ["baseline", "accepted", "refused", "refused", "accepted"]
    pruned = [round(row["sparsity"] * total) for row in callback.ledger]
    # 48 accepted; 29 more refused; ceil(29 / 2) = 15 more refused; 8 more accepted; then a quarter of 40% of 64 = 7.
    assert pruned[:6] == [0, 48, 77, 63, 56, 63]
    assert [(row["round"], row["attempt"]) for row in callback.ledger[:6]] == [
        (0, 1),
        (1, 1),
        (2, 1),
        (2, 2),
        (2, 3),
        (3, 1),
    ]


def test_a_refusal_stops_the_run_and_delivers_what_was_accepted_before():
    module = tiny()

    class RefuseSecond(Judged):
        def __call__(self, module: Any, batch: Any) -> Any:
            scores, target = super().__call__(module, batch)
            assert self.callback is not None
            return (scores - torch.tensor([0.0, 1e6]) * (len(self.callback.ledger) == 2)), target

    predict = RefuseSecond()
    predict.callback = callback = pruner(
        predict=predict, protect={1: FNTolerance(rate=0.5, recall_floor=0.1)}
    )
    fit(module, callback)
    assert verdicts(callback) == ["baseline", "accepted", "refused"]
    assert callback.ledger[-1]["reason"]
    assert_same(weights(module), predict.weights[1])
    assert callback.sparsity == 48 / 120


@pytest.mark.parametrize("rewind", ["init", "lr", "none"])
def test_a_round_after_a_refusal_starts_as_if_the_refused_one_had_not_been(rewind):
    """The second attempt at a round differs from the first only in its mask: weights, buffers and all state."""
    stop = {"monitor": "val_loss", "patience": 50}
    watch = Watch()
    module = tiny(scheduler="step", optimizer="adam", dropout=0.3)
    callback = refusing(2, on_refusal="retry", retries=1, rewind=rewind)
    fit(module, callback, EarlyStopping(**stop), watch)
    # epochs 0-1 round 0, 2-3 round 1, 4-5 the refused attempt, 6-7 the second attempt
    refused, again = watch.epochs[4], watch.epochs[6]
    for key in ("optimizers", "schedulers", "others"):
        assert_same(again[key], refused[key])
    for name, tensor in again["weights"].items():
        if name not in callback.masks:
            assert_same(tensor, refused["weights"][name])
        else:
            kept = refused["weights"][name] != 0
            assert_same(tensor[kept], refused["weights"][name][kept])


@pytest.mark.parametrize("rewind", ["init", "lr", "none"])
def test_a_final_refusal_is_undone_in_training_state_too(rewind):
    """Optimizers, schedulers and EarlyStopping end as they were when the last ticket was accepted."""

    def state(made: Any) -> dict[str, Any]:
        return {
            "weights": weights(made.lightning_module),
            "optimizers": optimizer_states(made),
            "schedulers": scheduler_states(made),
            "stopping": made.early_stopping_callback.state_dict(),
        }

    class AtEnd(pl.Callback):
        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            self.weights = weights(pl_module)

    options = {"scheduler": "step", "optimizer": "adam"}
    end = AtEnd()
    refused = refusing(2, rewind=rewind)
    made = fit(tiny(**options), end, refused, EarlyStopping("val_loss", patience=50))
    assert verdicts(refused) == ["baseline", "accepted", "refused"]
    accepted = fit(
        tiny(**options),
        refusing(max_rounds=1, rewind=rewind),
        EarlyStopping("val_loss", patience=50),
    )
    assert_same(state(made), state(accepted))
    assert_same(end.weights, weights(made.lightning_module))


def test_model_checkpoint_knows_only_accepted_rounds(tmp_path):
    module = tiny(scheduler="step")
    best = ModelCheckpoint(dirpath=tmp_path, monitor="val_loss", save_last=True)
    callback = refusing(2)
    made = fit(module, callback, best)
    assert verdicts(callback) == ["baseline", "accepted", "refused"]
    assert os.path.basename(best.best_model_path) == "accepted-round=01.ckpt"
    assert checkpoints(tmp_path) == ["accepted-round=01.ckpt", "last.ckpt"]
    for path in (best.best_model_path, best.last_model_path):
        saved = torch.load(path, weights_only=True)["state_dict"]
        assert_same(dict(saved), weights(module))
    # what Lightning offers as the best model is the delivered network
    made.validate(module, val_loader(), ckpt_path="best", verbose=False)
    assert callback.sparsity == 48 / 120


def test_model_checkpoint_of_a_refuse_everything_run_holds_the_dense_network(tmp_path):
    best = ModelCheckpoint(dirpath=tmp_path, monitor="val_loss")
    module = tiny()
    callback = refusing_all()
    fit(module, callback, best)
    assert checkpoints(tmp_path) == ["accepted-round=00.ckpt"]
    assert_same(dict(torch.load(best.best_model_path, weights_only=True)["state_dict"]), weights(module))


def test_model_checkpoint_at_validation_end_and_all_kept(tmp_path):
    every = ModelCheckpoint(
        dirpath=tmp_path, monitor="val_loss", save_top_k=-1, save_on_train_epoch_end=False, filename="{epoch}"
    )
    callback = refusing(2)
    fit(tiny(), callback, every)
    names = checkpoints(tmp_path)
    # round 2 (epochs 4 and 5) was refused: its files are gone
    assert names == [
        "accepted-round=00.ckpt",
        "accepted-round=01.ckpt",
        "epoch=0.ckpt",
        "epoch=1.ckpt",
        "epoch=2.ckpt",
        "epoch=3.ckpt",
    ]


def test_early_stopping_ends_the_round_not_the_job():
    class Worse(pl.Callback):
        """A metric that is best in the first epoch of every round, so that patience 1 ends it after the second."""

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            pl_module.log("worse", float(trainer.current_epoch))

    stopping = EarlyStopping(monitor="worse", patience=1)
    callback = pruner()
    fit(tiny(), Worse(), callback, stopping, max_epochs=5)
    assert verdicts(callback) == ["baseline", "accepted", "accepted", "accepted"]
    assert [row["epochs"] for row in callback.ledger] == [2, 2, 2, 2]


def test_a_stop_asked_for_by_the_user_ends_the_job_with_the_last_accepted_ticket():
    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.current_epoch == 5:
                trainer.should_stop = True

    predict = Judged()
    module = tiny()
    predict.callback = callback = pruner(predict=predict)
    made = fit(module, callback, Stop())
    assert made.current_epoch == 6
    # the attempt that was cut short is judged as it stands
    assert verdicts(callback) == ["baseline", "accepted", "accepted"]
    assert_same(weights(module), predict.weights[2])


def test_an_epoch_without_validation_at_its_end_is_judged_all_the_same():
    callback = pruner(guard_dataloader=None)
    with pytest.warns(UserWarning, match="guard_dataloader"):
        fit(tiny(), callback, max_epochs=1, check_val_every_n_epoch=3)
    assert verdicts(callback) == ["baseline", "accepted", "accepted", "accepted"]


# -- verdicts --


def test_no_positives_in_the_guard_data_changes_nothing_and_says_so():
    negatives = [sample for sample in guard_loader().dataset if sample[1] == 0]
    plain, module = tiny(), tiny()
    fit(plain)
    callback = pruner(guard_dataloader=torch.utils.data.DataLoader(negatives, batch_size=16))
    with log_messages() as said:
        fit(module, callback)
    assert verdicts(callback) == ["baseline"]
    assert "no positives" in callback.ledger[0]["reason"]
    assert "'1'" in callback.ledger[0]["reason"]
    assert "no positives" in " ".join(said)
    assert_same(weights(module), weights(plain))
    assert callback.sparsity == 0


def test_every_protected_class_must_pass():
    def blind_to_two(module: Any, batch: Any) -> Any:
        scores = module(batch[0])
        if callback.ledger:
            scores = scores - torch.tensor([0.0, 0.0, 1e6])
        return scores, batch[1]

    guard = guard_loader(classes=3)
    callback = pruner(num_classes=3, protect={1: 1.0, 2: 0.1}, guard_dataloader=guard, predict=blind_to_two)
    module = tiny(outputs=3)
    fit(module, callback, train=train_loader(classes=3), val=val_loader(classes=3))
    assert verdicts(callback) == ["baseline", "refused"]
    row = callback.ledger[1]["classes"]
    assert row["2"]["fn"] == row["2"]["support"] > 0
    assert callback.ledger[1]["reason"].startswith("2:")


def tolerance_case(tolerance: FNTolerance, extra: int) -> str:
    """Verdict on a candidate that misses `extra` more of the 20 positives, of which the dense network misses 4."""
    targets = torch.arange(100) < 20
    data = torch.utils.data.TensorDataset(torch.randn(100, 8), targets.long())

    def predict(module: Any, batch: Any) -> Any:
        # whatever the network says, the first samples are missed: 4 by the dense one, `extra` more later
        missed = 4 + (extra if callback.ledger else 0)
        positive = batch[1].bool() & (torch.arange(100) >= missed)
        return torch.nn.functional.one_hot(positive.long(), 2).float(), batch[1]

    callback = pruner(
        protect={1: tolerance},
        predict=predict,
        guard_dataloader=torch.utils.data.DataLoader(data, batch_size=100),
        max_rounds=1,
    )
    fit(tiny(), callback, max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    assert callback.ledger[0]["classes"]["1"]["fn"] == 4
    assert callback.ledger[1]["classes"]["1"]["newly_missed"] == extra
    return callback.ledger[1]["verdict"]


@pytest.mark.parametrize(
    ("tolerance", "allowed"),
    [
        (FNTolerance(count=3), 3),
        (FNTolerance(count=0), 0),
        (FNTolerance(rate=0.1), 2),
        (FNTolerance(factor=1.5), 2),
        (FNTolerance(rate=1.0, recall_floor=0.6), 4),
    ],
)
def test_point_rules(tolerance, allowed):
    assert tolerance_case(tolerance, allowed) == "accepted"
    assert tolerance_case(tolerance, allowed + 1) == "refused"


def test_the_exact_test_spends_its_budget():
    callback = refusing(1, confidence=0.9, on_refusal="retry", retries=1, protect={1: 0.5})
    fit(tiny(), callback)
    assert verdicts(callback)[:3] == ["baseline", "refused", "accepted"]
    first, second = callback.ledger[1], callback.ledger[2]
    # Three quarters of .1 before the first refusal; after it a quarter, shared by all places where it could have been.
    assert callback.ledger[0]["level"] is None
    assert first["level"] == pytest.approx(0.075)
    assert 0 < second["level"] < 0.025 / 2
    assert first["classes"]["1"]["p_value"] > 0.075
    assert second["classes"]["1"]["p_value"] <= second["level"]
    assert first["classes"]["1"]["upper_bound"] > 0.5 > second["classes"]["1"]["upper_bound"]


def test_unproven_acts_as_refused_and_says_what_would_help():
    few = loader(n=150, seed=3)
    callback = pruner(confidence=0.95, protect={1: 0.05}, guard_dataloader=few)
    with pytest.warns(UserWarning, match=r"protect\['1'\].*positives"):
        fit(tiny(), callback)
    assert verdicts(callback) == ["baseline", "unproven"]
    # Whether the rise in the sample is beyond the tolerance hangs on torch's version.
    assert re.search("positives (are no remedy|would be needed)", callback.ledger[1]["reason"])
    assert callback.sparsity == 0


def test_nan_weights_of_a_diverged_candidate_are_refused(tmp_path):
    class Diverge(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            if trainer.current_epoch == 3:
                with torch.no_grad():
                    pl_module.net[0].weight.mul_(float("nan"))

    predict = Judged()
    module = tiny()
    predict.callback = callback = pruner(predict=predict, on_refusal="retry", retries=1)
    best = ModelCheckpoint(dirpath=tmp_path, monitor="classprune/recall/1", mode="max")
    fit(module, callback, Diverge(), best)
    assert verdicts(callback)[:3] == ["baseline", "refused", "accepted"]
    assert "NaN" in callback.ledger[1]["reason"]
    assert all(torch.isfinite(tensor.float()).all() for tensor in weights(module).values())


def test_a_dense_network_that_diverges_ends_the_run():
    class Diverge(pl.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            with torch.no_grad():
                pl_module.net[0].weight.mul_(float("nan"))

    callback = pruner()
    fit(tiny(), Diverge(), callback)
    assert verdicts(callback) == ["baseline"]
    assert "NaN" in callback.ledger[0]["reason"]


# -- tasks --


def test_class_names_are_used_throughout(tmp_path):
    callback = pruner(class_names=["benign", "malignant"], protect={"malignant": 1.0}, max_rounds=1)
    made = fit(tiny(), callback)
    assert set(callback.ledger[0]["classes"]) == {"malignant"}
    assert "classprune/recall/malignant" in made.callback_metrics


def test_several_classes():
    callback = pruner(num_classes=4, protect={0: 1.0, 3: 1.0}, guard_dataloader=guard_loader(classes=4))
    module = tiny(outputs=4)
    fit(module, callback, train=train_loader(classes=4), val=val_loader(classes=4))
    assert callback.sparsity == pytest.approx(0.75)
    targets = guard_loader(classes=4).dataset.tensors[1]
    for name in ("0", "3"):
        assert callback.ledger[-1]["classes"][name]["support"] == int((targets == int(name)).sum())


@pytest.mark.parametrize("column", [False, True])
def test_one_logit_with_a_threshold(column):
    def predict(module: Any, batch: Any) -> Any:
        scores = module(batch[0])
        return (scores.unsqueeze(1) if column else scores), batch[1]

    module = tiny(outputs=1, task="binary")
    callback = pruner(predict=predict, threshold=-0.5)
    fit(module, callback)
    assert verdicts(callback)[-1] == "accepted"
    x, y = guard_loader().dataset.tensors
    with torch.no_grad():
        missed = int(((module.eval()(x) < -0.5) & (y == 1)).sum())
    assert callback.ledger[-1]["classes"]["1"]["fn"] == missed


def test_two_logits_count_what_argmax_misses():
    module, callback = tiny(), pruner()
    fit(module, callback)
    x, y = guard_loader().dataset.tensors
    with torch.no_grad():
        missed = int(((module.eval()(x).argmax(1) == 0) & (y == 1)).sum())
    assert callback.ledger[-1]["classes"]["1"]["fn"] == missed


def test_multi_label_each_label_is_its_own_question():
    module = tiny(outputs=3, task="labels")
    data = {"task": "labels", "classes": 3}
    callback = pruner(
        num_classes=3, protect={0: 1.0, 2: 1.0}, guard_dataloader=guard_loader(**data), threshold=0.1
    )
    fit(module, callback, train=train_loader(**data), val=val_loader(**data))
    assert callback.sparsity >= 0.75
    x, y = guard_loader(**data).dataset.tensors
    with torch.no_grad():
        scores = module.eval()(x)
    for label in (0, 2):
        row = callback.ledger[-1]["classes"][str(label)]
        assert row["support"] == int(y[:, label].sum())
        assert row["fn"] == int(((scores[:, label] < 0.1) & (y[:, label] == 1)).sum())


def test_recall_with_support_is_logged_at_every_validation():
    class Logged(pl.Callback):
        def __init__(self) -> None:
            self.values: list[dict[str, float]] = []

        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            self.values.append({k: float(v) for k, v in trainer.callback_metrics.items()})

    logged, callback = Logged(), pruner(max_rounds=1)
    fit(tiny(), callback, logged)
    assert len(logged.values) == 4
    support = int((val_loader().dataset.tensors[1] == 1).sum())
    for values in logged.values:
        assert values["classprune/support/1"] == support
        missed = values["classprune/fn/1"]
        assert values["classprune/recall/1"] == pytest.approx(1 - missed / support)


# -- fast_dev_run --


def test_fast_dev_run_judges_one_batch_prunes_nothing_and_says_so():
    calls = []

    def predict(module: Any, batch: Any) -> Any:
        calls.append(len(batch[1]))
        return module(batch[0]), batch[1]

    callback = pruner(predict=predict)
    with log_messages() as said:
        fit(tiny(), callback, fast_dev_run=True)
    assert calls.count(50) == 1  # batches of 50 are guard data
    assert verdicts(callback) == ["baseline"]
    assert "fast_dev_run" in callback.ledger[0]["reason"]
    assert "fast_dev_run" in " ".join(said)
    assert callback.sparsity == 0


# -- the trainer afterwards --


@pytest.mark.parametrize(
    "options", [{"max_epochs": 2, "min_epochs": 1}, {"max_epochs": None, "max_steps": 9}]
)
def test_limits_and_callbacks_of_the_trainer_are_restored(options):
    callback, checkpoint = pruner(), ModelCheckpoint()
    made = trainer(checkpoint, callback, **options)
    before = list(made.callbacks)
    # Lightning itself settles limits of None when it starts
    plain = fit(tiny(), **options)
    expected = (plain.max_epochs, plain.max_steps, plain.min_epochs, plain.min_steps)
    made.fit(tiny(), train_loader(), val_loader())
    assert made.callbacks == before
    assert (made.max_epochs, made.max_steps, made.min_epochs, made.min_steps) == expected
    assert len(callback.ledger) == 4


def test_max_steps_is_the_length_of_a_round():
    callback = pruner()
    made = fit(tiny(), callback, max_epochs=None, max_steps=9)
    assert made.global_step == 4 * 9
    assert verdicts(callback) == ["baseline", "accepted", "accepted", "accepted"]


class Failure(Exception):
    pass


@pytest.mark.parametrize("when", ["batch", "validation"])
def test_an_exception_in_a_round_leaves_the_last_accepted_ticket_and_the_trainer_as_it_was(when):
    class Fail(pl.Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if when == "batch" and trainer.current_epoch == 5:
                raise Failure

        def on_validation_start(self, trainer: Any, *_: Any) -> None:
            if when == "validation" and trainer.current_epoch == 5:
                raise Failure

    predict = Judged()
    module = tiny()
    predict.callback = callback = pruner(predict=predict)
    made = trainer(callback, Fail())
    before = list(made.callbacks)
    with pytest.raises(Failure):
        made.fit(module, train_loader(), val_loader())
    assert verdicts(callback) == ["baseline", "accepted"]
    assert_same(weights(module), predict.weights[1])
    assert callback.sparsity == 48 / 120
    assert made.callbacks == before
    assert made.max_epochs == 2
    assert not any(p._backward_hooks or p._post_accumulate_grad_hooks for p in module.parameters())


def test_an_exception_in_round_0_leaves_the_weights_of_that_moment():
    class Fail(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            if trainer.global_step == 5:
                self.weights = weights(pl_module)
                raise Failure

    fail, module, callback = Fail(), tiny(), pruner()
    with pytest.raises(Failure):
        fit(module, callback, fail)
    assert_same(weights(module), fail.weights)
    assert callback.ledger == []


def test_no_trace_on_the_module_or_its_optimizers_after_a_fit():
    module, callback = tiny(), pruner()
    names = list(module.state_dict())
    made = fit(module, callback)
    assert list(module.state_dict()) == names
    assert not any(p._post_accumulate_grad_hooks for p in module.parameters())
    assert not any(o._optimizer_step_post_hooks for o in made.optimizers)
    assert optimizer_states(made)


def test_masks_hold_under_gradient_accumulation():
    callback = pruner(max_rounds=2)
    module = tiny()
    fit(module, callback, accumulate_grad_batches=4, train=loader(n=100, seed=1, shuffle=True))
    assert int((prunable_weights(module) == 0).sum()) == 77
