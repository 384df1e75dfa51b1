"""The report rebuilt from a run folder alone, and what a job does about it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from lightning_classprune.job import app
from lightning_classprune.job.report import report_app
from lightning_classprune.job.run_folder import RunFolder
from lightning_classprune.ledger.text import achievement
from tests.job.report.pages import (
    Page,
)
from tests.support.app_job import LENIENT, config


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    app.run(config(folder, *LENIENT))
    return folder


def test_a_job_ends_with_its_report(finished: Path) -> None:
    folder = RunFolder.open(finished)
    parsed = Page(folder.report.read_text(encoding="utf-8"))
    assert achievement(folder.ledger()) in parsed.text
    assert "has not finished" not in parsed.text
    assert "BreastCancerData" in parsed.text
    kept = sum(layer["kept"] for layer in folder.layers())
    total = sum(layer["total"] for layer in folder.layers())
    assert 1 - kept / total == pytest.approx(folder.ledger()[-1]["sparsity"])
    assert not parsed.all("img")


def test_a_copy_of_the_folder_is_enough_to_rebuild_it(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy, ignore=shutil.ignore_patterns("*.ckpt", "metrics", "report.html"))
    assert report_app.main([str(copy)]) == 0
    assert capsys.readouterr().out.strip() == str(copy / "report.html")
    assert (copy / "report.html").read_text() == (finished / "report.html").read_text()


def test_a_job_that_fails_in_training_reports_what_was_judged(tmp_path: Path) -> None:
    bad = "+callbacks.bad={_target_: tests.job.report.test_report_app.Failing}"
    with pytest.raises(RuntimeError, match="out of luck"):
        app.run(config(tmp_path, *LENIENT, bad))
    text = Page((tmp_path / "report.html").read_text()).text
    assert "This run failed. RuntimeError: out of luck" in text
    assert "■ baseline" in text


class Failing(app.Callback):
    """Fails in the round after the dense one."""

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == 4:
            raise RuntimeError("out of luck")


def test_a_report_that_cannot_be_drawn_does_not_lose_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "report.html").mkdir()  # so that the page cannot take its place
    (tmp_path / "ledger.png").mkdir()
    with pytest.warns(UserWarning, match=r"could not be written .*the run itself is not affected") as told:
        app.run(config(tmp_path, *LENIENT))
    said = [str(warning.message).split(" could not")[0] for warning in told]
    assert {"report.html", "ledger.png"} <= set(said)
    assert RunFolder.open(tmp_path).status()["state"] == "finished"
    assert (tmp_path / "accepted.ckpt").is_file()
    assert (tmp_path / "test.json").is_file()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("ledger.jsonl", '{"round": 0', r"ledger\.jsonl, line 1: not JSON"),
        (
            "ledger.jsonl",
            '{"round": 0}\n',
            r"ledger\.jsonl, line 1: not a row of a ledger, it has no \['attempt'",
        ),
        ("guard.npz", "no archive", r"guard\.npz cannot be read"),
        ("test.json", "{", r"test\.json cannot be read"),
        ("layers.json", "", r"layers\.json cannot be read"),
        ("guard_pictures.npz", "", r"guard_pictures\.npz cannot be read"),
    ],
)
def test_a_broken_file_is_named_and_the_old_report_stays(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: str, message: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy, ignore=shutil.ignore_patterns("*.ckpt", "metrics"))
    (copy / name).write_text(content)
    before = (copy / "report.html").read_bytes()
    assert report_app.main([str(copy)]) == 1
    assert re.search(message, capsys.readouterr().err)
    assert (copy / "report.html").read_bytes() == before


def test_another_folder_is_no_run_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report_app.main([str(tmp_path)]) == 1
    assert "is not a run folder" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
