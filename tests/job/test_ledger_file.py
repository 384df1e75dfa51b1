"""The ledger's file follows the ledger: written when a row is new."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch import Trainer

from lightning_classprune.job.ledger_file import LedgerFile
from lightning_classprune.job.run_folder import RunFolder

TRAINER = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)


def test_it_is_written_when_there_is_something_new(tmp_path: Path) -> None:
    pruning: Any = SimpleNamespace(ledger=[])
    folder = RunFolder(tmp_path)
    file = LedgerFile(folder, pruning)
    file.on_train_epoch_start(TRAINER, None)
    assert folder.ledger() == []
    pruning.ledger.append({"round": 0})
    file.on_train_epoch_start(TRAINER, None)
    assert folder.ledger() == [{"round": 0}]
    folder.ledger_file.unlink()
    file.on_train_epoch_start(TRAINER, None)
    assert not folder.ledger_file.exists()


def test_a_verdict_on_a_row_that_was_there_is_something_new(tmp_path: Path) -> None:
    """A judgement at the end of a run: the candidates that were kept are accepted, or not."""
    pruning: Any = SimpleNamespace(
        ledger=[{"round": 0, "verdict": "baseline"}, {"round": 1, "verdict": "kept"}]
    )
    folder = RunFolder(tmp_path)
    file = LedgerFile(folder, pruning)
    file.on_train_epoch_start(TRAINER, None)
    pruning.ledger[1] = {"round": 1, "verdict": "accepted"}
    file.on_train_end(TRAINER, None)
    assert [row["verdict"] for row in folder.ledger()] == ["baseline", "accepted"]


@pytest.mark.parametrize("event", ["on_train_end", "on_exception"])
def test_what_was_judged_last_is_kept(event: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    file = LedgerFile(folder, SimpleNamespace(ledger=[{"round": 0}]))  # type: ignore[arg-type]
    arguments = [None, ValueError()] if event == "on_exception" else [None]
    getattr(file, event)(TRAINER, *arguments)
    assert folder.ledger() == [{"round": 0}]
