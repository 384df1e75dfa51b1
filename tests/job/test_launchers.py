"""Hydra multiruns: on every launcher, with a failed job, with several processes, in an Optuna study, and once more."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from lightning_classprune.job import app, command
from lightning_classprune.job.configuration import job_folder
from lightning_classprune.job.run_folder import RunFolder
from lightning_classprune.job.sweep.job_rows import Job, read_jobs
from tests.support import ROOT
from tests.support.app_job import EACH_ROUND

# A job of a second: two epochs, one attempt.
TINY = [
    "data=breast_cancer",
    "trainer.max_epochs=1",
    "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
    "search=fixed",
    "search.max_rounds=1",
    "protect.malignant=0.9",
    *EACH_ROUND,
]
Sweep = Callable[..., int]


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sweep]:
    """Run `classprune -m ...` in `tmp_path`; returns its exit code. The jobs' folders lie in `sweep/`."""
    root, handlers = logging.getLogger(), logging.getLogger().handlers[:]

    def run(*overrides: str) -> int:
        monkeypatch.setattr(sys, "argv", ["classprune", "-m", *TINY, "hydra.sweep.dir=sweep", *overrides])
        GlobalHydra.instance().clear()
        try:
            command.main()
        except SystemExit as ended:
            return int(ended.code or 0)
        return 0

    monkeypatch.chdir(tmp_path)
    # Processes that jobs start need the package and this folder.
    paths = [str(ROOT)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    yield run
    root.handlers[:] = handlers  # Hydra's write to a stream that ends with this test


def by(jobs: list[Job], key: str) -> dict[str, Job]:
    return {job.overrides[key]: job for job in jobs}


def snapshot(folder: Path) -> dict[str, int]:
    return {
        str(path): path.stat().st_mtime_ns
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".hydra" not in path.parts and path.suffix != ".log"
    }


def ledger(folder: Path) -> list[dict[str, Any]]:
    rows = RunFolder.open(folder).ledger()
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


# --- the folders' names ---------------------------------------------------------------------------------------------


def test_folder_names_are_readable_and_never_shared() -> None:
    assert job_folder("") == "job"
    assert job_folder("loss=a,seed=1") == "loss=a,seed=1"
    assert job_folder("data.root=/a/b,seed=1").startswith("root=b,seed=1-")
    assert job_folder("callbacks.classprune.guard.max_fp_rise=0.1,seed=1").startswith(
        "max_fp_rise=0.1,seed=1-"
    )
    assert (
        len(job_folder("data.root=/a,search.densities=[0.1,0.03],optimizer.lr=0.001,seed=1,b=" + "x" * 90))
        < 70
    )
    assert job_folder("a.lr=1") != job_folder("b.lr=1")
    long = [job_folder(f"{'x' * 300},seed={seed}") for seed in (1, 2)]
    assert long[0] != long[1]
    assert max(map(len, long)) < 120


# --- the basic launcher ---------------------------------------------------------------------------------------------


def test_a_failed_job_is_a_row_and_the_sweep_goes_on(sweep: Sweep, tmp_path: Path) -> None:
    assert sweep("optimizer.lr=0.001,oops,0.002") == 1
    jobs = by(read_jobs(tmp_path / "sweep"), "optimizer.lr")
    assert {key: job.state for key, job in jobs.items()} == {
        "0.001": "finished",
        "oops": "failed",
        "0.002": "finished",
    }
    assert str(jobs["oops"].error).startswith("TypeError: ")
    assert "Traceback" in (tmp_path / "sweep" / jobs["oops"].name / "classprune.log").read_text()
    table = (tmp_path / "sweep" / "summary.md").read_text()
    assert "3 jobs: 2 finished, 1 failed" in table
    assert "failed: TypeError" in table


def test_the_same_command_redoes_nothing(sweep: Sweep, tmp_path: Path) -> None:
    """More values: the jobs that are there stay, whatever their place in the new command."""
    assert sweep("seed=2") == 0
    (done,) = (status.parent for status in tmp_path.glob("sweep/*/status.json"))
    before = snapshot(done)
    assert sweep("seed=1,2") == 0
    assert snapshot(done) == before
    assert [job.state for job in read_jobs(tmp_path / "sweep")] == ["finished"] * 2
    assert "2 jobs: 2 finished" in (tmp_path / "sweep" / "summary.md").read_text()


def test_a_job_that_was_cut_off_goes_on(sweep: Sweep, tmp_path: Path) -> None:
    bomb = "+callbacks.bomb={_target_: tests.job.test_resume_run.Bomb, folder: '${run_dir}'}"
    assert sweep("seed=1", bomb) == 0
    (folder,) = (status.parent for status in tmp_path.glob("sweep/*/status.json"))
    whole = ledger(folder)
    for path in snapshot(folder):
        Path(path).unlink()
    (folder / "bomb").write_text("1")
    assert sweep("seed=1", bomb) == 1
    assert RunFolder(folder).status()["state"] == "failed"
    assert len(ledger(folder)) == 1
    assert sweep("seed=1", bomb) == 0
    assert ledger(folder) == whole
    assert len((RunFolder.open(folder).environment() or {})["resumed"]) == 1


def test_another_job_in_its_folder_is_refused(
    sweep: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep("seed=1", "hydra.sweep.subdir=one") == 0
    before = snapshot(tmp_path / "sweep" / "one")
    assert sweep("seed=2", "hydra.sweep.subdir=one") == 1
    assert "holds another job, whose configuration differs in seed" in capsys.readouterr().err
    assert snapshot(tmp_path / "sweep" / "one") == before


def test_a_job_of_a_sweep_is_the_job_alone(sweep: Sweep, tmp_path: Path) -> None:
    """What earlier jobs leave in the process changes nothing."""
    assert sweep("seed=7,3") == 0
    jobs = by(read_jobs(tmp_path / "sweep"), "seed")
    cfg = OmegaConf.load(tmp_path / "sweep" / jobs["3"].name / "config.yaml")
    cfg.run_dir = cfg.trainer.default_root_dir = cfg.trainer.logger.save_dir = str(tmp_path / "alone")
    cfg.callbacks.model_checkpoint.dirpath = str(tmp_path / "alone" / "checkpoints")
    cfg.callbacks.classprune.files.ladder = str(tmp_path / "alone" / "tickets")
    assert OmegaConf.is_dict(cfg)
    app.run(cfg)
    assert ledger(tmp_path / "alone") == ledger(tmp_path / "sweep" / jobs["3"].name)


# --- other launchers ------------------------------------------------------------------------------------------------


@pytest.mark.job
def test_joblib_shares_the_cores(sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    assert sweep("seed=1,2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2") == 0
    _finished(tmp_path, threads=max(1, (os.cpu_count() or 1) // 2))


@pytest.mark.job
def test_submitit_gives_each_job_its_cores(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert sweep("seed=1,2", "hydra/launcher=submitit_local", "hydra.launcher.cpus_per_task=1") == 0
    _finished(tmp_path, threads=1)


def _finished(folder: Path, threads: int) -> None:
    jobs = read_jobs(folder / "sweep")
    assert [job.state for job in jobs] == ["finished"] * 2
    assert sorted(str(job.seed) for job in jobs) == ["1", "2"]
    for job in jobs:
        environment = RunFolder.open(folder / "sweep" / job.name).environment()
        assert environment is not None
        assert environment["threads"] == threads
    assert "2 jobs: 2 finished" in (folder / "sweep" / "summary.md").read_text()


@pytest.mark.job
def test_several_processes_in_consecutive_jobs(sweep: Sweep, tmp_path: Path) -> None:
    """Two processes a job: neither one that fails nor what Lightning leaves behind stops the next."""
    assert sweep("trainer=ddp", "optimizer.lr=oops,0.001") == 1
    jobs = by(read_jobs(tmp_path / "sweep"), "optimizer.lr")
    assert {key: job.state for key, job in jobs.items()} == {"oops": "failed", "0.001": "finished"}
    assert jobs["0.001"].classes["malignant"].guard.positives == 53
    tested = jobs["0.001"].classes["malignant"].test
    assert tested is not None
    assert tested.positives == 32
    assert not {"LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} & set(os.environ)
    # One run folder a job, and none of Lightning's child processes made one of its own.
    assert len(list(tmp_path.rglob("config.yaml"))) == 2 * 2  # the job's own, and Hydra's
    assert {path.name for path in tmp_path.iterdir()} == {"sweep"}


# --- Optuna ---------------------------------------------------------------------------------------------------------


@pytest.mark.job
def test_study_with_two_objectives_goes_on_from_its_storage(sweep: Sweep, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    optuna = pytest.importorskip("optuna")
    study = ["hparams_search=optuna_two", "hydra.sweeper.n_trials=2"]
    for _ in range(2):
        assert sweep(*study) == 0
    stored = optuna.load_study("classprune_two", f"sqlite:///{tmp_path / 'classprune_two.db'}")
    assert [trial.state.name for trial in stored.trials] == ["COMPLETE"] * 4
    assert [direction.name for direction in stored.directions] == ["MAXIMIZE", "MINIMIZE"]
    jobs = read_jobs(tmp_path / "sweep")
    assert sorted(tuple(trial.values) for trial in stored.trials) == sorted(
        (job.sparsity, guard.missed / 53 + guard.alarms / guard.negatives)
        for job in jobs
        if (guard := job.classes["malignant"].guard) is not None
    )


@pytest.mark.job
def test_a_failed_trial_does_not_end_the_study(sweep: Sweep, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    optuna = pytest.importorskip("optuna")
    study = ["hparams_search=optuna", "hydra.sweeper.n_trials=1"]
    assert sweep(*study, "optimizer.lr=0.002") == 0
    assert sweep(*study, "optimizer.lr=-1.0") == 0
    stored = optuna.load_study("classprune", f"sqlite:///{tmp_path / 'classprune.db'}")
    assert [trial.state.name for trial in stored.trials] == ["COMPLETE", "FAIL"]
    assert sorted(job.state for job in read_jobs(tmp_path / "sweep")) == ["failed", "finished"]
