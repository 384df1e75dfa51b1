"""Rounds of their own length: bit for bit a fresh Trainer of that length, also resumed; and a limit to all rounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EarlyStopping

from tests.integration.test_resume import resume_everywhere
from tests.integration.test_rewind_identity import PER_EPOCH, Rounds, Start
from tests.support.compare import assert_same, weights
from tests.support.kit import SCHEDULERS, fit, pruner, tiny, verdicts
from tests.support.witness import Keep, Watch


@pytest.mark.parametrize("length", [1, 4])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("rewind", ["init", "lr"])
def test_a_round_is_a_fresh_trainer_of_its_length(rewind: str, scheduler: str, length: int) -> None:
    """Weights, losses and learning rates; the dense round has three epochs."""
    options = {"scheduler": scheduler, "dropout": 0.3}
    rounds, watch, module = Rounds(), Watch(), tiny(**options)
    start = weights(module)
    rounds.callback = callback = pruner(rewind=rewind, predict=rounds, max_rounds=2, round_epochs=length)
    made = fit(module, callback, watch, max_epochs=3)
    assert verdicts(callback) == ["baseline", "accepted", "accepted"]
    assert [row["epochs"] for row in callback.ledger] == [3, length, length]
    assert made.max_epochs == 3
    done = 3 * PER_EPOCH
    for number in (1, 2):
        begin = start if rewind == "init" else rounds.judged[number - 1]["weights"]
        fresh, fresh_watch = tiny(seed=99, **options), Watch()
        fresh.load_state_dict(begin)
        masks = rounds.judged[number]["masks"]
        fit(fresh, Start(masks, {}, length, -1), fresh_watch, seed=7, max_epochs=length)
        end = done + length * PER_EPOCH
        assert watch.losses[done:end] == fresh_watch.losses
        assert watch.rates[done:end] == fresh_watch.rates
        assert_same(rounds.judged[number]["weights"], weights(fresh))
        done = end
    assert len(watch.losses) == done


def test_max_steps_stays_the_limit_of_a_shorter_round() -> None:
    watch, callback = Watch(), pruner(max_rounds=1, round_epochs=2)
    fit(tiny(scheduler="onecycle"), callback, watch, max_epochs=None, max_steps=9)
    assert len(watch.losses) == 18
    assert watch.rates[9:] == watch.rates[:9]
    watch, callback = Watch(), pruner(max_rounds=1, round_epochs=1)
    fit(tiny(scheduler="onecycle"), callback, watch, max_epochs=None, max_steps=9)
    assert len(watch.losses) == 9 + PER_EPOCH


@pytest.mark.parametrize(("rewind", "scheduler"), [("init", "onecycle"), ("lr", "plateau")])
def test_resumed_equals_uninterrupted(rewind: str, scheduler: str, tmp_path: Path) -> None:
    scenario = {
        "scheduler": scheduler,
        "pruner": {"rewind": rewind, "round_epochs": 3},
        "limits": {"max_epochs": 2},
    }
    resume_everywhere(scenario, Keep(tmp_path, "epoch end"))


class _Lambda:
    """A schedule that a checkpoint does not hold: it must be made anew, for the round's length, when resumed."""

    @staticmethod
    def install(module: Any) -> Any:
        def configure() -> Any:
            optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
            steps = int(module.trainer.estimated_stepping_batches)
            scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

        module.configure_optimizers = configure
        return module


def test_a_schedule_that_is_not_in_the_checkpoint_is_made_for_the_round(tmp_path: Path) -> None:
    def run(ckpt_path: str | None = None, *more: Any) -> tuple[Watch, dict[str, Any]]:
        watch, module = Watch(), _Lambda.install(tiny())
        fit(module, pruner(round_epochs=3, max_rounds=2), watch, *more, ckpt_path=ckpt_path)
        return watch, weights(module)

    keep = Keep(tmp_path, "epoch end")
    whole, delivered = run(None, keep)
    assert whole.rates[12:30] == pytest.approx([0.1 * (1 - (i + 1) / 18) for i in range(18)])
    for path in keep.files:
        done = torch.load(path, weights_only=True)["global_step"]
        resumed, again = run(path)
        assert resumed.rates == whole.rates[done:]
        assert_same(again, delivered)


def test_early_stopping_still_ends_a_shorter_round() -> None:
    stopping = EarlyStopping("val_loss", patience=1, min_delta=100.0)
    callback = pruner(max_rounds=2, round_epochs=5)
    fit(tiny(), callback, stopping, max_epochs=4)
    assert [row["epochs"] for row in callback.ledger] == [2, 2, 2]


@pytest.mark.parametrize("rewind", ["epoch:1", "step:3", "none"])
def test_other_rewind_points_have_no_length_of_their_own(rewind: str) -> None:
    with pytest.raises(ValueError, match=r"round_epochs=2 does not go with rewind=.*'init' or rewind='lr'"):
        pruner(rewind=rewind, round_epochs=2)


# --- the epochs of all rounds ---


@pytest.mark.parametrize(
    ("budget", "options", "epochs"),
    [
        (2, {}, [2]),
        (3, {}, [2]),
        (4, {}, [2, 2]),
        (7, {}, [2, 2, 2]),
        (8, {}, [2, 2, 2, 2]),
        (4, {"round_epochs": 1}, [2, 1, 1]),
        (6, {"round_epochs": 3}, [2, 3]),
        (4, {"rewind": "epoch:1"}, [2, 1, 1]),
    ],
)
def test_a_round_that_does_not_fit_is_not_started(
    budget: int, options: dict[str, Any], epochs: list[int]
) -> None:
    callback, module = pruner(max_total_epochs=budget, **options), tiny()
    made = fit(module, callback)
    assert [row["epochs"] for row in callback.ledger] == epochs
    assert made.current_epoch == sum(epochs) <= budget
    kept = callback.masks["net.0.weight"]
    assert not module.net[0].weight[~kept].any()
    finished = callback.state_dict()["rounds"]["finished"]
    assert finished.startswith(f"max_total_epochs={budget}: ") == (sum(epochs) < 8)


def test_a_round_in_steps_is_counted_in_epochs() -> None:
    """Nine steps of six an epoch are two epochs."""
    for budget, rounds in ((3, 1), (4, 2), (6, 3)):
        callback = pruner(max_total_epochs=budget)
        fit(tiny(), callback, max_epochs=None, max_steps=9)
        assert len(callback.ledger) == rounds
    assert "needs 2, 0 are left" in callback.state_dict()["rounds"]["finished"]


def test_a_round_without_a_length_is_cut_and_judged() -> None:
    """Only EarlyStopping would end it."""
    callback = pruner(max_total_epochs=3)
    fit(tiny(), callback, EarlyStopping("val_loss", patience=1, min_delta=100.0), max_epochs=-1)
    assert [row["epochs"] for row in callback.ledger] == [2, 1]
    assert callback.state_dict()["rounds"]["finished"] == "the job was stopped"


def test_less_than_the_dense_round_is_refused() -> None:
    with pytest.raises(MisconfigurationException, match=r"max_total_epochs=1 .*max_epochs=2"):
        fit(tiny(), pruner(max_total_epochs=1))


def test_a_resumed_run_does_not_get_its_epochs_back(tmp_path: Path) -> None:
    keep, callback = Keep(tmp_path, "epoch end"), pruner(max_total_epochs=5)
    fit(tiny(), callback, keep)
    assert [row["epochs"] for row in callback.ledger] == [2, 2]
    for path in keep.files:
        again = pruner(max_total_epochs=5)
        assert fit(tiny(99), again, ckpt_path=path).current_epoch == 4
        assert verdicts(again) == ["baseline", "accepted"]


def test_the_trainers_time_limit_judges_what_there_is_and_delivers_the_accepted() -> None:
    """The budget in time is Lightning's own."""

    class Hours(Watch):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            timer = next(c for c in trainer.callbacks if type(c).__name__ == "Timer")
            timer._offset += 3600

    callback = pruner(round_epochs=2)
    made = fit(tiny(), callback, Hours(), max_time="00:02:30:00")
    assert made.current_epoch in (3, 4)
    assert verdicts(callback) == ["baseline", "accepted"]
    assert callback.state_dict()["rounds"]["finished"] == "the job was stopped"
