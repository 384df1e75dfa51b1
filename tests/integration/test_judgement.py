"""A guard that looks once, at the end, in real fits: what is kept, what is judged, and that it is final."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, Timer
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_classprune import ClassAwarePruningCallback, load_ticket
from lightning_classprune.guard.holm import accepted_by_holm
from tests.support.compare import assert_same, weights, without_seconds
from tests.support.kit import dataset, fit, plain_pruner, tiny, verdicts
from tests.support.kit import trainer as trainer_of
from tests.support.witness import Keep

GUARD = 210  # unlike any other batch


class Job:
    """One fit of three rounds that are judged at the end.

    Args:
        folder: Of checkpoints and kept files.
        harm: Density below which a candidate misses every positive of the guard; 0: none does.
        **options: Of the callback.
    """

    def __init__(self, folder: Path, harm: float = 0.0, **options: Any) -> None:
        self.folder, self.harm, self.guard_passes = folder, harm, 0
        defaults: dict[str, Any] = {
            "protect": {1: 0.3},
            "confidence": 0.9,
            "judging": "end",
            "max_fp_rise": 0.3,
            "fraction": 0.4,
            "target_sparsity": 0.75,
            "predict": self.predict,
            "guard_dataloader": DataLoader(dataset(GUARD, 3), batch_size=GUARD),
        }
        self.callback: ClassAwarePruningCallback = plain_pruner(**(defaults | options))
        self.module = tiny()

    def predict(self, module: Any, batch: Any) -> tuple[Tensor, Tensor]:
        scores = module(batch[0])
        if len(batch[0]) == GUARD:
            self.guard_passes += 1
            kept = sum(int((p != 0).sum()) for p in module.parameters() if p.ndim == 2) / 120
            if kept < self.harm:
                scores = scores - torch.tensor([0.0, 1e6])
        return scores, batch[1]

    def run(self, *more: Any, **options: Any) -> Job:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.trainer = fit(
                self.module,
                self.callback,
                *more,
                train=DataLoader(dataset(96, 1), batch_size=16, shuffle=True),
                val=DataLoader(dataset(200, 2), batch_size=100),
                **({"max_epochs": 2, "default_root_dir": self.folder} | options),
            )
        return self

    def result(self) -> dict[str, Any]:
        return {
            "ledger": without_seconds(self.callback.ledger),
            "weights": weights(self.module),
            "masks": self.callback.masks,
            "offsets": self.callback.offsets,
        }


@pytest.fixture(scope="module")
def dense() -> dict[str, Tensor]:
    """The weights of the dense network, trained without any of this."""
    module = tiny()
    fit(
        module,
        train=DataLoader(dataset(96, 1), batch_size=16, shuffle=True),
        val=DataLoader(dataset(200, 2), batch_size=100),
    )
    return weights(module)


def test_kept_rows_become_verdicts_at_holms_levels(tmp_path: Path) -> None:
    job = Job(tmp_path / "run", ladder=str(tmp_path / "ladder")).run()
    rows = job.callback.ledger
    assert verdicts(job.callback) == ["baseline", "accepted", "accepted", "accepted"]
    p_values = [max(c["p_value"], c["fp_p_value"]) for row in rows[1:] for c in row["classes"].values()]
    order = sorted(range(3), key=lambda i: p_values[i])
    assert [rows[1 + i]["level"] for i in order] == pytest.approx([0.1 / 3, 0.1 / 2, 0.1])
    assert accepted_by_holm(p_values, 0.1) == [True] * 3
    assert all(row["confidence"] == 0.9 for row in rows)
    assert job.callback.sparsity == rows[-1]["sparsity"] == 0.75
    assert len(list((tmp_path / "ladder").glob("[!k]*.safetensors"))) == 4
    ticket = tiny()
    load_ticket(sorted((tmp_path / "ladder").glob("*.safetensors"))[-1], ticket)
    assert_same(weights(ticket), weights(job.module))
    assert not list(tmp_path.rglob("kept-*")), "what was accepted has files of its own"
    assert not job.callback.awaits_judgement


def test_the_guard_is_asked_once_for_the_dense_network_and_once_for_each_candidate(tmp_path: Path) -> None:
    job = Job(tmp_path)
    seen: list[int] = []

    class Count(pl.Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            seen.append(job.guard_passes)

    job.run(Count())
    assert seen == [1, 1, 2, 2, 2, 2, 2, 2], (
        "a check at the start, the dense network; then nothing until the end"
    )
    assert job.guard_passes == 5


def test_the_sparsest_that_was_accepted_is_delivered(tmp_path: Path) -> None:
    job = Job(tmp_path, harm=0.3).run()
    assert verdicts(job.callback) == ["baseline", "accepted", "accepted", "refused"]
    assert job.callback.sparsity == job.callback.ledger[2]["sparsity"]
    assert [row["level"] for row in job.callback.ledger[1:]].count(0.1) == 1
    flat = torch.cat([p.flatten() for p in job.module.parameters() if p.ndim == 2])
    assert int((flat == 0).sum()) == round(120 * job.callback.sparsity)


def test_where_none_is_accepted_the_dense_network_is_delivered_bit_for_bit(
    tmp_path: Path, dense: dict[str, Tensor]
) -> None:
    job = Job(tmp_path, harm=0.99).run()
    assert verdicts(job.callback) == ["baseline", "refused", "refused", "refused"]
    assert [row["level"] for row in job.callback.ledger[1:]] == pytest.approx([0.1 / 3] * 3)
    assert job.callback.sparsity == 0
    assert_same(weights(job.module), dense)


def test_after_a_harmful_one_a_later_is_tested_on_its_own(tmp_path: Path) -> None:
    """Holm needs no order of densities: the middle candidate alone is harmful."""
    job = Job(tmp_path)
    plain = job.predict

    def middle(module: Any, batch: Any) -> tuple[Tensor, Tensor]:
        scores, target = plain(module, batch)
        kept = sum(int((p != 0).sum()) for p in module.parameters() if p.ndim == 2)
        return scores - torch.tensor([0.0, 1e6]) * (kept == 43 and len(target) == GUARD), target

    job.callback = Job(tmp_path, predict=middle).callback
    job.run()
    assert verdicts(job.callback) == ["baseline", "accepted", "refused", "accepted"]
    assert job.callback.sparsity == 0.75


ENDS: dict[str, tuple[Callable[[], list[Any]], dict[str, Any], int]] = {
    "the target": (list, {}, 3),
    "max_total_epochs": (list, {"max_total_epochs": 6}, 2),
    "max_rounds": (list, {"max_rounds": 1}, 1),
    "early stopping": (lambda: [EarlyStopping("val_loss", patience=1, mode="max", min_delta=9)], {}, 3),
}


@pytest.mark.parametrize("name", ENDS)
def test_what_ends_a_run_ends_in_the_judgement(name: str, tmp_path: Path) -> None:
    more, options, candidates = ENDS[name]
    job = Job(tmp_path, **options).run(*more())
    assert verdicts(job.callback) == ["baseline"] + ["accepted"] * candidates
    assert not job.callback.awaits_judgement


# --- interrupted ---


class Interrupt(pl.Callback):
    """Interrupts in an epoch, in one of several ways."""

    def __init__(self, how: str, epoch: int = 5) -> None:
        self.how, self.epoch = how, epoch

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Lightning leaves an epoch at once when it is told to stop, and does not come back to it when it resumes.
        if trainer.current_epoch == self.epoch and batch_idx == (5 if self.how == "should_stop" else 2):
            if self.how == "should_stop":
                trainer.should_stop = True
            elif self.how == "exception":
                raise RuntimeError("the disk is full")
            elif self.how == "Ctrl-C":
                raise KeyboardInterrupt


def saving(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder / "ckpt", save_last=True, save_top_k=-1, every_n_epochs=1)


HOWS = ["should_stop", "exception", "Ctrl-C"]


@pytest.mark.parametrize("how", HOWS)
def test_an_interruption_judges_nothing_and_resuming_goes_on_as_if_there_were_none(
    how: str, tmp_path: Path, dense: dict[str, Tensor]
) -> None:
    whole = Job(tmp_path / "whole").run(saving(tmp_path / "whole"))
    job = Job(tmp_path / "cut")
    try:
        job.run(saving(tmp_path / "cut"), Interrupt(how))
    except (RuntimeError, KeyboardInterrupt, SystemExit):
        assert how != "should_stop"
    assert verdicts(job.callback) == ["baseline", "kept"] + (["kept"] if how == "should_stop" else [])
    assert job.callback.awaits_judgement
    assert job.guard_passes == 2
    assert_same(weights(job.module), dense)
    assert job.callback.sparsity == 0
    resumed = Job(tmp_path / "cut").run(
        saving(tmp_path / "cut"), ckpt_path=tmp_path / "cut" / "ckpt" / "last.ckpt", seed=99
    )
    assert_same(resumed.result(), whole.result())


def test_a_time_limit_judges_nothing(tmp_path: Path, dense: dict[str, Tensor]) -> None:
    job = Job(tmp_path)

    class Slow(Timer):
        def _check_time_remaining(self, trainer: Any) -> None:
            if trainer.current_epoch == 5:
                trainer.should_stop = True

    job.run(Slow(duration={"hours": 1}))
    assert "accepted" not in verdicts(job.callback)
    assert job.callback.awaits_judgement
    assert_same(weights(job.module), dense)


# --- closed as it stands ---


def interrupted(folder: Path, **options: Any) -> Job:
    return Job(folder, **options).run(saving(folder), Interrupt("should_stop"))


def test_an_interrupted_run_is_closed_in_the_same_process(tmp_path: Path) -> None:
    job = interrupted(tmp_path)
    steps = job.trainer.global_step
    job.callback.judge(job.trainer)
    assert verdicts(job.callback) == ["baseline", "accepted", "accepted"]
    assert job.trainer.global_step == steps, "nothing is trained"
    assert job.callback.sparsity == job.callback.ledger[2]["sparsity"]
    assert not job.callback.awaits_judgement
    with pytest.raises(MisconfigurationException, match="judged already"):
        job.callback.judge(job.trainer)


def test_an_interrupted_run_is_closed_in_another_process(tmp_path: Path) -> None:
    cut = interrupted(tmp_path)
    cut.callback.judge(cut.trainer)
    other = tmp_path / "other"
    interrupted(other)
    job = Job(other)
    made = trainer_of(job.callback, saving(other), max_epochs=2, default_root_dir=other)
    job.callback.judge(
        made,
        job.module,
        DataLoader(dataset(96, 1), batch_size=16, shuffle=True),
        DataLoader(dataset(200, 2), batch_size=100),
        ckpt_path=other / "ckpt" / "last.ckpt",
    )
    assert_same(job.result(), cut.result())


def test_what_cannot_be_closed_says_so(tmp_path: Path) -> None:
    job = Job(tmp_path)
    with pytest.raises(MisconfigurationException, match=r"judge: .*fitted nothing"):
        job.callback.judge(trainer_of(job.callback))
    with pytest.raises(MisconfigurationException, match="knows of no run"):
        job.callback.judge(trainer_of(job.callback), job.module, DataLoader(dataset(96, 1)))
    with pytest.raises(MisconfigurationException, match=r"with judging='round' every round is judged"):
        plain_pruner().judge(trainer_of())


# --- final ---


def test_a_judged_run_is_neither_resumed_nor_judged_again(tmp_path: Path) -> None:
    keep = Keep(tmp_path / "kept", "epoch end")
    job = Job(tmp_path, harm=0.99).run(keep)
    assert "accepted" not in verdicts(job.callback)
    for path in keep.files[2:7:2]:
        again = Job(tmp_path, harm=0.99)
        with pytest.raises(MisconfigurationException, match="a judgement is final"):
            again.run(ckpt_path=path)
        with pytest.raises(MisconfigurationException, match="a judgement is final"):
            again.callback.judge(
                trainer_of(again.callback, max_epochs=2, default_root_dir=tmp_path),
                again.module,
                DataLoader(dataset(96, 1), batch_size=16, shuffle=True),
                DataLoader(dataset(200, 2), batch_size=100),
                ckpt_path=path,
            )
        assert again.callback.ledger == []
    for mark in tmp_path.rglob("*judged-*.json"):
        mark.unlink()
    # The tests beside the checkpoints know other verdicts; the candidates of later checkpoints are gone.
    for path, message in (
        (keep.files[4], "put its file back"),
        (keep.files[0], r"guard test 1 of this run was made already \(.*tests-.*decided otherwise"),
    ):
        again = Job(tmp_path, harm=0.99)
        cheat = pl.callbacks.LambdaCallback(on_train_start=lambda *_, of=again: setattr(of, "harm", 0.0))
        with pytest.raises(MisconfigurationException, match=message):
            again.run(cheat, ckpt_path=path)


def test_closing_early_does_not_leave_a_second_chance(tmp_path: Path) -> None:
    """After the judgement of two candidates the run may not go on to a third, from any checkpoint."""
    job = interrupted(tmp_path, harm=0.99)
    job.callback.judge(job.trainer)
    assert verdicts(job.callback) == ["baseline", "refused", "refused"]
    refused = 0
    for path in sorted((tmp_path / "ckpt").glob("*.ckpt")):
        (state,) = [
            one for one in torch.load(path, weights_only=True)["callbacks"].values() if "was_judged" in one
        ]
        again = Job(tmp_path, harm=0.99)
        if state["was_judged"]:  # what the judgement left: there is nothing to go on with
            again.run(ckpt_path=path)
            assert without_seconds(again.callback.ledger) == without_seconds(job.callback.ledger)
            continue
        refused += 1
        with pytest.raises(MisconfigurationException, match="a judgement is final"):
            again.run(ckpt_path=path)
    assert refused > 3


@pytest.mark.parametrize("harm", ["changed", "gone", "another network"])
def test_a_kept_file_that_is_not_what_was_kept_is_not_judged(harm: str, tmp_path: Path) -> None:
    job = interrupted(tmp_path)
    first, second = sorted(tmp_path.rglob("kept-round=0[12]*.safetensors"))
    if harm == "gone":
        first.unlink()
    elif harm == "changed":
        content = bytearray(first.read_bytes())
        content[-3] ^= 1
        first.write_bytes(bytes(content))
    else:
        first.write_bytes(second.read_bytes())
    passes = job.guard_passes
    with pytest.raises(MisconfigurationException, match=r"put its file back|not the network that was kept"):
        job.callback.judge(job.trainer)
    assert job.guard_passes <= passes + 1, "the guard was not opened: only its data were checked"
    assert not list(tmp_path.rglob("judged-*"))


def test_a_judgement_that_was_cut_short_is_made_again_for_the_same_networks_only(tmp_path: Path) -> None:
    job = interrupted(tmp_path)

    class Cut(Exception):
        pass

    def cut(*_: Any) -> Any:
        raise Cut

    judged = job.callback.__class__
    assert judged is ClassAwarePruningCallback
    import lightning_classprune.rounds.judgement as judgement

    real = judgement.judge_once
    judgement.judge_once = cut  # type: ignore[assignment]
    try:
        with pytest.raises(Cut):
            job.callback.judge(job.trainer)
    finally:
        judgement.judge_once = real
    (mark,) = tmp_path.rglob("judged-*.json")
    assert json.loads(mark.read_text())["done"] is False
    with pytest.raises(MisconfigurationException, match=r"opened for other candidates|a judgement is final"):
        Job(tmp_path).run(saving(tmp_path), ckpt_path=tmp_path / "ckpt" / "last.ckpt")
    again = Job(tmp_path)
    again.callback.judge(
        trainer_of(again.callback, saving(tmp_path), max_epochs=2, default_root_dir=tmp_path),
        again.module,
        DataLoader(dataset(96, 1), batch_size=16, shuffle=True),
        DataLoader(dataset(200, 2), batch_size=100),
        ckpt_path=tmp_path / "ckpt" / "last.ckpt",
    )
    assert verdicts(again.callback) == ["baseline", "accepted", "accepted"]


def test_refusals_are_survived_by_validation_data_alone() -> None:
    with pytest.raises(ValueError, match=r"judging='end' survives refusals by validation data alone"):
        Job(Path(), on_refusal="retry", retries=1)
