"""The ledger's file in the run folder: up to date after every verdict, so that a killed job leaves what was judged."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback

from lightning_classprune.callback import ClassAwarePruningCallback
from lightning_classprune.job.ending import harmless
from lightning_classprune.job.run_folder import RunFolder
from lightning_classprune.ledger.rows import Row
from lightning_classprune.ledger.text import write_jsonl


class LedgerFile(Callback):
    """Keeps `ledger.jsonl` up to date while the job runs."""

    def __init__(self, folder: RunFolder, pruning: ClassAwarePruningCallback) -> None:
        self._folder = folder
        self._pruning = pruning
        self._written: list[Row] | None = None

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """A verdict was given at the end of the epoch before."""
        self._write(trainer)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """The last verdict."""
        self._write(trainer)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Keep what was judged before it; what it is about is told, whether this can be written or not."""
        with harmless(self._folder.ledger_file.name):
            self._write(trainer)

    def _write(self, trainer: Any) -> None:
        rows = list(self._pruning.ledger)
        # A verdict at the end of the run takes the place of a row that was there.
        if trainer.is_global_zero and rows != self._written:
            write_jsonl(rows, self._folder.ledger_file)
            self._written = rows
