"""Monitor: the metric by which the user's own callbacks call an epoch the best."""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException

from lightning_classprune.trainer.versions import of_type


@dataclass(frozen=True)
class Monitor:
    """A metric and its direction.

    Attributes:
        name: As it is logged.
        mode: `"min"` or `"max"`.
    """

    name: str
    mode: str

    def is_better(self, score: float, than: float | None) -> bool:
        """Whether a score is strictly better than the best so far; NaN never is."""
        if isnan(score) or than is None:
            return not isnan(score)
        return score < than if self.mode == "min" else score > than

    def score(self, trainer: Any) -> float | None:
        """The metric's present value; None if it was not logged."""
        value = trainer.callback_metrics.get(self.name)
        return None if value is None else float(value)


def find_monitor(trainer: Any, argument: str) -> Monitor:
    """The monitor of the trainer's ModelCheckpoints, or, where none has one, of its EarlyStoppings.

    Args:
        trainer: In `setup`.
        argument: That asks for it.

    Raises:
        MisconfigurationException: There is none, or there are several.
    """
    found: set[Monitor] = set()
    for kind in ("ModelCheckpoint", "EarlyStopping"):
        found = found or {Monitor(c.monitor, c.mode) for c in of_type(trainer, kind) if c.monitor}
    if not found:
        raise MisconfigurationException(
            f"{argument} takes the epoch that your own monitor calls best, and no callback has one; add "
            "ModelCheckpoint(monitor=..., mode=...) to the Trainer"
        )
    if len(found) > 1:
        told = ", ".join(sorted(f"{one.name} ({one.mode})" for one in found))
        raise MisconfigurationException(
            f"{argument} takes the epoch that your own monitor calls best, and there are several: {told}; let all "
            "ModelCheckpoints that monitor something monitor the same"
        )
    return found.pop()
