"""Protected classes: which they are, what they are called, and what each may lose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_classprune.guard.tolerance import FNTolerance
from lightning_classprune.trainer.arguments import is_whole


@dataclass(frozen=True)
class Protected:
    """One protected class.

    Attributes:
        index: Of the class, or of the label in a multi-label task.
        name: As in the ledger and in logs.
        tolerance: How far its false negatives may rise over the dense network's.
    """

    index: int
    name: str
    tolerance: FNTolerance

    def saved(self) -> dict[str, Any]:
        """Primitives, for saving and comparing."""
        return {"index": self.index, "name": self.name, "tolerance": self.tolerance.to_dict()}


def read_protected(
    protect: Mapping[int | str, float | FNTolerance], names: Sequence[str], confidence: float | None
) -> tuple[Protected, ...]:
    """The protected classes that a user names, in the order given.

    Args:
        protect: Class index, or name -> tolerance.
        names: Of all classes.
        confidence: Of the guard.

    Raises:
        ValueError: A class is unknown or given twice, or a tolerance is out of range; names the key.
    """
    if not isinstance(protect, Mapping) or not protect:
        raise ValueError(
            f"protect={protect!r} must map at least one class to its tolerance, for example {{1: 0.05}}"
        )
    read: dict[int, Protected] = {}
    for key, value in protect.items():
        if isinstance(key, str):
            # YAML and command lines turn indices into strings.
            index = names.index(key) if key in names else int(key) if key.isdecimal() else -1
        else:
            index = int(key) if is_whole(key) else -1
        if not 0 <= index < len(names):
            named = (
                f" or {', '.join(map(repr, names))}"
                if names[0] != "0"
                else ", or names with class_names=[...]"
            )
            raise ValueError(f"protect: unknown class {key!r}; allowed are 0 to {len(names) - 1}{named}")
        if index in read:
            raise ValueError(f"protect: class {names[index]!r} is given twice")
        try:
            tolerance = FNTolerance.of(value)
            tolerance.check_confidence(confidence)
        except ValueError as error:
            raise ValueError(f"protect[{key!r}]: {error}") from error
        read[index] = Protected(index, names[index], tolerance)
    return tuple(read.values())
