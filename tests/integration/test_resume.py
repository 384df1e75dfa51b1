"""A run that is resumed from any of its checkpoints ends, bit for bit, as the one that was not interrupted."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor

from tests.support.compare import (
    assert_same,
    checkpoints,
    optimizer_states,
    scheduler_states,
    weights,
    without_seconds,
)
from tests.support.kit import (
    fit,
    guard_loader,
    pruner,
    refusing,
    tiny,
    train_loader,
    trainer,
    val_loader,
    verdicts,
)
from tests.support.older import RESUMES_INSIDE_EPOCHS, needs_resuming_inside_epochs
from tests.support.witness import Keep, Watch

KEY = "ClassAwarePruningCallback"


class KeepEarly(pl.Callback):
    """Saves as an ordinary callback does: at the end of an epoch, before its verdict."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: list[str] = []

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.files.append(str(self.folder / f"{len(self.files):02d}.ckpt"))
        trainer.save_checkpoint(self.files[-1])


SCENARIOS: dict[str, dict[str, Any]] = {
    "onecycle": {"scheduler": "onecycle"},
    "plateau": {"scheduler": "plateau"},
    "step": {"scheduler": "step"},
    "adam": {"optimizer": "adam", "limits": {"gradient_clip_val": 0.1}},
    "max_steps": {"scheduler": "onecycle", "limits": {"max_epochs": None, "max_steps": 9}},
    "max_steps of whole epochs": {"limits": {"max_epochs": -1, "max_steps": 12}},
    "both limits": {"limits": {"max_epochs": 2, "max_steps": 9}},
    "epoch:1": {"scheduler": "onecycle", "pruner": {"rewind": "epoch:1"}},
    "step:4": {"scheduler": "step", "pruner": {"rewind": "step:4"}},
    "lr": {"scheduler": "plateau", "pruner": {"rewind": "lr"}},
    "none": {"scheduler": "step", "pruner": {"rewind": "none"}},
    "none, plateau": {"scheduler": "plateau", "pruner": {"rewind": "none"}},
    "max_steps at a validation": {
        "limits": {"max_epochs": -1, "max_steps": 10, "val_check_interval": 2},
        # Lightning does not know where in its data an epoch was; only the ends of rounds can be exact.
        "exact": 10,
    },
    "early stopping at validations": {
        "stopping": {"check_on_train_epoch_end": False},
        "limits": {"max_epochs": 3},
    },
    "own generator": {"generator": True},
    "early stopping": {"stopping": {}, "limits": {"max_epochs": 3}},
    "magnitude increase": {"pruner": {"criterion": "magnitude_increase", "rewind": "lr"}},
    "confidence": {"pruner": {"confidence": 0.9}},
}


class Job:
    """One way to run a scenario: everything made anew each time, as another process would."""

    def __init__(self, scenario: dict[str, Any], module_seed: int = 11) -> None:
        options = {k: scenario[k] for k in ("scheduler", "optimizer") if k in scenario}
        self.module = tiny(module_seed, dropout=0.3, **options)
        self.callback = refusing(
            2, on_refusal="retry", retries=1, target_sparsity=0.55, **scenario.get("pruner", {})
        )
        self.watch = Watch()
        self.limits = scenario.get("limits", {})
        self.callbacks: list[Any] = [self.callback, self.watch]
        self.stopping = None
        if "stopping" in scenario:
            # Every epoch counts as worse than the first, so that each round ends after its second epoch.
            self.stopping = EarlyStopping("val_loss", patience=1, min_delta=100.0, **scenario["stopping"])
            self.callbacks.append(self.stopping)
        own = {"generator": torch.Generator().manual_seed(5)} if scenario.get("generator") else {}
        self.train = train_loader(**own)

    def run(self, *more: Any, ckpt_path: Any = None, seed: int = 7) -> Job:
        self.trainer = fit(
            self.module,
            *self.callbacks,
            *more,
            train=self.train,
            seed=seed,
            ckpt_path=ckpt_path,
            **self.limits,
        )
        return self

    def result(self) -> dict[str, Any]:
        state = self.callback.state_dict()
        return {
            "weights": weights(self.module),
            "masks": self.callback.masks,
            "ledger": without_seconds(self.callback.ledger),
            "budget": state["budget"],
            "rounds": state["rounds"],
            "optimizers": optimizer_states(self.trainer),
            "schedulers": scheduler_states(self.trainer),
            "global_step": self.trainer.global_step,
            "epoch": self.trainer.current_epoch,
            "stopping": self.stopping.state_dict() if self.stopping else None,
        }


def resume_everywhere(scenario: dict[str, Any], keep: Any, which: slice = slice(None)) -> None:
    whole = Job(scenario).run(keep)
    assert verdicts(whole.callback)[:4] == ["baseline", "accepted", "refused", "accepted"]
    assert len(keep.files) >= 5
    expected = whole.result()
    for path in keep.files[which]:
        steps = torch.load(path, weights_only=True)["global_step"]
        if steps % scenario.get("exact", 1):
            continue
        resumed = Job(scenario, module_seed=99).run(ckpt_path=path, seed=123)
        try:
            assert resumed.watch.losses == whole.watch.losses[steps:]
            result = resumed.result()
            if not resumed.watch.losses:  # the run had ended: only what is delivered matters
                result |= {key: expected[key] for key in ("optimizers", "schedulers")}
            assert_same(result, expected)
        except AssertionError as error:
            raise AssertionError(f"resumed from {os.path.basename(path)}: {error}") from error


INSIDE = [pytest.param("validation end", marks=needs_resuming_inside_epochs)]


@pytest.mark.parametrize("at", ["epoch end", *INSIDE])
@pytest.mark.parametrize("name", SCENARIOS)
def test_resumed_equals_uninterrupted(name, at, tmp_path):
    # Of each epoch either its end or that of its validation.
    resume_everywhere(SCENARIOS[name], Keep(tmp_path, at), slice(at == "validation end", None, 2))


@pytest.mark.parametrize("name", ["onecycle", "plateau", "max_steps"])
def test_resumed_from_before_the_verdict(name, tmp_path):
    resume_everywhere(SCENARIOS[name], KeepEarly(tmp_path))


class Crashes(pl.Callback):
    """Copies the folder of the user's checkpoints at every epoch's first batch: what a crash there would leave."""

    def __init__(self, folder: Path, copies: Path) -> None:
        self.folder, self.copies = folder, copies
        self.made: list[Path] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0 and self.folder.exists():
            self.made.append(self.copies / f"{len(self.made):02d}")
            shutil.copytree(self.folder, self.made[-1])


@pytest.mark.parametrize("save_top_k", [1, -1])
@pytest.mark.parametrize("on_epoch_end", [True, pytest.param(False, marks=needs_resuming_inside_epochs)])
def test_resumed_after_a_crash_from_the_newest_file_of_model_checkpoint(on_epoch_end, save_top_k, tmp_path):
    """What ModelCheckpoint tracks, and the files that it leaves, are the same as well."""
    folder = tmp_path / "user"

    def best() -> ModelCheckpoint:
        return ModelCheckpoint(
            dirpath=folder,
            monitor="val_loss",
            save_top_k=save_top_k,
            filename="{epoch}",
            save_on_train_epoch_end=on_epoch_end,
        )

    whole, tracked, crashes = Job({}), best(), Crashes(folder, tmp_path / "copies")
    whole.run(tracked, crashes)
    files = checkpoints(folder)
    for crash in crashes.made:
        shutil.rmtree(folder)
        shutil.copytree(crash, folder)
        newest = max(folder.glob("*.ckpt"), key=os.path.getmtime)
        resumed, again = Job({}, module_seed=99), best()
        resumed.run(again, ckpt_path=newest, seed=123)
        assert_same(resumed.result(), whole.result())
        assert_same(again.state_dict(), tracked.state_dict())
        # Lightning never removes the file that a job was resumed from.
        assert set(checkpoints(folder)) - {newest.name} == set(files) - {newest.name}
        saved = torch.load(again.best_model_path, weights_only=True)["state_dict"]
        assert_same(dict(saved), weights(whole.module))


@needs_resuming_inside_epochs
@pytest.mark.parametrize("limits", [{"max_epochs": None, "max_steps": 9}, {"max_epochs": 2}])
def test_resumed_from_inside_an_epoch(limits, tmp_path):
    """Not exact, for Lightning loses its place in the data; but every round is judged, and at its own length."""
    keep = ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=3, save_top_k=-1, filename="{step}")
    module, callback = tiny(), pruner(max_rounds=1)
    whole = fit(module, callback, keep, **limits)
    for path in sorted(tmp_path.glob("step=*.ckpt")):
        resumed, again = tiny(99), pruner(max_rounds=1)
        made = fit(resumed, again, ckpt_path=path, **limits)
        assert verdicts(again) == verdicts(callback) == ["baseline", "accepted"]
        assert again.sparsity == callback.sparsity
        assert made.global_step == whole.global_step
        flat = torch.cat([resumed.net[0].weight.flatten(), resumed.net[4].weight.flatten()])
        assert int((flat == 0).sum()) == 48


def test_a_run_may_be_interrupted_more_than_once(tmp_path):
    whole = Job({"scheduler": "plateau"}).run(keep := Keep(tmp_path, "epoch end"))
    (tmp_path / "again").mkdir()
    second = Keep(tmp_path / "again", "validation end" if RESUMES_INSIDE_EPOCHS else "epoch end")
    Job({"scheduler": "plateau"}, 99).run(second, ckpt_path=keep.files[2], seed=1)
    third = Job({"scheduler": "plateau"}, 98).run(ckpt_path=second.files[2], seed=2)
    assert_same(third.result(), whole.result())


def test_a_finished_run_does_nothing_and_delivers(tmp_path):
    whole = Job({"scheduler": "onecycle"}).run()
    path = str(tmp_path / "finished.ckpt")
    whole.trainer.save_checkpoint(path)
    again = Job({"scheduler": "onecycle"}, 99).run(ckpt_path=path)
    assert again.watch.losses == []
    assert_same(weights(again.module), weights(whole.module))
    assert_same(again.callback.masks, whole.callback.masks)
    assert again.callback.ledger == whole.callback.ledger
    assert again.trainer.max_epochs == 2


def test_a_finished_run_that_ended_in_a_refusal_delivers_the_accepted_ticket(tmp_path):
    keep = Keep(tmp_path, "epoch end")
    module, callback = tiny(), refusing(2)
    fit(module, callback, keep)
    assert verdicts(callback) == ["baseline", "accepted", "refused"]
    # the last file was written after the verdict, while the module still held the refused candidate
    again, callback_again = tiny(99), refusing(2)
    fit(again, callback_again, ckpt_path=keep.files[-1], seed=1)
    assert_same(weights(again), weights(module))
    assert callback_again.sparsity == callback.sparsity == 48 / 120


def test_checkpoints_are_plain(tmp_path):
    """`weights_only=True` reads them, and their weights load into the module without the callback."""
    keep = Keep(tmp_path, "epoch end")
    module = tiny()
    fit(module, pruner(rewind="epoch:1"), keep, EarlyStopping("val_loss", patience=9))
    for path in keep.files:
        saved = torch.load(path, weights_only=True)
        plain = tiny(99)
        plain.load_state_dict(saved["state_dict"], strict=True)
        assert list(saved["state_dict"]) == list(module.state_dict())
    saved = torch.load(keep.files[-1], weights_only=True)
    flat = torch.cat([saved["state_dict"][n].flatten() for n in ("net.0.weight", "net.4.weight")])
    assert int((flat == 0).sum()) == 90


def test_weights_of_a_checkpoint_are_evaluated_without_the_callback(tmp_path):
    keep = Keep(tmp_path, "epoch end")
    module = tiny()
    fit(module, pruner(), keep)
    plain = tiny(99)
    trainer().validate(plain, val_loader(), ckpt_path=keep.files[-1], verbose=False)
    assert_same(weights(plain), weights(module))


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"target_sparsity": 0.7}, "target_sparsity was 0.75 and is now 0.7"),
        ({"fraction": 0.3}, "Fixed.fraction was 0.4 and is now 0.3"),
        ({"protect": {0: 1.0}}, "protect was .*'1'.* and is now .*'0'"),
        ({"confidence": 0.95}, "Guard.confidence was None and is now 0.95"),
        ({"rewind": "lr"}, "Fixed.rewind was 'init"),
        ({"criterion": "random"}, "Cut.criterion was .*criteria.magnitude.* and is now .*criteria.random"),
        ({"on_refusal": "retry", "retries": 2}, "Fixed.retries was 0 and is now 2"),
        ({"max_rounds": 2}, "Fixed.max_rounds was None and is now 2"),
        ({"search": "adaptive"}, "search was 'Fixed' and is now 'Adaptive'"),
        ({"predict": lambda module, batch: (module(batch[0]), batch[1])}, "predict was .*default_predict"),
    ],
)
def test_other_settings_are_refused(options, difference, tmp_path):
    keep = Keep(tmp_path, "epoch end")
    fit(tiny(), pruner(), keep)
    with pytest.raises(MisconfigurationException, match=difference):
        fit(tiny(), pruner(**options), ckpt_path=keep.files[2])


class Signed:
    """A criterion that prunes the smallest weights, or the largest."""

    def __init__(self, sign: int) -> None:
        self.sign = sign

    def __call__(self, weight: Tensor, rewind_point: Tensor) -> Tensor:
        return self.sign * weight.abs()


def test_the_opposite_criterion_is_refused(tmp_path):
    """Two instances of one class: the same one goes on as if nothing had been, the other one does not begin."""
    keep, whole = Keep(tmp_path, "epoch end"), pruner(criterion=Signed(1))
    fit(tiny(), whole, keep)
    same = pruner(criterion=Signed(1))
    fit(tiny(99), same, seed=123, ckpt_path=keep.files[2])
    assert without_seconds(same.ledger) == without_seconds(whole.ledger)
    opposite = "Cut.criterion was .*'sign': 1.* and is now .*'sign': -1"
    with pytest.raises(MisconfigurationException, match=opposite):
        fit(tiny(), pruner(criterion=Signed(-1)), ckpt_path=keep.files[2])


def test_another_model_is_refused(tmp_path):
    keep = Keep(tmp_path, "epoch end")
    fit(tiny(), pruner(), keep)
    frozen = tiny()
    frozen.net[0].weight.requires_grad_(False)
    with pytest.raises(MisconfigurationException, match=r"net\.0\.weight \[12, 8\] -> None"):
        fit(frozen, pruner(), ckpt_path=keep.files[2])


def test_another_choice_of_parameters_is_refused(tmp_path):
    keep = Keep(tmp_path, "epoch end")
    fit(tiny(), pruner(), keep)
    with pytest.raises(MisconfigurationException, match=r"Cut.prunable was None and is now 'net\.4\*'"):
        fit(tiny(), pruner(prunable="net.4*"), ckpt_path=keep.files[2])


def test_another_length_of_a_round_is_refused(tmp_path):
    keep = Keep(tmp_path, "epoch end")
    fit(tiny(), pruner(), keep)
    with pytest.raises(MisconfigurationException, match="max_epochs was 2 and is now 3"):
        fit(tiny(), pruner(), ckpt_path=keep.files[4], max_epochs=3)


def test_other_guard_data_is_refused(tmp_path):
    """Pairs across different samples would mean nothing."""
    keep = Keep(tmp_path, "epoch end")
    fit(tiny(), pruner(), keep)
    with pytest.raises(MisconfigurationException, match="its 120 cases are not the 120 on which"):
        fit(tiny(), pruner(guard_dataloader=guard_loader(seed=77)), ckpt_path=keep.files[2])


def test_the_state_carries_no_live_tensors(tmp_path):
    """A state taken in the middle of a fit must not change with the training that follows."""

    class Take(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            if trainer.global_step == 15:
                self.taken = callback.state_dict()
                torch.save(self.taken, tmp_path / "state.pt")

    take, callback = Take(), pruner(rewind="epoch:1")
    fit(tiny(scheduler="onecycle", optimizer="adam"), callback, take)
    assert_same(take.taken, torch.load(tmp_path / "state.pt", weights_only=True))


def test_the_key_of_the_state_is_stable(tmp_path):
    keep = Keep(tmp_path, "epoch end")
    fit(tiny(), pruner(max_rounds=1), keep)
    assert KEY in torch.load(keep.files[0], weights_only=True)["callbacks"]


def test_the_rewind_point_may_live_in_a_file_of_its_own(tmp_path):
    """Written once; a checkpoint holds its hash; resumed equals uninterrupted; another file is refused."""
    file = tmp_path / "rewind.pt"

    def run(name, ckpt_path=None):
        (tmp_path / name).mkdir()
        keep, pruning, module = Keep(tmp_path / name, "epoch end"), pruner(rewind_file=str(file)), tiny()
        fit(module, pruning, keep, ckpt_path=ckpt_path)
        return module, pruning, keep.files

    whole, uninterrupted, files = run("whole")
    for path in files:
        saved = torch.load(path, weights_only=True)["callbacks"][KEY]["rewind_point"]
        assert set(saved) == {"file", "sha256"}
    resumed, continued, _ = run("resumed", files[2])
    assert_same(weights(resumed), weights(whole))
    assert_same(continued.masks, uninterrupted.masks)
    assert without_seconds(continued.ledger) == without_seconds(uninterrupted.ledger)

    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(MisconfigurationException, match="rewind_file"):
        run("changed", files[2])
    file.unlink()
    with pytest.raises(MisconfigurationException, match="rewind_file"):
        run("missing", files[2])
