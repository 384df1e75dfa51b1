"""The evaluator: how the cases of a data set are decided, whoever asks.

It holds nothing that was decided: the search has it and can ask of validation data what it likes, and cannot come to
an outcome of the guard's, on which the guard's error level rests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException

from lightning_classprune.guard.data import GuardData
from lightning_classprune.guard.evaluation import evaluate
from lightning_classprune.guard.task import Columns, NaNScoresError, Outcomes, Task
from lightning_classprune.trainer.forward import Predict
from lightning_classprune.trainer.processes import Processes


@dataclass(frozen=True)
class Evaluator:
    """Decides the cases of a data set.

    Attributes:
        task: What a decision is.
        predict: `(pl_module, batch) -> (scores, target)`.
        processes: The processes that share the work.
    """

    task: Task
    predict: Predict
    processes: Processes

    def columns(self, trainer: Any, module: Any, data: GuardData, limit: int | None = None) -> Columns | None:
        """The task's columns of the data, the same on all ranks; None if the scores are NaN after training.

        Args:
            trainer: The running trainer.
            module: The network.
            data: This process' share of the data.
            limit: Look at this many batches only.

        Raises:
            MisconfigurationException: `predict` or the data are at fault.
        """
        try:
            return evaluate(trainer, module, data, self.predict, self.task, self.processes, limit)
        except NaNScoresError as error:
            if trainer.global_step == 0:
                raise MisconfigurationException(str(error)) from error
            return None
        except ValueError as error:
            raise MisconfigurationException(str(error)) from error

    def outcomes(
        self,
        trainer: Any,
        module: Any,
        data: GuardData,
        offsets: Mapping[str, float],
        limit: int | None = None,
    ) -> Outcomes | None:
        """What is decided with these offsets; as `columns` otherwise."""
        columns = self.columns(trainer, module, data, limit)
        return None if columns is None else self.task.outcomes(columns, offsets)
