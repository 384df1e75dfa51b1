"""Every shape of loop: how rounds end, when validation runs, and what counts epochs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import GradientAccumulationScheduler, ModelCheckpoint
from torch.utils.data import DataLoader

from tests.support.kit import QUIET
from tests.support.witness import (
    Classifier,
    Job,
    Stream,
    assert_pruned,
    guard_data,
    samples,
    train_data,
    val_data,
    watched_fit,
)


class Diary(L.Callback):
    """When validation ran (by training step), and how many batches each epoch trained and validated on."""

    def __init__(self) -> None:
        self.validated: list[int] = []
        self.val_batches: list[tuple[int, int]] = []
        self.train_batches: list[int] = []

    def on_train_epoch_start(self, *_: Any) -> None:
        self.train_batches.append(0)

    def on_train_batch_end(self, *_: Any) -> None:
        self.train_batches[-1] += 1

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self.validated.append(trainer.global_step)

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if not trainer.sanity_checking:
            self.val_batches.append((dataloader_idx, batch_idx))


def steps_by_round(job: Job) -> list[int]:
    """Optimizer steps of each round, from what the probe saw after every batch."""
    sparsities = job.probe.sparsities
    return [sparsities.count(s) for s in sorted(set(sparsities))]


@pytest.mark.parametrize(
    ("limits", "epochs", "steps"),
    [
        ({"max_epochs": 2}, 2, 8),
        ({"max_epochs": -1, "max_steps": 6}, 2, 6),  # ends inside an epoch
        ({"max_epochs": -1, "max_steps": 8}, 2, 8),  # at an epoch's end
        ({"max_epochs": None, "max_steps": 5}, 2, 5),
        ({"max_epochs": 2, "max_steps": 100}, 2, 8),
        ({"max_epochs": 9, "max_steps": 3}, 1, 3),
        ({"max_epochs": 3, "max_steps": 8}, 2, 8),
        ({"max_epochs": 1, "min_epochs": 1}, 1, 4),
    ],
)
def test_every_round_has_the_length_of_the_users_fit(limits: dict[str, Any], epochs: int, steps: int) -> None:
    job = watched_fit(**limits)
    assert_pruned(job)
    assert [row["epochs"] for row in job.pruning.ledger] == [epochs] * 3
    assert steps_by_round(job) == [steps] * 3
    assert job.trainer.global_step == 3 * steps
    plain = L.Trainer(**QUIET, **limits)
    plain.fit(Classifier(), train_data(), val_data())
    assert (job.trainer.max_epochs, job.trainer.max_steps) == (plain.max_epochs, plain.max_steps)
    assert (job.trainer.min_epochs, job.trainer.min_steps) == (plain.min_epochs, plain.min_steps)


def test_nothing_that_ends_a_round_is_an_error() -> None:
    job = watched_fit(max_epochs=-1, expect=MisconfigurationException)
    assert job.pruning.ledger == []


def test_max_time_alone_ends_no_round() -> None:
    """Time ends the job; nothing would ever be pruned."""
    job = watched_fit(max_epochs=None, max_time="00:00:01:00", expect=MisconfigurationException)
    assert job.pruning.ledger == []


@pytest.mark.parametrize(
    ("arguments", "validated"),
    [
        ({"val_check_interval": 0.5}, [2, 4, 6, 8]),
        ({"val_check_interval": 3}, [3, 7]),
        ({"val_check_interval": 1.0}, [4, 8]),
        ({"check_val_every_n_epoch": 2}, [8]),
        ({"check_val_every_n_epoch": None, "val_check_interval": 4}, [4, 8]),
        ({"limit_val_batches": 0}, []),
    ],
)
def test_validation_runs_in_every_round_as_in_the_first(
    arguments: dict[str, Any], validated: list[int]
) -> None:
    diary = Diary()
    job = watched_fit(callbacks=[diary], **arguments)
    assert_pruned(job)
    assert diary.validated == [8 * round_ + step for round_ in range(3) for step in validated]


@pytest.mark.parametrize("arguments", [{"val_check_interval": 0.5}, {"check_val_every_n_epoch": 2}, {}])
def test_without_a_guard_the_validation_data_judges(arguments: dict[str, Any]) -> None:
    """Also where no validation has run by the end of the round."""
    guard = DataLoader(samples(150, 3), batch_size=150)
    with pytest.warns(UserWarning, match="the validation data is the guard"):
        job = watched_fit(
            Classifier(), train_data(), guard, settings={"guard_dataloader": None}, max_epochs=3, **arguments
        )
    assert [row["verdict"] for row in job.pruning.ledger] == ["baseline", "accepted", "accepted"]
    assert {row["classes"]["1"]["support"] for row in job.pruning.ledger} == {
        int(guard.dataset.tensors[1].sum())
    }


def test_limits_on_batches() -> None:
    diary = Diary()
    job = watched_fit(callbacks=[diary], limit_train_batches=3, limit_val_batches=1)
    assert_pruned(job)
    assert diary.train_batches == [3] * 6
    assert diary.val_batches == [(0, 0)] * 6


def test_limits_as_fractions() -> None:
    diary = Diary()
    job = watched_fit(callbacks=[diary], limit_train_batches=0.5, limit_val_batches=0.5)
    assert_pruned(job)
    assert diary.train_batches == [2] * 6
    assert len(diary.val_batches) == 6


def test_overfit_batches() -> None:
    diary = Diary()
    job = watched_fit(Classifier(), train_data(), train_data(), callbacks=[diary], overfit_batches=2)
    assert_pruned(job)
    assert diary.train_batches == [2] * 6


def test_several_validation_loaders() -> None:
    logged: list[dict[str, float]] = []

    class Metrics(L.Callback):
        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            if not trainer.sanity_checking:
                logged.append({k: float(v) for k, v in trainer.callback_metrics.items()})

    loaders = [val_data(), DataLoader(samples(40, 7), batch_size=16)]
    diary = Diary()
    job = watched_fit(Classifier(), train_data(), loaders, callbacks=[diary, Metrics()])
    assert_pruned(job)
    assert diary.val_batches == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)] * 6
    positives = sum(int(loader.dataset.tensors[1].sum()) for loader in loaders)
    assert {m["classprune/support/1"] for m in logged} == {positives}


def test_several_validation_loaders_as_the_guard() -> None:
    loaders = {"a": DataLoader(samples(90, 3), batch_size=40), "b": DataLoader(samples(60, 4), batch_size=25)}
    with pytest.warns(UserWarning, match="the validation data is the guard"):
        job = watched_fit(
            Classifier(), train_data(), L.utilities.CombinedLoader(loaders, "sequential"),
            settings={"guard_dataloader": None, "predict": None},
        )  # fmt: skip
    positives = sum(int(loader.dataset.tensors[1].sum()) for loader in loaders.values())
    assert [row["classes"]["1"]["support"] for row in job.pruning.ledger] == [positives] * 3
    assert job.pruning.sparsity == 0.75


def test_no_validation_at_all() -> None:
    job = watched_fit(Classifier(), train_data())
    assert_pruned(job)


def test_no_validation_and_no_guard_is_an_error_before_the_first_batch() -> None:
    job = watched_fit(
        Classifier(), train_data(), settings={"guard_dataloader": None}, expect=MisconfigurationException
    )
    assert job.trainer.global_step == 0


def stream(n: int, seed: int, batch_size: int, endless: bool = False) -> DataLoader:
    return DataLoader(Stream(n, seed, endless), batch_size=batch_size)


def test_iterable_training_data() -> None:
    diary = Diary()
    job = watched_fit(Classifier(), stream(96, 1, 24), val_data(), callbacks=[diary])
    assert_pruned(job)
    assert diary.train_batches[:2] == [4, 4]
    assert steps_by_round(job) == [8, 8, 8]


def test_endless_training_data_by_steps() -> None:
    job = watched_fit(Classifier(), stream(96, 1, 24, endless=True), val_data(), max_epochs=-1, max_steps=6)
    assert_pruned(job)
    assert steps_by_round(job) == [6, 6, 6]


def test_endless_training_data_by_limited_epochs() -> None:
    loader = stream(96, 1, 24, endless=True)
    job = watched_fit(Classifier(), loader, val_data(), limit_train_batches=3, val_check_interval=3)
    assert_pruned(job)
    assert steps_by_round(job) == [6, 6, 6]


def test_iterable_validation_data() -> None:
    diary = Diary()
    job = watched_fit(Classifier(), train_data(), stream(64, 2, 32), callbacks=[diary])
    assert_pruned(job)
    assert diary.val_batches == [(0, 0), (0, 1)] * 6


def test_iterable_guard_data() -> None:
    job = watched_fit(settings={"guard_dataloader": stream(150, 3, 150)})
    del job.witness.judged[0]  # a stream is read twice before training
    assert_pruned(job)
    assert job.pruning.ledger[0]["classes"]["1"]["support"] == int(guard_data().dataset.tensors[1].sum())


def test_iterable_validation_data_as_the_guard() -> None:
    with pytest.warns(UserWarning, match="the validation data is the guard"):
        job = watched_fit(
            Classifier(), train_data(), stream(150, 3, 150), settings={"guard_dataloader": None}
        )
    assert job.verdicts == ["baseline", "accepted", "accepted"]
    assert job.pruning.ledger[0]["classes"]["1"]["support"] == int(guard_data().dataset.tensors[1].sum())


def test_endless_validation_data_as_the_guard_ends_where_validation_does() -> None:
    with pytest.warns(UserWarning, match="the validation data is the guard"):
        job = watched_fit(
            Classifier(), train_data(), stream(64, 2, 32, endless=True), limit_val_batches=3,
            settings={"guard_dataloader": None, "predict": None},
        )  # fmt: skip
    assert job.pruning.sparsity == 0.75
    first = samples(64, 2).tensors[1]
    positives = int(first.sum()) + int(first[:32].sum())
    assert [row["classes"]["1"]["support"] for row in job.pruning.ledger] == [positives] * 3


class Reloading(L.LightningDataModule):
    """Counts how often its loaders are asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.trains = self.vals = 0

    def train_dataloader(self) -> DataLoader:
        self.trains += 1
        return train_data()

    def val_dataloader(self) -> DataLoader:
        self.vals += 1
        # A data set that is another one at every reload: the guard must not change with it.
        return DataLoader(samples(150, 2 + self.vals), batch_size=150)


def test_reloaded_loaders_do_not_change_the_guard() -> None:
    data = Reloading()
    with pytest.warns(UserWarning, match="the validation data is the guard"):
        job = watched_fit(
            datamodule=data,
            reload_dataloaders_every_n_epochs=1,
            settings={"guard_dataloader": None, "predict": None},
        )
    assert data.trains == 6
    assert data.vals > 2
    supports = {row["classes"]["1"]["support"] for row in job.pruning.ledger}
    assert supports == {int(samples(150, 3).tensors[1].sum())}
    assert job.pruning.sparsity == 0.75


def test_no_logger_and_the_inference_mode_off() -> None:
    assert_pruned(watched_fit(logger=False, inference_mode=False))


def test_inference_mode_off_is_left_to_the_users_validation() -> None:
    """Gradients in validation_step, the reason to turn inference mode off, still work."""

    class Gradients(Classifier):
        seen = 0

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            with torch.enable_grad():
                x = batch[0].clone().requires_grad_()
                self(x).sum().backward()
                self.seen += int(x.grad is not None)
            self.zero_grad()

    module = Gradients()
    assert_pruned(watched_fit(module, inference_mode=False))
    assert module.seen == 2 + 2 * 6


@pytest.mark.parametrize("accumulate", [2, 3])
def test_steps_with_accumulation(accumulate: int) -> None:
    job = watched_fit(max_epochs=-1, max_steps=3, accumulate_grad_batches=accumulate)
    assert_pruned(job)
    assert job.trainer.global_step == 9


# -- what counts epochs --


class RateLog(L.Callback):
    """Learning rate and accumulation in every epoch."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.accumulated: list[int] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])
            self.accumulated.append(trainer.accumulate_grad_batches)


def test_accumulation_scheduler_follows_the_rounds_own_epoch() -> None:
    log = RateLog()
    job = watched_fit(callbacks=[GradientAccumulationScheduler({1: 2, 2: 4}), log], max_epochs=3)
    assert_pruned(job)
    assert log.accumulated == [1, 2, 4] * 3
    assert job.trainer.global_step == 3 * (4 + 2 + 1)


def scheduled(frequency: int) -> Any:
    def optimizers(module: Any) -> Any:
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "frequency": frequency}}

    return optimizers


def warned(**kwargs: Any) -> tuple[Job, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        job = watched_fit(**kwargs)
    return job, [str(w.message) for w in caught if "all rounds" in str(w.message)]


def test_scheduler_frequency_that_divides_the_round_is_the_same_in_every_round() -> None:
    log = RateLog()
    job, messages = warned(module=Classifier(optimizers=scheduled(2)), callbacks=[log], max_epochs=4)
    assert_pruned(job)
    assert log.rates == [0.1, 0.1, 0.05, 0.05] * 3
    assert messages == []


def test_scheduler_frequency_that_does_not_divide_the_round_warns() -> None:
    job, messages = warned(module=Classifier(optimizers=scheduled(2)), max_epochs=3)
    assert_pruned(job)
    assert any("frequency=2" in m and "starts at epoch 3" in m for m in messages)


@pytest.mark.parametrize(
    ("arguments", "epochs", "word"),
    [
        ({"check_val_every_n_epoch": 2}, 3, "check_val_every_n_epoch=2"),
        ({"reload_dataloaders_every_n_epochs": 2}, 3, "reload_dataloaders_every_n_epochs=2"),
        ({"check_val_every_n_epoch": None, "val_check_interval": 3}, 1, "val_check_interval=3"),
    ],
)
def test_what_counts_over_all_rounds_warns_where_it_is_out_of_step(
    arguments: dict[str, Any], epochs: int, word: str
) -> None:
    job, messages = warned(max_epochs=epochs, **arguments)
    assert_pruned(job)
    assert any(word in m for m in messages)
    *_, in_step = warned(max_epochs=epochs * 6, settings={"max_rounds": 1}, **arguments)
    assert in_step == []


class Remembering(torch.utils.data.Sampler):
    """A sampler that shuffles by epoch, as a distributed one does."""

    def __init__(self) -> None:
        self.epochs: list[int] = []
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        self.epochs.append(self.epoch)
        return iter(torch.randperm(96, generator=torch.Generator().manual_seed(self.epoch)).tolist())

    def __len__(self) -> int:
        return 96


@pytest.mark.parametrize("where", ["sampler", "batch_sampler"])
def test_set_epoch_is_given_the_rounds_own_epoch(where: str) -> None:
    sampler = Remembering()
    if where == "sampler":
        loader = DataLoader(samples(96, 1), batch_size=24, sampler=sampler)
    else:
        batches = torch.utils.data.BatchSampler(sampler, 24, drop_last=False)
        loader = DataLoader(samples(96, 1), batch_sampler=batches)
    job = watched_fit(Classifier(), loader, val_data(), max_epochs=3)
    assert_pruned(job)
    assert sampler.epochs == [0, 1, 2] * 3


def test_checkpoints_every_second_epoch_still_leave_an_accepted_best(tmp_path: Any) -> None:
    checkpoint = ModelCheckpoint(dirpath=tmp_path, every_n_epochs=5)
    job = watched_fit(callbacks=[checkpoint], max_epochs=2)
    assert_pruned(job)
    assert checkpoint.best_model_path.endswith("accepted-round=02.ckpt")


def test_round_epoch_is_what_user_code_can_ask_for() -> None:
    seen: list[tuple[int, int]] = []

    class Ask(L.Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            pruning = next(c for c in trainer.callbacks if hasattr(c, "ledger"))
            seen.append((trainer.current_epoch, pruning.round_epoch))

    watched_fit(callbacks=[Ask()])
    assert seen == list(zip(range(6), [0, 1] * 3, strict=True))
