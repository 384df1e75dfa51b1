"""The callbacks that a job already has: each sees rounds as runs of its own, and none un-prunes or lies."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import (
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateMonitor,
    ModelCheckpoint,
    OnExceptionCheckpoint,
    RichProgressBar,
    StochasticWeightAveraging,
    Timer,
    TQDMProgressBar,
)
from lightning.pytorch.loggers import CSVLogger

from lightning_classprune.trainer.other_callbacks import EarlyStoppings, EpochFollowers
from lightning_classprune.trainer.versions import safe_loading
from tests.support.compare import assert_same
from tests.support.older import (
    EMAWeightAveraging,
    WeightAveraging,
    needs_rich_bar,
    needs_saving_on_exceptions,
)
from tests.support.witness import (
    Classifier,
    Job,
    Witness,
    assert_pruned,
    assert_untouched,
    pruning_callback,
    share_of_zeros,
    train_data,
    val_data,
    watched_fit,
)

# -- EarlyStopping --


class Scripted(Classifier):
    """Logs a metric that is the same story in every round: it stops improving after the round's second epoch."""

    def __init__(self, story: list[float]) -> None:
        super().__init__()
        self.story, self.pruning, self.told = story, None, []

    def on_train_epoch_end(self) -> None:
        # The callback's own hook has run by now, so the epoch is counted as done.
        epoch = self.pruning.round_epoch - 1
        self.told.append(epoch)
        self.log("story", self.story[epoch])


class GivePruning(L.Callback):
    """Hands the pruning callback to the module, which asks it for the round's epoch."""

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        pl_module.pruning = next(c for c in trainer.callbacks if hasattr(c, "ledger"))


@pytest.mark.parametrize("max_epochs", [8, -1])
def test_early_stopping_ends_the_round_and_not_the_job(max_epochs: int) -> None:
    stopping = EarlyStopping("story", patience=2)
    job = watched_fit(
        Scripted([3, 2, 2, 2, 2, 2, 2, 2]), callbacks=[GivePruning(), stopping], max_epochs=max_epochs
    )
    assert_pruned(job)
    assert [row["epochs"] for row in job.pruning.ledger] == [4, 4, 4]
    assert job.module.told == [0, 1, 2, 3] * 3
    assert job.trainer.max_epochs == max_epochs


def test_early_stopping_respects_min_epochs_in_every_round() -> None:
    stopping = EarlyStopping("story", patience=1)
    job = watched_fit(Scripted([3.0] * 8), callbacks=[GivePruning(), stopping], max_epochs=8, min_epochs=5)
    assert_pruned(job)
    assert [row["epochs"] for row in job.pruning.ledger] == [5, 5, 5]
    assert job.trainer.min_epochs == 5


def test_early_stopping_forgets_the_best_score_of_the_round_before() -> None:
    """Round 1 may not be measured against the dense network's best."""

    class Worse(Scripted):
        def on_train_epoch_end(self) -> None:
            epoch = self.pruning.round_epoch - 1
            self.log("story", [3.0, 2.0, 1.0, 0.5][epoch] + 10 * len(self.pruning.ledger))

    job = watched_fit(Worse([]), callbacks=[GivePruning(), EarlyStopping("story", patience=1)], max_epochs=4)
    assert [row["epochs"] for row in job.pruning.ledger] == [4, 4, 4]


def test_early_stopping_after_a_validation_inside_the_epoch() -> None:
    class Validated(Scripted):
        def on_validation_epoch_end(self) -> None:
            self.log("story", 1.0)

        def on_train_epoch_end(self) -> None:
            pass

    stopping = EarlyStopping("story", patience=2)  # three validations: in the middle of the second epoch
    job = watched_fit(
        Validated([]), callbacks=[GivePruning(), stopping], max_epochs=8, val_check_interval=0.5
    )
    assert_pruned(job)
    assert [row["epochs"] for row in job.pruning.ledger] == [2, 2, 2]
    assert job.trainer.global_step == 3 * (4 + 2)


# -- ModelCheckpoint --


class Loss(L.Callback):
    """A metric under the checkpoint's eyes that the dense network wins by far."""

    def __init__(self) -> None:
        self.pruning: Any = None

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            pl_module.log("score", float(len(self.pruning.ledger)) + 0.1 * (trainer.current_epoch % 3))

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self.pruning = next(c for c in trainer.callbacks if hasattr(c, "ledger"))


CHECKPOINTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "monitor": {"monitor": "score"},
    "monitor_max": {"monitor": "score", "mode": "max"},
    "top3": {"monitor": "score", "save_top_k": 3},
    "all": {"save_top_k": -1},
    "all_monitored": {"monitor": "score", "save_top_k": -1},
    "last": {"save_last": True},
    "last_link": {"save_last": "link"},
    "monitor_last": {"monitor": "score", "save_last": True},
    "monitor_last_link": {"monitor": "score", "save_last": "link"},
    "steps": {"every_n_train_steps": 3},
    "steps_monitored": {"every_n_train_steps": 3, "monitor": "train_loss", "save_top_k": 2},
    "weights_only": {"save_weights_only": True, "save_last": True},
    "on_validation": {"monitor": "score", "save_on_train_epoch_end": False, "save_last": True},
    "every_2_epochs": {"every_n_epochs": 2, "save_last": True},
}


def checkpointed(folder: Path, arguments: dict[str, Any], refuse: tuple[int, ...] = (), **kwargs: Any) -> Job:
    callback = ModelCheckpoint(dirpath=folder, **arguments)
    job = watched_fit(callbacks=[Loss(), callback], max_epochs=3, refuse=refuse, **kwargs)
    job.checkpoint = callback  # type: ignore[attr-defined]
    return job


def loaded(path: str) -> dict[str, torch.Tensor]:
    """What a plain module of the user gets from a file, without this package's help."""
    assert os.path.exists(path), path
    checkpoint = torch.load(path, weights_only=True)
    plain = Classifier()
    plain.load_state_dict(checkpoint["state_dict"])
    return plain.state_dict()


@pytest.mark.parametrize("refuse", [(), (2,), (1,)], ids=["accepted", "last_refused", "first_refused"])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_the_best_model_is_the_one_delivered(name: str, refuse: tuple[int, ...], tmp_path: Path) -> None:
    job = checkpointed(tmp_path, CHECKPOINTS[name], refuse)
    expected = {(): ["accepted"] * 2, (2,): ["accepted", "refused"], (1,): ["refused"]}[refuse]
    assert_pruned(job, ["baseline", *expected]) if refuse != (1,) else assert_untouched(job)
    assert job.verdicts == ["baseline", *expected]
    callback = job.checkpoint
    best = loaded(callback.best_model_path)
    assert_same(best, dict(job.module.state_dict()))
    assert share_of_zeros(job, best) == pytest.approx(job.pruning.sparsity)
    assert job.pruning.sparsity == {(): 0.75, (2,): 0.5, (1,): 0.0}[refuse]
    assert callback.best_model_path in {str(p) for p in tmp_path.iterdir()}
    if callback.monitor is None:
        assert callback.best_model_score is None
        assert callback.best_k_models == {}
    else:
        assert list(callback.best_k_models) == [callback.best_model_path]
        assert callback.best_model_score is not None
    for path in callback.best_k_models:
        assert os.path.exists(path)
    if callback.save_last:
        # The last training state; after a refusal, what is delivered.
        assert os.path.exists(callback.last_model_path)
        if "refused" in expected or "every" not in name:
            assert_same(loaded(callback.last_model_path), dict(job.module.state_dict()))
        assert os.path.islink(callback.last_model_path) == (callback.save_last == "link")
    assert not [p for p in tmp_path.iterdir() if p.is_symlink() and not p.exists()]
    if callback.save_top_k == 1:
        files = {p.name for p in tmp_path.iterdir()} - {"last.ckpt", "last.ckpt.sha256"}
        best_file = Path(callback.best_model_path).name
        assert files == {best_file, f"{best_file}.sha256"}


def test_the_best_model_of_a_plain_checkpoint_loads_through_lightning(tmp_path: Path) -> None:
    job = checkpointed(tmp_path, {"monitor": "score"})
    again = Classifier.load_from_checkpoint(job.checkpoint.best_model_path)
    assert_same(dict(again.state_dict()), dict(job.module.state_dict()))


def test_save_top_k_0_saves_nothing(tmp_path: Path) -> None:
    job = checkpointed(tmp_path, {"save_top_k": 0})
    assert_pruned(job)
    assert list(tmp_path.iterdir()) == []
    assert job.checkpoint.best_model_path == ""


def test_save_top_k_minus_1_keeps_every_epoch_that_was_not_refused(tmp_path: Path) -> None:
    checkpointed(tmp_path, {"save_top_k": -1})
    names = sorted(p.name for p in tmp_path.glob("*.ckpt"))
    assert [n for n in names if n.startswith("accepted")] == [f"accepted-round=0{i}.ckpt" for i in range(3)]
    assert len([n for n in names if n.startswith("epoch")]) == 9


def test_within_a_round_the_checkpoint_works_as_ever(tmp_path: Path) -> None:
    """The best epoch of each round competes with that round's epochs only."""
    best: list[float] = []

    class Watch(L.Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            score = trainer.checkpoint_callback.best_model_score
            best.append(float(score) if score is not None else float("nan"))

    watched_fit(callbacks=[Loss(), ModelCheckpoint(dirpath=tmp_path, monitor="score"), Watch()], max_epochs=3)
    assert best == pytest.approx([float("nan"), 0, 0, float("nan"), 1, 1, float("nan"), 2, 2], nan_ok=True)


def test_two_checkpoints_in_one_folder(tmp_path: Path) -> None:
    one = ModelCheckpoint(dirpath=tmp_path, monitor="score")
    every = ModelCheckpoint(dirpath=tmp_path, save_top_k=-1, filename="every-{epoch}", save_last="link")
    job = watched_fit(callbacks=[Loss(), one, every], max_epochs=2, refuse=(2,))
    assert_pruned(job, ["baseline", "accepted", "refused"])
    for callback in (one, every):
        assert_same(loaded(callback.best_model_path), dict(job.module.state_dict()))
    assert_same(loaded(every.last_model_path), dict(job.module.state_dict()))


def test_the_link_to_the_last_checkpoint_never_dangles(tmp_path: Path) -> None:
    """Nor while a refused round is tried again, whose files were removed."""
    checkpoint = ModelCheckpoint(dirpath=tmp_path, save_last="link")
    alive: list[bool] = []

    class Look(L.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            alive.append(os.path.exists(tmp_path / "last.ckpt"))

    retry = {"on_refusal": "retry", "retries": 1, "max_rounds": 2}
    job = watched_fit(callbacks=[checkpoint, Look()], refuse=(1,), settings=retry)
    assert job.verdicts == ["baseline", "refused", "accepted"]
    assert alive == [False] * 4 + [True] * 20  # from the end of the first epoch on


def test_a_second_job_in_the_same_folder_overwrites_nothing(tmp_path: Path) -> None:
    first = checkpointed(tmp_path, {"monitor": "score"})
    kept = Path(first.checkpoint.best_model_path)
    before = kept.read_bytes()
    second = checkpointed(tmp_path, {"monitor": "score"}, settings={"criterion": "random"})
    assert kept.read_bytes() == before
    assert second.checkpoint.best_model_path != str(kept)
    assert_same(loaded(second.checkpoint.best_model_path), dict(second.module.state_dict()))


def test_the_trainers_own_checkpoint_callback(tmp_path: Path) -> None:
    job = watched_fit(default_root_dir=tmp_path, enable_checkpointing=True)
    assert_pruned(job)
    best = loaded(job.trainer.checkpoint_callback.best_model_path)
    assert_same(best, dict(job.module.state_dict()))
    job.trainer.save_checkpoint(tmp_path / "after.ckpt")
    assert_same(loaded(str(tmp_path / "after.ckpt")), dict(job.module.state_dict()))


def test_testing_the_best_checkpoint_tests_the_delivered_network(tmp_path: Path) -> None:
    class Tested(Classifier):
        def test_step(self, batch: Any, batch_idx: int) -> None:
            self.log("zeros", sum(float((p == 0).sum()) for n, p in self.named_parameters() if "weight" in n))

    pruning = pruning_callback()
    trainer = L.Trainer(
        callbacks=[pruning], max_epochs=1, accelerator="cpu", logger=False, default_root_dir=tmp_path,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Tested(), train_data(), val_data())
    result = trainer.test(dataloaders=val_data(), ckpt_path="best", verbose=False)[0]
    weights = sum(m.numel() for m in pruning.masks.values())
    assert result["zeros"] == pytest.approx(0.75 * weights)


# -- weight averaging --


class AveragedOnly(WeightAveraging):
    """Averages from the given step of a round on, as user code does with the base class."""

    def __init__(self, start: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.start, self.asked = start, []

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        if step_idx is not None:
            self.asked.append(step_idx)
        return step_idx is not None and step_idx >= self.start


AVERAGING = {
    "mean": AveragedOnly,
    "mean_without_buffers": lambda: AveragedOnly(use_buffers=False),
    "ema": lambda: EMAWeightAveraging(decay=0.8),
    "ema_every_2": lambda: EMAWeightAveraging(decay=0.8, update_every_n_steps=2, update_starting_at_step=3),
    "ema_epochs": lambda: EMAWeightAveraging(decay=0.5, update_every_n_steps=0, update_starting_at_epoch=1),
}


class Averages(L.Callback):
    """The average and the trained weights at the end of each epoch."""

    def __init__(self, averaging: WeightAveraging) -> None:
        self.averaging = averaging
        self.averages: list[torch.Tensor] = []
        self.trained: list[torch.Tensor] = []
        self.counts: list[int] = []

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.averages.append(self.averaging._average_model.module.net[0].weight.detach().clone())
        self.counts.append(int(self.averaging._average_model.n_averaged))
        self.trained.append(pl_module.net[0].weight.detach().clone())


@pytest.mark.parametrize("refuse", [(), (2,)], ids=["accepted", "last_refused"])
@pytest.mark.parametrize("name", AVERAGING)
def test_the_average_is_judged_stored_and_delivered(
    name: str, refuse: tuple[int, ...], tmp_path: Path
) -> None:
    averaging = AVERAGING[name]()
    averages = Averages(averaging)
    checkpoint = ModelCheckpoint(dirpath=tmp_path, save_last=True)
    job = watched_fit(callbacks=[averaging, averages, checkpoint], max_epochs=3, refuse=refuse)
    assert_pruned(job, ["baseline", "accepted", "refused" if refuse else "accepted"])
    judged = job.witness.judged[1:]
    for round_ in range(3):
        assert torch.equal(judged[round_]["net.0.weight"], averages.averages[3 * round_ + 2])
        assert not torch.equal(judged[round_]["net.0.weight"], averages.trained[3 * round_ + 2])
    # Every round averages as the first one did, from its own start.
    assert averages.counts == averages.counts[:3] * 3
    assert averages.counts[2] > 0
    for path in (checkpoint.best_model_path, checkpoint.last_model_path):
        assert_same(loaded(path), dict(job.module.state_dict()))
    job.trainer.save_checkpoint(tmp_path / "after.ckpt")
    assert_same(loaded(str(tmp_path / "after.ckpt")), dict(job.module.state_dict()))


def test_averaging_counts_the_steps_of_its_round() -> None:
    averaging = AveragedOnly(start=2)
    job = watched_fit(callbacks=[averaging], max_epochs=2)
    assert_pruned(job)
    assert averaging.asked == list(range(8)) * 3
    assert "should_update" not in vars(averaging)


def test_validation_sees_the_sparse_average() -> None:
    zeros: list[float] = []

    class Look(L.Callback):
        def on_validation_batch_start(self, trainer: Any, pl_module: Any, *_: Any, **__: Any) -> None:
            weight = pl_module.net[0].weight
            zeros.append(float((weight == 0).float().mean()))

    job = watched_fit(callbacks=[AveragedOnly(), Look()], num_sanity_val_steps=0, settings={"scope": "layer"})
    assert_pruned(job)
    assert zeros == pytest.approx([0.0] * 4 + [0.5] * 4 + [0.75] * 4)


# -- progress, rates, time --


def test_learning_rate_monitor_follows_every_round(tmp_path: Path) -> None:
    def optimizers(module: Any) -> Any:
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        steps = module.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    monitor = LearningRateMonitor("step")
    logger = CSVLogger(tmp_path)
    job = watched_fit(
        Classifier(optimizers=optimizers), callbacks=[monitor], logger=logger, log_every_n_steps=1
    )
    assert_pruned(job)
    logger.save()
    header, *rows = Path(logger.experiment.metrics_file_path).read_text().splitlines()
    column = header.split(",").index("lr-SGD")
    rates = [float(cells[column]) for cells in (row.split(",") for row in rows) if cells[column]]
    assert len(rates) == 3 * 8
    assert rates == rates[:8] * 3


def test_learning_rate_monitor_beside_fine_tuning(tmp_path: Path) -> None:
    """Parameter groups come and go with every round."""

    class Parts(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = self.net[0]

    fine = L.callbacks.BackboneFinetuning(unfreeze_backbone_at_epoch=1, backbone_initial_lr=0.01)
    job = watched_fit(
        Parts(), callbacks=[LearningRateMonitor(), fine], logger=CSVLogger(tmp_path), max_epochs=3
    )
    assert job.verdicts == ["baseline", "accepted", "accepted"]
    assert not job.probe.leaks


@pytest.mark.parametrize("bar", [pytest.param(RichProgressBar, marks=needs_rich_bar), TQDMProgressBar])
def test_progress_bars(bar: Any, capsys: pytest.CaptureFixture[str]) -> None:
    job = watched_fit(callbacks=[bar()], enable_progress_bar=True)
    assert_pruned(job)
    assert "Epoch 5" in "".join(capsys.readouterr())  # counts on over the rounds


def test_model_summary_and_progress_of_a_default_trainer(tmp_path: Path) -> None:
    job = watched_fit(default_root_dir=tmp_path, enable_progress_bar=True, enable_model_summary=True)
    assert_pruned(job)


class Slow(L.Callback):
    """Lets the clock run on at a step, so that time is up exactly there."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            timer = next(c for c in trainer.callbacks if isinstance(c, Timer))
            timer._duration = 1e-9


@pytest.mark.parametrize(("step", "verdicts"), [(12, ["baseline", "accepted"]), (3, ["baseline"])])
@pytest.mark.parametrize("interval", ["step", "epoch"])
def test_a_timer_ends_the_job_with_the_best_that_was_accepted(
    step: int, verdicts: list[str], interval: str
) -> None:
    timer = Timer(duration="00:01:00:00", interval=interval)
    job = watched_fit(callbacks=[timer, Slow(step)], max_epochs=2)
    assert job.verdicts == verdicts
    end = {"step": step + 1, "epoch": step + 4 - step % 4}[interval]
    assert job.trainer.global_step == end
    assert job.pruning.sparsity == (0.5 if len(verdicts) > 1 else 0.0)
    assert_same(dict(job.module.state_dict()), job.witness.state(len(verdicts) - 1))
    assert_untouched(job)
    assert job.trainer.max_epochs == 2


def test_a_timer_during_a_round_that_is_refused_delivers_the_round_before() -> None:
    job = watched_fit(callbacks=[Timer(duration="00:01:00:00"), Slow(18)], max_epochs=2, refuse=(2,))
    assert_pruned(job, ["baseline", "accepted", "refused"])


def test_max_time() -> None:
    job = watched_fit(callbacks=[Slow(12)], max_epochs=2, max_time="00:01:00:00")
    assert job.verdicts == ["baseline", "accepted"]
    assert job.trainer.global_step == 13


class StopAt(L.Callback):
    """The user's own wish to stop."""

    def __init__(self, step: int, hook: str) -> None:
        self.step = step
        setattr(self, hook, self._stop)

    def _stop(self, trainer: Any, *_: Any, **__: Any) -> None:
        if trainer.global_step >= self.step:
            trainer.should_stop = True


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_train_epoch_end", "on_validation_end"])
def test_a_users_should_stop_ends_the_job(hook: str) -> None:
    job = watched_fit(callbacks=[StopAt(10, hook), EarlyStopping("val_loss", patience=100)], max_epochs=2)
    assert job.verdicts == ["baseline", "accepted"]
    assert job.trainer.global_step == (10 if hook == "on_train_batch_end" else 12)
    assert job.pruning.sparsity == 0.5
    assert "pruned further" not in job.pruning.ledger[-1]["reason"]
    assert_same(dict(job.module.state_dict()), job.witness.state(1))


# -- what is refused, and what goes wrong --


def test_swa_is_refused_with_the_reason() -> None:
    module = Classifier()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    job = watched_fit(module, callbacks=[StochasticWeightAveraging(0.01)], expect=MisconfigurationException)
    assert job.pruning.ledger == []
    assert_same(dict(module.state_dict()), before)
    with pytest.raises(MisconfigurationException, match=r"StochasticWeightAveraging .*use WeightAveraging"):
        job.trainer.fit(module, train_data(), val_data())


class Raise(L.Callback):
    """Raises at a step."""

    def __init__(self, step: int, error: BaseException) -> None:
        self.step, self.error = step, error

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            self.last = {k: v.clone() for k, v in pl_module.state_dict().items()}
            self.limits = (trainer.max_epochs, trainer.max_steps)
            raise self.error


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """Lightning ignores further interrupts after the first; later tests must not."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.mark.usefixtures("_interruptible")
@pytest.mark.parametrize(
    ("error", "raised"), [(RuntimeError("disk full"), RuntimeError), (KeyboardInterrupt(), SystemExit)]
)
@pytest.mark.parametrize("averaging", [False, True])
def test_an_exception_leaves_the_trainer_as_it_was_and_the_last_accepted_ticket(
    error: BaseException, raised: Any, averaging: bool, tmp_path: Path
) -> None:
    raising = Raise(18, error)  # in the second epoch of round 2... of two epochs of four steps
    scheduler_epochs = L.callbacks.GradientAccumulationScheduler({0: 1})
    others = [
        raising,
        scheduler_epochs,
        EarlyStopping("val_loss", patience=9),
        *([AveragedOnly()] * averaging),
    ]
    job = watched_fit(callbacks=others, max_epochs=2, max_steps=100, min_epochs=1, expect=raised)
    assert job.verdicts == ["baseline", "accepted"]
    assert raising.limits == (6, 16 + 100)
    trainer = job.trainer
    assert (trainer.max_epochs, trainer.max_steps, trainer.min_epochs) == (2, 100, 1)
    assert [c for c in trainer.callbacks if c in others] == others
    assert len(trainer.callbacks) == len(others) + 2
    assert_untouched(job)
    assert not any("get_accumulate" in name for name in vars(scheduler_epochs))
    assert_same(dict(job.module.state_dict()), job.witness.state(1))
    assert job.pruning.sparsity == 0.5
    trainer.save_checkpoint(tmp_path / "after.ckpt")
    assert_same(loaded(str(tmp_path / "after.ckpt")), job.witness.state(1))


def test_an_exception_in_the_dense_round_leaves_the_weights_as_they_were_trained() -> None:
    raising = Raise(3, RuntimeError("x"))
    job = watched_fit(callbacks=[raising], expect=RuntimeError)
    assert job.pruning.ledger == []
    assert_same(dict(job.module.state_dict()), raising.last)
    assert_untouched(job)


def test_an_exception_before_training_leaves_the_trainer_as_it_was() -> None:
    class Broken(L.Callback):
        def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
            raise RuntimeError("no")

    class BrokenSetup(L.Callback):
        def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
            raise RuntimeError("no")

    for callback in (Broken(), BrokenSetup()):
        job = watched_fit(callbacks=[callback], expect=RuntimeError)
        assert_untouched(job)
        assert job.trainer.max_epochs == 2
        assert job.pruning.ledger == []


@pytest.mark.parametrize(
    "kind", ["on_exception", pytest.param("save_on_exception", marks=needs_saving_on_exceptions)]
)
def test_what_is_saved_on_an_exception_is_the_state_in_the_middle_of_the_round(
    kind: str, tmp_path: Path
) -> None:
    raising = Raise(11, RuntimeError("power"))
    if kind == "on_exception":
        saving: Any = OnExceptionCheckpoint(tmp_path)
    else:
        saving = ModelCheckpoint(
            dirpath=tmp_path, save_on_exception=True, filename="{step}", every_n_epochs=100
        )
    job = watched_fit(callbacks=[raising, saving], expect=RuntimeError)
    path = tmp_path / ("on_exception.ckpt" if kind == "on_exception" else "step=11.ckpt")
    assert_same(loaded(str(path)), raising.last)
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["callbacks"]["ClassAwarePruningCallback"]["rounds"]["round"] == 1
    assert checkpoint["global_step"] == 11
    # The module itself goes back to what was accepted: here the dense network.
    assert_same(dict(job.module.state_dict()), job.witness.state(0))


def test_the_job_goes_on_from_what_was_saved_on_an_exception(tmp_path: Path) -> None:
    watched_fit(
        callbacks=[Raise(11, RuntimeError("power")), OnExceptionCheckpoint(tmp_path)], expect=RuntimeError
    )
    pruning = pruning_callback(Witness())
    trainer = L.Trainer(
        callbacks=[pruning], max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    path = str(tmp_path / "on_exception.ckpt")
    trainer.fit(Classifier(), train_data(), val_data(), ckpt_path=path, **safe_loading(trainer))
    assert [row["verdict"] for row in pruning.ledger] == ["baseline", "accepted", "accepted"]
    assert pruning.sparsity == 0.75


# -- each kind by itself --


@pytest.mark.unit
def test_early_stopping_goes_back_to_what_it_was_before_the_first_round() -> None:
    stopping = EarlyStopping("loss", patience=3)
    rounds = EarlyStoppings([stopping])
    assert rounds
    assert not EarlyStoppings([])
    stopping.wait_count, stopping.best_score = 2, torch.tensor(0.5)
    middle = rounds.capture()
    rounds.mark_stopped()
    assert rounds.stopped()
    rounds.reset()
    assert not rounds.stopped()
    assert stopping.wait_count == 0
    rounds.restore(middle)
    assert (stopping.wait_count, float(stopping.best_score)) == (2, 0.5)
    rounds.restore([*middle, *middle])  # of a job with two of them
    assert stopping.wait_count == 2


@pytest.mark.unit
def test_what_acts_at_an_epoch_is_told_the_rounds_own_and_given_back() -> None:
    accumulation = GradientAccumulationScheduler({0: 1, 2: 4})
    start = [0]
    followers = EpochFollowers([accumulation], [], [], lambda: (start[0], 0))
    assert [accumulation.get_accumulate_grad_batches(epoch) for epoch in (1, 2, 5)] == [1, 4, 4]
    start[0] = 4
    assert [accumulation.get_accumulate_grad_batches(epoch) for epoch in (4, 5, 6)] == [1, 1, 4]
    assert not followers.unfreezes
    followers.release()
    assert "get_accumulate_grad_batches" not in vars(accumulation)
