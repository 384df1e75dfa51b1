"""A round trained inside the fit is, bit for bit, a fresh Trainer started from the rewind point under the mask."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from lightning_classprune.pruning.enforcement import Enforcement
from lightning_classprune.pruning.masks import apply_masks
from lightning_classprune.trainer.snapshots import copy_state
from tests.support.compare import assert_same, optimizer_states, scheduler_states, weights
from tests.support.kit import SCHEDULERS, fit, pruner, tiny, train_loader, verdicts
from tests.support.witness import Watch

EPOCHS, PER_EPOCH = 3, 6


class Rounds:
    """A predict function that keeps, for every attempt, the state in which it was judged and its masks."""

    def __init__(self) -> None:
        self.judged: dict[int, dict[str, Any]] = {}
        self.callback: Any = None

    def __call__(self, module: Any, batch: Any) -> Any:
        self.judged[len(self.callback.ledger)] = {
            "weights": weights(module),
            "masks": {name: mask.clone() for name, mask in self.callback.masks.items()},
            "optimizers": optimizer_states(module.trainer),
            "schedulers": scheduler_states(module.trainer),
        }
        return module(batch[0]), batch[1]


class Point(pl.Callback):
    """Keeps weights and training state of a plain run at an epoch's start or a step."""

    def __init__(self, kind: str, at: int) -> None:
        self.kind, self.at = kind, at
        self.state: dict[str, Any] = {}

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        now = trainer.current_epoch if self.kind == "epoch" else trainer.global_step
        if now == self.at and not self.state:
            self.state = {
                "weights": weights(pl_module),
                "optimizers": optimizer_states(trainer),
                "schedulers": scheduler_states(trainer),
            }


class Start(pl.Callback):
    """Puts a fresh Trainer at a point, for what is left from there, with masks held."""

    def __init__(self, masks: Any, state: dict[str, Any], epochs: int, steps: int) -> None:
        self.masks, self.state, self.epochs, self.steps = masks, state, epochs, steps
        self.enforcement = Enforcement()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        for optimizer, state in zip(trainer.optimizers, self.state.get("optimizers", ()), strict=False):
            optimizer.load_state_dict(copy_state(state))
        for config, state in zip(
            trainer.lr_scheduler_configs, self.state.get("schedulers", ()), strict=False
        ):
            config.scheduler.load_state_dict(copy_state(state))
        named = dict(pl_module.named_parameters())
        apply_masks(self.masks, named)
        self.enforcement.hold(self.masks, named, trainer.optimizers)
        trainer.fit_loop.max_epochs, trainer.fit_loop.epoch_loop.max_steps = self.epochs, self.steps

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.enforcement.release()


def in_one_fit(
    options: dict[str, Any], rewind: str, **trainer: Any
) -> tuple[Any, Rounds, Watch, dict[str, Any]]:
    rounds, watch, module = Rounds(), Watch(), tiny(**options)
    start = weights(module)
    rounds.callback = callback = pruner(rewind=rewind, predict=rounds, max_rounds=2)
    fit(module, callback, watch, max_epochs=EPOCHS, **trainer)
    assert verdicts(callback) == ["baseline", "accepted", "accepted"]
    return callback, rounds, watch, start


def check_rounds(options: dict[str, Any], rewind: str, **trainer: Any) -> None:
    callback, rounds, watch, start = in_one_fit(options, rewind, **trainer)
    kind, _, at = rewind.partition(":")
    epochs, steps = EPOCHS, -1
    if kind in ("epoch", "step"):
        point = Point(kind, int(at))
        fit(tiny(**options), point, max_epochs=EPOCHS, **trainer)
        epochs, steps = (EPOCHS - int(at), -1) if kind == "epoch" else (-1, EPOCHS * PER_EPOCH - int(at))
    done = EPOCHS * PER_EPOCH
    for number in (1, 2):
        state: dict[str, Any]
        if kind == "init":
            state = {"weights": start}
        elif kind in ("epoch", "step"):
            state = point.state
        elif kind == "lr":
            state = {"weights": rounds.judged[number - 1]["weights"]}
        else:
            state = rounds.judged[number - 1] | {"schedulers": ()}
        fresh, fresh_watch = tiny(seed=99, **options), Watch()
        fresh.load_state_dict(state["weights"])
        if kind == "none":
            fresh.scheduler = None
        row = callback.ledger[number]
        masks = rounds.judged[number]["masks"]
        assert not masks["net.0.weight"].all()
        fit(
            fresh,
            Start(masks, state, epochs, steps),
            fresh_watch,
            seed=row["seed"],
            max_epochs=EPOCHS,
            **trainer,
        )
        length = len(fresh_watch.losses)
        assert length == (steps if steps != -1 else epochs * PER_EPOCH)
        assert watch.losses[done : done + length] == fresh_watch.losses
        assert watch.rates[done : done + length] == fresh_watch.rates
        done += length
        assert_same(rounds.judged[number]["weights"], weights(fresh))
    assert len(watch.losses) == done


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("rewind", ["init", "epoch:1", "step:1", "step:9", "lr", "none"])
def test_a_round_is_a_fresh_run(rewind, scheduler):
    check_rounds({"scheduler": scheduler, "dropout": 0.3}, rewind)


@pytest.mark.parametrize("rewind", ["init", "epoch:2", "lr", "none"])
@pytest.mark.parametrize("scheduler", ["onecycle", "plateau"])
def test_a_round_is_a_fresh_run_with_clipping_and_adam(rewind, scheduler):
    check_rounds(
        {"scheduler": scheduler, "dropout": 0.3, "optimizer": "adam"}, rewind, gradient_clip_val=0.05
    )


@pytest.mark.parametrize("rewind", ["init", "epoch:1", "lr"])
def test_a_round_is_a_fresh_run_with_accumulation_and_validation_inside_epochs(rewind):
    options = {"val_check_interval": 2, "num_sanity_val_steps": 1, "accumulate_grad_batches": 4}
    check_rounds({"scheduler": "step", "dropout": 0.3}, rewind, **options)


@pytest.mark.parametrize("rewind", ["init", "lr"])
def test_a_round_is_a_fresh_run_with_a_loader_that_has_its_own_generator(rewind):
    """As a fresh process would make it: seeded as when the user made it."""

    def train() -> Any:
        return train_loader(generator=torch.Generator().manual_seed(5))

    check_rounds({"dropout": 0.3}, rewind, train=train)


def test_clipping_sees_the_sparse_gradient():
    """With a clip norm that always binds, a dense norm in the round would scale every step differently."""
    norms: list[float] = []

    class Norms(pl.Callback):
        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            masks = callback.masks
            for name, parameter in pl_module.named_parameters():
                if name in masks:
                    assert not parameter.grad[~masks[name]].any()
            norms.append(float(torch.cat([p.grad.flatten() for p in pl_module.parameters()]).norm()))

    callback = pruner(max_rounds=1)
    fit(tiny(), callback, Norms(), gradient_clip_val=1e-3)
    assert len(norms) == 24


@pytest.mark.parametrize("steps", [9, 12])
@pytest.mark.parametrize("rewind", ["init", "epoch:1", "step:4", "step:7", "lr"])
def test_rounds_of_max_steps(rewind, steps):
    options = {"scheduler": "onecycle", "dropout": 0.3}
    limits = {"max_epochs": None, "max_steps": steps}
    rounds, watch, module = Rounds(), Watch(), tiny(**options)
    start = {"weights": weights(module)}
    rounds.callback = callback = pruner(rewind=rewind, predict=rounds, max_rounds=2)
    fit(module, callback, watch, **limits)
    assert verdicts(callback) == ["baseline", "accepted", "accepted"]
    left = steps
    if rewind not in ("init", "lr"):
        kind, _, at = rewind.partition(":")
        point = Point(kind, int(at))
        fit(tiny(**options), point, **limits)
        start, left = point.state, steps - (PER_EPOCH if kind == "epoch" else int(at))
    assert len(watch.losses) == steps + 2 * left
    for number in (1, 2):
        state = {"weights": rounds.judged[number - 1]["weights"]} if rewind == "lr" else start
        fresh = tiny(seed=99, **options)
        fresh.load_state_dict(state["weights"])
        masks = rounds.judged[number]["masks"]
        fit(fresh, Start(masks, state, -1, left), seed=callback.ledger[number]["seed"], **limits)
        assert_same(rounds.judged[number]["weights"], weights(fresh))


def test_none_holds_the_learning_rate_and_steps_no_scheduler():
    callback, rounds, watch, _ = in_one_fit({"scheduler": "step"}, "none")
    final = rounds.judged[0]["optimizers"][0]["param_groups"][0]["lr"]
    assert final < watch.rates[0]
    assert watch.rates[EPOCHS * PER_EPOCH :] == [final] * (2 * EPOCHS * PER_EPOCH)
    assert_same(rounds.judged[2]["schedulers"], rounds.judged[0]["schedulers"])
    assert [row["epochs"] for row in callback.ledger] == [EPOCHS] * 3


def test_remaining_length_after_an_epoch():
    callback, *_ = in_one_fit({"scheduler": "onecycle"}, "epoch:2")
    assert [row["epochs"] for row in callback.ledger] == [3, 1, 1]


def test_magnitude_increase_scores_against_the_start_of_round_0():
    module = tiny()
    start = weights(module)
    rounds = Rounds()
    rounds.callback = callback = pruner(criterion="magnitude_increase", predict=rounds, max_rounds=1)
    fit(module, callback)
    dense = rounds.judged[0]["weights"]
    increase = torch.cat([(dense[n].abs() - start[n].abs()).flatten() for n in callback.masks])
    kept = torch.cat([mask.flatten() for mask in callback.masks.values()])
    assert int((~kept).sum()) == 48
    assert increase[~kept].max() <= increase[kept].min()
