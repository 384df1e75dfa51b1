"""The ending of a job: both networks are looked at on both splits, and a picture is not worth a network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lightning_classprune.job import app
from lightning_classprune.job.ending import harmless
from lightning_classprune.job.run_folder import RunFolder
from tests.support.app_job import LENIENT, config


def test_guard_and_test_are_looked_at_alike_and_loggers_see_one_test(tmp_path: Path) -> None:
    app.run(config(tmp_path, *LENIENT))
    folder = RunFolder.open(tmp_path)
    both, decided = folder.scores(), folder.guard()
    assert {split: set(networks) for split, networks in both.items()} == {
        split: {"dense", "delivered"} for split in ("guard", "test")
    }
    for network, answers in both["guard"].items():
        assert answers.decisions.same_decisions(decided[network])
    metrics = (tmp_path / "metrics" / "version_0" / "metrics.csv").read_text().splitlines()
    column = metrics[0].split(",").index("test_accuracy")
    logged = [line.split(",")[column] for line in metrics[1:] if line.split(",")[column]]
    accuracy = json.loads((tmp_path / "test.json").read_text())["accuracy"]
    assert [float(value) for value in logged] == [pytest.approx(accuracy)]


def test_a_job_that_prunes_nothing_does_not_look_at_its_guard(tmp_path: Path) -> None:
    app.run(config(tmp_path, *LENIENT, "~callbacks.classprune"))
    scores = RunFolder(tmp_path).scores()
    assert {split: list(networks) for split, networks in scores.items()} == {"test": ["delivered"]}


def test_what_only_illustrates_a_run_may_fail() -> None:
    with pytest.warns(UserWarning, match=r"a\.png could not be written \(OSError: full\)"), harmless("a.png"):
        raise OSError("full")
