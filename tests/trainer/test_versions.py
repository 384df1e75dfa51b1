"""What differs between Lightning's versions and packages."""

from __future__ import annotations

import importlib
import pickle
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EarlyStopping

from lightning_classprune.trainer.versions import (
    check_onnx_exporter,
    check_version,
    has_stopped,
    makes_iterator,
    mark_stopped,
    of_type,
    package_of,
    safe_loading,
    uncompiled,
    warn_of_checkpoint,
)
from tests.support.kit import QUIET

PACKAGES = ["lightning.pytorch", "pytorch_lightning"]


def trainer_of(package: str = "lightning.pytorch", *callbacks: Any) -> Any:
    return importlib.import_module(package).Trainer(callbacks=list(callbacks), **QUIET)


@pytest.mark.parametrize("package", PACKAGES)
def test_callbacks_are_found_by_the_package_of_the_trainer(package: str) -> None:
    stopping = importlib.import_module(package).callbacks.EarlyStopping("loss")
    trainer = trainer_of(package, stopping)
    assert package_of(trainer) == package
    assert of_type(trainer, "EarlyStopping") == [stopping]
    assert of_type(trainer, "ModelCheckpoint") == []
    assert of_type(trainer, "AClassOfAnotherVersion") == []


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("version", ["2.3.9", "1.9.5", "2.0.0.post1"])
def test_an_older_lightning_is_refused_by_name(
    package: str, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = package.split(".")[0]
    monkeypatch.setattr(importlib.import_module(name), "__version__", version)
    mend = f"{name} {version} is too old.*2.4 or newer; pip install '{name.replace('_', '-')}>=2.4'"
    with pytest.raises(MisconfigurationException, match=mend):
        check_version(trainer_of(package))


@pytest.mark.parametrize("version", ["2.7.0", "2.10.1", "3.0.0rc1", "2.7.0.dev20270101"])
def test_a_newer_lightning_is_only_warned_of(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning.__version__", version)
    with pytest.warns(
        UserWarning, match=f"lightning {version} is newer than .*pip install 'lightning~=2.6.0'"
    ):
        check_version(trainer_of())


@pytest.mark.parametrize("version", ["2.4.0", "2.5.0.post0", "2.6.99"])
def test_those_between_are_not_spoken_of(
    version: str, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr("lightning.__version__", version)
    trainer = trainer_of()
    recwarn.clear()
    check_version(trainer)
    assert not recwarn.list


class OldStopping:
    """An EarlyStopping callback as 2.5 and older have it."""

    stopped_epoch = 0


@pytest.mark.parametrize("kind", [lambda: EarlyStopping("loss"), OldStopping], ids=["new", "old"])
def test_whether_an_early_stopping_has_stopped(kind: Any) -> None:
    stopping = kind()
    mark_stopped(stopping, False)
    assert not has_stopped(stopping)
    mark_stopped(stopping, True)
    mark_stopped(stopping, True)
    assert has_stopped(stopping)
    mark_stopped(stopping, False)
    assert not has_stopped(stopping)


def test_a_stop_in_the_first_epoch_is_one_to_an_older_lightning_too() -> None:
    stopping = OldStopping()
    mark_stopped(stopping, False)
    stopping.stopped_epoch = 0
    assert has_stopped(stopping)


def test_the_first_epoch_makes_no_iterator() -> None:
    trainer = trainer_of()
    assert not makes_iterator(trainer)
    trainer.fit_loop.epoch_progress.current.completed = 1
    trainer.fit_loop.epoch_progress.current.processed = 1
    assert makes_iterator(trainer)
    trainer.fit_loop.epoch_loop._restarting = True
    assert not makes_iterator(trainer)


class Code:
    """Makes a folder when it is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self.folder,)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_code_of_a_checkpoint_runs_with_any_lightning(package: str, tmp_path: Path) -> None:
    torch.save({"weights": torch.ones(2)}, tmp_path / "good.ckpt")
    torch.save({"weights": Code(tmp_path / "made")}, tmp_path / "bad.ckpt")
    trainer = trainer_of(package)
    io = trainer.strategy.checkpoint_io
    named = safe_loading(trainer)
    assert torch.equal(io.load_checkpoint(tmp_path / "good.ckpt", **named)["weights"], torch.ones(2))
    with pytest.raises(pickle.UnpicklingError):
        io.load_checkpoint(tmp_path / "bad.ckpt", **named)
    assert not (tmp_path / "made").exists()


def test_a_lightning_whose_fit_knows_no_safe_loading_is_made_to_load_so(tmp_path: Path) -> None:
    class Old(pl.Trainer):
        def fit(self, *_: Any, ckpt_path: Any = None) -> None:  # type: ignore[override]
            pass

    torch.save({"weights": Code(tmp_path / "made")}, tmp_path / "bad.ckpt")
    trainer = Old(**QUIET)
    assert safe_loading(trainer) == {}
    with pytest.raises(pickle.UnpicklingError):
        trainer.strategy.checkpoint_io.load_checkpoint(
            tmp_path / "bad.ckpt", map_location=lambda storage, _: storage
        )
    assert not (tmp_path / "made").exists()


def test_compiled_networks_may_run_as_they_are_written() -> None:
    with uncompiled():
        assert torch.ones(1) == 1


@pytest.mark.parametrize(
    ("version", "ready", "warned"), [("2.4.0", 2, True), ("2.4.0", 1, False), ("2.5.6", 2, False)]
)
def test_lightning_2_4_is_warned_of_where_it_goes_on_from_inside_an_epoch(
    version: str, ready: int, warned: bool, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr("lightning.__version__", version)
    trainer = trainer_of()
    recwarn.clear()
    progress = {"current": {"ready": ready, "started": ready, "processed": 1, "completed": 1}}
    warn_of_checkpoint(trainer, {"loops": {"fit_loop": {"epoch_progress": progress}}})
    assert any("schedulers step again" in str(one.message) for one in recwarn.list) is warned


def test_a_torch_whose_exporter_has_no_free_batch_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def export(model: Any, args: Any, f: Any = None, *, dynamic_axes: Any = None) -> None:
        """As in torch 2.4."""

    monkeypatch.setattr(torch.onnx, "export", export)
    with pytest.raises(ValueError, match=r"torch .* cannot write ONNX files .* pip install 'torch>=2\.5'"):
        check_onnx_exporter()
