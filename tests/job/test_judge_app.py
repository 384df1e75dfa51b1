"""A run that is interrupted: it judges nothing, goes on, or is closed as it stands, once."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from lightning.pytorch import Callback

from lightning_classprune import __version__
from lightning_classprune.job import app, command, judge_app
from lightning_classprune.job.report.report_run import page_data
from lightning_classprune.job.run_folder import RunFolder
from tests.support.app_job import SHORT, config

# The guard judges at the end; tolerances that any candidate keeps. 3 epochs a round, 3 rounds.
JOB = [
    *SHORT,
    "protect.malignant=0.9",
    "callbacks.classprune.guard.max_fp_rise=0.9",
    "callbacks.classprune.guard.offset=none",
    "callbacks.classprune.guard.judging=end",
    "+callbacks.clock={_target_: tests.job.test_judge_app.TimeIsUp, folder: '${run_dir}'}",
]


class TimeIsUp(Callback):
    """Stops the job as `trainer.max_time` does, at the end of the epoch that a file names, once."""

    def __init__(self, folder: str) -> None:
        self.file = Path(folder) / "limit"

    def on_train_epoch_end(self, trainer: object, pl_module: object) -> None:
        if self.file.is_file() and trainer.current_epoch == int(self.file.read_text()):  # type: ignore[attr-defined]
            self.file.unlink()
            trainer.should_stop = True  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def cut_off(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job that ran out of time in its third round, one candidate being kept."""
    folder = tmp_path_factory.mktemp("cut_off")
    (folder / "limit").write_text("6")
    app.run(config(folder, *JOB))
    return folder


def copied(folder: Path, to: Path) -> RunFolder:
    """A copy that passes for a run of its own: otherwise the guard tests of one copy are those of all."""
    for tests in folder.rglob("tests-*.json"):
        tests.unlink()
    shutil.copytree(folder, to)
    return RunFolder.open(to)


def test_an_interrupted_job_judges_and_tests_nothing(cut_off: Path) -> None:
    folder = RunFolder.open(cut_off)
    assert folder.status()["state"] == "interrupted"
    assert [row["verdict"] for row in folder.ledger()] == ["baseline", "kept"]
    assert folder.test() is None
    assert not folder.accepted.exists()
    assert not folder.scores_file.exists()
    assert "This run was interrupted." in folder.report.read_text()
    assert page_data(folder).status["state"] == "interrupted"


def test_it_is_resumed_and_then_finished(
    cut_off: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied(cut_off, tmp_path / "run")
    monkeypatch.setattr(sys, "argv", ["classprune", f"resume={folder.path}", "--trust"])
    command.main()
    assert folder.status()["state"] == "finished"
    assert [row["verdict"] for row in folder.ledger()] == ["baseline", "accepted", "accepted"]
    capsys.readouterr()
    command.main()
    assert "this job is finished, there is nothing to do" in capsys.readouterr().out
    assert judge_app.main([str(folder.path), "--trust"]) == 1
    assert "this run was judged, and a judgement is final" in capsys.readouterr().err


def test_it_is_closed_as_it_stands_once(
    cut_off: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(cut_off, tmp_path / "run")
    assert judge_app.main([str(folder.path), "--trust"]) == 0
    assert folder.status()["state"] == "finished"
    assert [row["verdict"] for row in folder.ledger()] == ["baseline", "accepted"]
    assert folder.status()["objective"] == folder.ledger()[1]["sparsity"]
    assert folder.test() is not None
    assert "Dense and delivered" in capsys.readouterr().out
    before = folder.report.read_bytes()
    assert judge_app.main([str(folder.path), "--trust"]) == 1
    assert "a judgement is final" in capsys.readouterr().err
    assert folder.status()["state"] == "finished"
    assert folder.report.read_bytes() == before
    monkeypatch.setattr(sys, "argv", ["classprune", f"resume={folder.path}", "--trust"])
    command.main()
    assert "this job is finished" in capsys.readouterr().out


def test_a_run_whose_rounds_are_judged_cannot_be_closed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app.run(config(tmp_path, *JOB, "callbacks.classprune.guard.judging=round"))
    folder = RunFolder.open(tmp_path)
    folder.write_status("interrupted")
    assert judge_app.main([str(tmp_path), "--trust"]) == 1
    assert "judge closes a run of Guard(judging='end')" in capsys.readouterr().err
    assert folder.status()["state"] == "interrupted"


@pytest.mark.parametrize("state", ["running", "failed"])
def test_a_killed_run_without_a_checkpoint_has_nothing_to_judge(
    state: str, cut_off: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied(cut_off, tmp_path / "run")
    shutil.rmtree(folder.path / "checkpoints")
    folder.write_status(state)
    assert judge_app.main([str(folder.path), "--trust"]) == 1
    assert "give ckpt_path" in capsys.readouterr().err
    assert folder.status()["state"] == state


def test_usage(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for arguments, status in ((["--version"], 0), ([], 2), (["a", "b"], 2)):
        with pytest.raises(SystemExit) as ended:
            judge_app.main(arguments)
        assert ended.value.code == status
    said = capsys.readouterr()
    assert said.out == f"lightning-classprune {__version__}\n"
    assert "the following arguments are required: RUN_DIR" in said.err
    assert judge_app.main([str(tmp_path)]) == 1
    assert "is not a run folder" in capsys.readouterr().err
