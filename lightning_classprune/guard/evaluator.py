"""The evaluator: how the cases of a data set are decided, whoever asks.

It holds nothing that was decided: the search has it and can ask of validation data what it likes, and cannot come to
an outcome of the guard's, on which the guard's error level rests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException

from lightning_classprune.guard.conditions import Condition, Looks, Throughout
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
        conditions: Under which cases are decided besides as they come.
    """

    task: Task
    predict: Predict
    processes: Processes
    conditions: tuple[Condition, ...] = ()

    def columns(
        self,
        trainer: Any,
        module: Any,
        data: GuardData,
        limit: int | None = None,
        under: Condition | None = None,
    ) -> Columns | None:
        """The task's columns of the data, the same on all ranks; None if the scores are NaN after training.

        Args:
            trainer: The running trainer.
            module: The network.
            data: This process' share of the data.
            limit: Look at this many batches only.
            under: A condition; None: the cases as they come.

        Raises:
            MisconfigurationException: `predict` or the data are at fault.
        """
        try:
            change = None if under is None else under.change
            return evaluate(trainer, module, data, self.predict, self.task, self.processes, limit, change)
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
        looks = self.looks(trainer, module, data, limit)
        return None if looks is None else self.decide(looks, offsets)

    def looks(self, trainer: Any, module: Any, data: GuardData, limit: int | None = None) -> Looks | None:
        """The columns of the cases as they come and under every condition; as `columns` otherwise."""
        plain = self.columns(trainer, module, data, limit)
        if plain is None:
            return None
        under: dict[str, Columns] = {}
        for condition in self.conditions:
            columns = self.columns(trainer, module, data, limit, condition)
            if columns is None:
                return None
            under[condition.name] = columns
        return Looks(plain, under)

    def decide(self, looks: Looks, offsets: Mapping[str, float]) -> Outcomes:
        """What is decided with these offsets, of `looks`."""
        plain = self.task.outcomes(looks.plain, offsets)
        if not self.conditions:
            return plain
        return Throughout(
            plain, {name: self.task.outcomes(one, offsets) for name, one in looks.under.items()}
        )
