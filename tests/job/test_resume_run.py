"""`classprune resume=RUN_DIR`: a job that was cut off goes on as if nothing had happened, and a finished one rests."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from omegaconf import OmegaConf

from lightning_classprune.job import app, command, jobs
from lightning_classprune.job.run_folder import RunFolder
from tests.support import ROOT
from tests.support.app_job import EACH_ROUND, SHORT, config

JOB = [
    *SHORT,
    *EACH_ROUND,
    "protect.malignant=0.2",
    "+callbacks.bomb={_target_: tests.job.test_resume_run.Bomb, folder: '${run_dir}'}",
]


class Bomb(Callback):
    """Stops the job at the start of the epoch that the file `bomb` in its folder names, once."""

    def __init__(self, folder: str) -> None:
        self.file = Path(folder) / "bomb"

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if self.file.is_file() and trainer.current_epoch == int(self.file.read_text()):
            self.file.unlink()
            raise RuntimeError("bomb")


def cut_off(folder: Path, epoch: int) -> RunFolder:
    folder.mkdir(exist_ok=True)
    (folder / "bomb").write_text(str(epoch))
    with pytest.raises(RuntimeError, match="bomb"):
        app.run(config(folder, *JOB))
    return RunFolder.open(folder)


def results(folder: RunFolder) -> tuple[Any, ...]:
    rows = [{key: value for key, value in row.items() if key != "seconds"} for row in folder.ledger()]
    weights = torch.load(folder.accepted, weights_only=True)["state_dict"]
    return rows, folder.test(), folder.status(), {name: tensor.tolist() for name, tensor in weights.items()}


def snapshot(folder: RunFolder) -> dict[str, tuple[int, int]]:
    stats = {str(path): path.stat() for path in sorted(folder.path.rglob("*"))}
    return {name: (one.st_mtime_ns, one.st_size) for name, one in stats.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A job that nothing cut off."""
    folder = tmp_path_factory.mktemp("whole")
    app.run(config(folder, *JOB))
    return RunFolder.open(folder)


@pytest.mark.parametrize("epoch", [0, 3, 5])
def test_the_resumed_job_is_the_uninterrupted_one(epoch: int, whole: RunFolder, tmp_path: Path) -> None:
    """Cut off before any checkpoint, within a round, and right after a verdict."""
    folder = cut_off(tmp_path, epoch)
    assert folder.status()["state"] == "failed"
    assert (folder.last_checkpoint is None) is (epoch == 0)
    objective = jobs.resume(folder, app.run, trust=True)
    assert results(folder) == results(whole)
    assert objective == whole.status()["objective"] == 0.75


def test_it_remembers_where_it_began_and_that_it_was_resumed(tmp_path: Path) -> None:
    folder = cut_off(tmp_path, 2)
    first, stored = folder.environment(), folder.config()
    assert first is not None
    assert first["resumed"] == []
    jobs.resume(folder, app.run, trust=True)
    assert folder.config() == stored
    again = folder.environment()
    assert again is not None
    assert len(again.pop("resumed")) == 1
    assert again == {key: value for key, value in first.items() if key != "resumed"}


def test_a_moved_folder_goes_on_where_it_is_now(whole: RunFolder, tmp_path: Path) -> None:
    cut_off(tmp_path / "old", 4).path.rename(tmp_path / "new")
    folder = RunFolder.open(tmp_path / "new")
    jobs.resume(folder, app.run, trust=True)
    assert results(folder) == results(whole)
    assert not (tmp_path / "old").exists()
    assert folder.config().run_dir == str(tmp_path / "new")


def test_a_finished_job_is_left_alone(
    whole: RunFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(whole)
    monkeypatch.chdir(whole.path.parent)
    monkeypatch.setattr(sys, "argv", ["classprune", f"resume={whole.path.name}"])
    command.main()
    assert "this job is finished, there is nothing to do. Objective: 0.75" in capsys.readouterr().out
    assert snapshot(whole) == before


@pytest.mark.parametrize("stored", [0.5, [0.5, 0.01]])
def test_a_stored_objective_comes_back_as_it_was(stored: Any, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.begin(OmegaConf.create({"run_dir": str(tmp_path)}))
    folder.write_status("finished", objective=stored)
    expected = tuple(stored) if isinstance(stored, list) else stored
    assert jobs.resume(folder, app.run, trust=True) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resume={folder}", "seed=3", "-m"], r"takes nothing beside it but --trust; remove seed=3 -m"),
        (["+trainer.x=1", "resume={folder}"], r"takes nothing beside it but --trust; remove \+trainer\.x=1"),
        (["--trust", "resume={folder}", "seed=3"], "but --trust; remove seed=3$"),
        (["resume={folder}/checkpoints"], r"checkpoints is not a run folder: it has no config\.yaml"),
    ],
)
def test_what_cannot_be_resumed_is_said_in_a_line(
    arguments: list[str], message: str, whole: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(whole)
    words = [argument.format(folder=whole.path) for argument in arguments]
    monkeypatch.setattr(sys, "argv", ["classprune", *words])
    with pytest.raises(SystemExit, match=f"^classprune: .*{message}"):
        command.main()
    assert snapshot(whole) == before


@pytest.mark.job
def test_a_job_ends_with_its_sweep_and_goes_on_later(whole: RunFolder, tmp_path: Path) -> None:
    """Nobody holds the pipe any more, in the middle of an epoch: the job's own process ends at once."""
    cfg = config(tmp_path, *JOB, "~callbacks.bomb")
    app.describe(cfg)
    folder = RunFolder(tmp_path)
    folder.begin(cfg)
    command = [sys.executable, "-m", "lightning_classprune.job.own_process", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=environment) as process:
        while folder.last_checkpoint is None:
            assert process.poll() is None
            time.sleep(0.01)
    assert process.returncode == 1
    assert folder.status()["state"] == "running"
    jobs.resume(folder, app.run, trust=True)
    assert results(folder) == results(whole)
