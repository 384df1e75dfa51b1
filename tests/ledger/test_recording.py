"""Recording in a real fit: one row, one message and one set of numbers for each attempt."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from lightning.pytorch.loggers import CSVLogger

from lightning_classprune.guard.classification import ClassesOrLabels
from lightning_classprune.guard.error_budget import ErrorBudget
from lightning_classprune.guard.evaluator import Evaluator
from lightning_classprune.guard.judge import Judge
from lightning_classprune.guard.protected import read_protected
from lightning_classprune.ledger.recording import Recorder
from lightning_classprune.ledger.rows import abandoned_row, baseline_row, verdict_row
from lightning_classprune.trainer.forward import default_predict
from lightning_classprune.trainer.processes import Processes
from tests.ledger.test_rows import CANDIDATE, DENSE, FACTS, NAMES
from tests.support.inside import inside_fit
from tests.support.witness import log_messages

pytestmark = pytest.mark.fit


def judge(rank: int = 0) -> Judge:
    evaluator = Evaluator(ClassesOrLabels(NAMES, [1], 0.0), default_predict, Processes(rank))
    made = Judge(evaluator, read_protected({"b": 0.5}, NAMES, None, None), ErrorBudget(None, 1, 5))
    made.take_dense(DENSE, rehearsal=False)
    return made


def recorded(trainer: pl.Trainer, judging: Judge) -> tuple[Recorder, Any]:
    recorder = Recorder(trainer)
    recorder.judged(FACTS | {"round": 0, "sparsity": 0.0}, DENSE, None, judging, "so it is", {}, {})
    verdict = judging.verdict(CANDIDATE)
    recorder.judged(FACTS, CANDIDATE, verdict, judging, "not told of a candidate", {"b": 0.5}, {"b": 0.9})
    recorder.abandoned(FACTS | {"attempt": 2}, "hopeless", judging)
    return recorder, verdict


def test_every_attempt_is_a_row_and_a_message() -> None:
    def action(trainer: pl.Trainer, module: pl.LightningModule) -> tuple[Recorder, Any]:
        return recorded(trainer, judge())

    with log_messages() as messages:
        recorder, verdict = inside_fit(action)
    assert recorder.rows == [
        baseline_row(FACTS | {"round": 0, "sparsity": 0.0}, DENSE, ["b"], "so it is"),
        verdict_row(FACTS, CANDIDATE, DENSE, verdict, {"b": 0.5}, {"b": 0.9}),
        abandoned_row(FACTS | {"attempt": 2}, "hopeless"),
    ]
    said = [message for message in messages if message.startswith("round ")]
    assert said == [
        "round 0: sparsity 0.00%, baseline: so it is",
        f"round 2: sparsity 50.00%, accepted: {verdict.reason}",
        "round 2: sparsity 50.00%, abandoned: hopeless; no guard test was made",
    ]


def logged(folder: Path, rank: int) -> list[dict[str, str]]:
    def action(trainer: pl.Trainer, module: pl.LightningModule) -> None:
        recorded(trainer, judge(rank))

    inside_fit(action, hook="on_train_end", logger=CSVLogger(folder))
    (path,) = folder.rglob("metrics.csv")
    with path.open() as file:
        return [row for row in csv.DictReader(file) if row.get("classprune/round")]


def test_numbers_go_to_the_loggers_at_the_last_step_that_was_taken(tmp_path: Path) -> None:
    rows = logged(tmp_path, rank=0)
    assert [row["step"] for row in rows] == ["5"] * 3
    assert [float(row["classprune/sparsity"]) for row in rows] == [0.0, 0.5, 0.5]
    assert [float(row["classprune/tests_left"]) for row in rows] == [5, 4, 4]


def test_only_the_first_process_logs(tmp_path: Path) -> None:
    assert logged(tmp_path, rank=1) == []


def test_rows_come_back_as_copies() -> None:
    recorder = inside_fit(lambda trainer, module: recorded(trainer, judge())[0])
    saved = recorder.state_dict()
    other = Recorder(None)
    other.load_state_dict(saved)
    assert other.rows == recorder.rows
    saved[0]["reason"] = recorder.rows[1]["reason"] = "changed"
    assert other.rows[0]["reason"] == "so it is"
    assert other.rows[1]["reason"] != "changed"
