"""The start of a round: which moment is kept for it, how long it is then, and what goes back."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lightning_classprune.rounds.clock import RoundClock
from lightning_classprune.rounds.rewind import check_point_file
from lightning_classprune.rounds.start import RoundStart, rebuild_training
from lightning_classprune.trainer.horizon import Limits
from lightning_classprune.trainer.processes import Processes
from lightning_classprune.trainer.sharding import Sharding
from lightning_classprune.trainer.snapshots import capture_training, copy_state
from tests.support.compare import assert_same, optimizer_states, scheduler_states, weights
from tests.support.kit import Tiny, fit, plain_pruner, pruner, tiny


class Round0(pl.Callback):
    """A plain training of three epochs of six steps, at whose end `back` is called; it asks for points on the way."""

    def __init__(self, foreign: int | None = None, **options: Any) -> None:
        self.settings, self.foreign = plain_pruner(**options).settings, foreign
        self.starts: dict[tuple[int, int], Any] = {}

    def now(self, trainer: Any, module: Any) -> dict[str, Any]:
        return {
            "weights": weights(module),
            "optimizers": optimizer_states(trainer),
            "schedulers": scheduler_states(trainer),
        }

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self.clock = RoundClock(trainer)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        sharding = Sharding.of(pl_module, Processes())
        self.start = RoundStart(self.settings, trainer, pl_module, self.clock, sharding)
        self.start.at_start(self.foreign)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.start.at_epoch()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.starts[self.clock.round_epoch, self.clock.round_step] = self.now(trainer, pl_module)
        self.start.at_step()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.trained = self.now(trainer, pl_module)
        self.after(trainer, pl_module)

    def after(self, trainer: Any, pl_module: Any) -> None:
        self.start.go_back(None)  # type: ignore[arg-type]
        self.back = self.now(trainer, pl_module)


def trained(callback: Round0, **limits: Any) -> Round0:
    fit(tiny(scheduler="onecycle"), callback, **({"max_epochs": 3} | limits))
    return callback


@pytest.mark.fit
@pytest.mark.parametrize(
    ("rewind", "at", "length"),
    [
        ("init", (0, 0), (3, -1)),
        ("epoch:0", (0, 0), (3, -1)),
        ("epoch:2", (2, 12), (1, -1)),
        ("step:0", (0, 0), (3, -1)),
        ("step:8", (1, 8), (-1, 10)),
    ],
)
def test_rounds_go_back_to_the_point_and_have_what_is_left_of_round_0(
    rewind: str, at: tuple[int, int], length: tuple[int, int]
) -> None:
    found = trained(Round0(rewind=rewind))
    assert_same(found.back, found.starts[at])
    assert found.start.length == length
    assert not found.start.missed


@pytest.mark.fit
def test_learning_rate_rewinding_keeps_the_weights() -> None:
    found = trained(Round0(rewind="lr"))
    assert_same(found.back, found.starts[0, 0] | {"weights": found.trained["weights"]})
    assert found.start.point is None
    assert not found.start.missed
    assert found.start.length == (3, -1)


@pytest.mark.fit
def test_a_point_that_was_never_passed_is_missed() -> None:
    class Late(Round0):
        def after(self, trainer: Any, pl_module: Any) -> None:
            pass

    found = trained(Late(rewind="epoch:2"), max_epochs=2)
    assert found.start.missed
    assert found.start.state_dict() is None


@pytest.mark.fit
def test_what_a_criterion_compares_with_is_kept_also_where_nothing_goes_back_to_it() -> None:
    found = trained(Round0(rewind="lr", criterion="magnitude_increase"))
    assert found.start.origin is not None
    first = found.starts[0, 0]["weights"]
    assert all(torch.equal(tensor, first[name]) for name, tensor in found.start.origin.items())
    assert trained(Round0(rewind="lr")).start.origin is None


@pytest.mark.fit
def test_epochs_behind_a_foreign_checkpoint_are_not_repeated() -> None:
    assert trained(Round0(foreign=1, rewind="init")).start.length == (2, -1)


@pytest.mark.fit
def test_a_point_in_a_file_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "point.pt"
    found = trained(Round0(rewind="epoch:1", rewind_file=path))
    state = found.start.state_dict()
    assert state is not None
    assert state["file"] == str(path)
    kept = found.start.point
    found.start.load_state_dict(state, found.start.saved_fresh())
    check_point_file(path)  # an earlier run's, which this one takes the place of
    assert found.start.point is not kept
    assert_same(found.start.point.tensors, kept.tensors)  # type: ignore[union-attr]


@pytest.mark.parametrize("there", ["text", "a ticket", "a folder", "below a file", "a lost link"])
def test_a_file_of_somebody_elses_is_not_taken_for_the_rewind_point(there: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    if there == "text":
        path.write_text("mine")
    elif there == "a ticket":
        torch.save({"tensors": {}}, path)
    elif there == "a folder":
        path.mkdir()
    elif there == "a lost link":
        path.symlink_to(tmp_path / "elsewhere.pt")
    else:
        path.write_text("mine")
        path = path / "point.pt"
    before = (tmp_path / "mine.pt").is_file() and (tmp_path / "mine.pt").read_bytes()
    with pytest.raises(ValueError, match=r"Files\.rewind_file=.*mine.* give a file"):
        check_point_file(path)
    assert ((tmp_path / "mine.pt").is_file() and (tmp_path / "mine.pt").read_bytes()) == before


@pytest.mark.fit
def test_another_file_is_left_as_it_is_and_told_of_before_the_first_batch(tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    path.write_text("mine")
    net = tiny()
    net.training_step = lambda *_: pytest.fail("a batch was trained")  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="rewind_file"):
        fit(net, pruner(rewind_file=path))
    assert path.read_text() == "mine"


@pytest.mark.fit
def test_training_that_is_made_anew_is_that_of_a_trainer_of_this_length() -> None:
    class Anew(pl.Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            self.fresh = capture_training(trainer)

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            before = Limits.of(trainer)
            rebuild_training(trainer, self.fresh, Limits.of(trainer), (5, -1))
            self.steps = trainer.lr_scheduler_configs[0].scheduler.total_steps
            self.momentum = trainer.optimizers[0].state_dict()["state"]
            assert Limits.of(trainer) == before

    anew = Anew()
    fit(tiny(scheduler="onecycle"), anew, max_epochs=2)
    assert anew.steps == 5 * 6
    assert anew.momentum == {}


class Rehearsed(pl.Callback):
    """Rehearses the rounds of some options before the first batch."""

    def __init__(self, **options: Any) -> None:
        self.settings = pruner(**options).settings

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        start = RoundStart(
            self.settings, trainer, pl_module, RoundClock(trainer), Sharding.of(pl_module, Processes())
        )
        before = capture_training(trainer), vars(pl_module).copy(), trainer.optimizers
        start.rehearse()
        assert_same(capture_training(trainer), before[0])
        assert vars(pl_module) == before[1]
        assert all(a is b for a, b in zip(trainer.optimizers, before[2], strict=True))


class Warm(Tiny):
    """A schedule that needs more than two epochs."""

    def configure_optimizers(self) -> Any:
        self.mine = torch.optim.SGD(self.parameters(), lr=0.1)
        decay = torch.optim.lr_scheduler.OneCycleLR(
            self.mine, max_lr=0.1, total_steps=self.trainer.max_epochs - 2
        )
        return {"optimizer": self.mine, "lr_scheduler": decay}


@pytest.mark.fit
def test_a_schedule_that_the_rounds_length_breaks_is_found_before_the_first_batch() -> None:
    with pytest.raises(
        MisconfigurationException, match=r"asked anew for its length, 2 epochs.*ValueError.*round_epochs"
    ):
        fit(Warm(), Rehearsed(rewind="lr", round_epochs=2), max_epochs=3, max_steps=1)
    fit(Warm(), Rehearsed(rewind="lr", round_epochs=3), max_epochs=3, max_steps=1)


@pytest.mark.fit
def test_an_optimizer_that_cannot_go_back_is_found_before_the_first_batch() -> None:
    class Forgetful(torch.optim.SGD):
        def load_state_dict(self, state_dict: Any) -> None:
            raise NotImplementedError("no way back")

    module = tiny()
    module.configure_optimizers = lambda: Forgetful(module.parameters(), lr=0.1)  # type: ignore[method-assign]
    with pytest.raises(MisconfigurationException, match=r"NotImplementedError: no way back; give them"):
        fit(module, Rehearsed(rewind="lr"), max_epochs=1)


@pytest.mark.fit
def test_rates_of_another_module_are_said_where_rounds_train_by_them() -> None:
    class Resumed(pl.Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            sharding = Sharding.of(pl_module, Processes())
            for length, said in ((1, 1), (None, 0)):
                settings = pruner(rewind="lr", round_epochs=length).settings
                start = RoundStart(settings, trainer, pl_module, RoundClock(trainer), sharding)
                fresh = copy_state(start.saved_fresh())
                fresh["optimizers"][0]["param_groups"][0]["lr"] = 0.25
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    start.load_state_dict(None, fresh)
                told = [w for w in caught if "began with learning rates [0.25]" in str(w.message)]
                assert len(told) == said
                assert start.fresh["optimizers"][0]["param_groups"][0]["lr"] == 0.25

    fit(tiny(), Resumed(), max_epochs=1, limit_train_batches=1)
