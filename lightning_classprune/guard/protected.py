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
        max_fp_rise: How far its false-alarm rate among the other cases may rise, in [0, 1]; None: not guarded.
    """

    index: int
    name: str
    tolerance: FNTolerance
    max_fp_rise: float | None = None

    def rise_among(self, cases: int, missed: int, positives: int) -> float:
        """Allowed rise of the FN rate, in [0, 1], among `positives` cases, of which the dense network misses as
        large a share as it missed of others.

        Args:
            cases: Others that it was tried on.
            missed: Of them, missed.
            positives: Where the rise will be judged: a tolerance in counts is one of these.
        """
        return self.tolerance.rise(max(positives, 1), round(missed / max(cases, 1) * positives))

    def saved(self) -> dict[str, Any]:
        """Primitives, for saving and comparing."""
        return {
            "index": self.index,
            "name": self.name,
            "tolerance": self.tolerance.to_dict(),
            "max_fp_rise": self.max_fp_rise,
        }


def read_protected(
    protect: Mapping[int | str, float | FNTolerance],
    names: Sequence[str],
    confidence: float | None,
    max_fp_rise: float | Mapping[int | str, float | None] | None,
) -> tuple[Protected, ...]:
    """The protected classes that a user names, in the order given.

    Args:
        protect: Class index, or name -> tolerance.
        names: Of all classes.
        confidence: Of the guard.
        max_fp_rise: Of all of them, or by class as in `protect`.

    Raises:
        ValueError: A class is unknown or given twice, or a tolerance is out of range; names the key.
    """
    if not isinstance(protect, Mapping) or not protect:
        raise ValueError(
            f"protect={protect!r} must map at least one class to its tolerance, for example {{1: 0.05}}"
        )
    tolerances = by_class("protect", protect, names)
    if not isinstance(max_fp_rise, Mapping):
        rises: dict[int, float | None] = dict.fromkeys(tolerances, max_fp_rise)
    else:
        rises = by_class("Guard.max_fp_rise", max_fp_rise, names)
        if rises.keys() != tolerances.keys():
            raise ValueError(
                f"Guard.max_fp_rise={max_fp_rise!r} must name the protected classes, {sorted(map(str, protect))}; None "
                "for one whose false alarms are not guarded"
            )
    read: dict[int, Protected] = {}
    for (index, value), key in zip(tolerances.items(), protect, strict=True):
        try:
            tolerance = FNTolerance.of(value)
            tolerance.check_confidence(confidence)
        except ValueError as error:
            raise ValueError(f"protect[{key!r}]: {error}") from error
        read[index] = Protected(index, names[index], tolerance, rises[index])
    return tuple(read.values())


def by_class(argument: str, given: Mapping[int | str, Any], names: Sequence[str]) -> dict[int, Any]:
    """What a mapping says of classes, by index.

    Args:
        argument: Its name, for errors.
        given: Class index, or name -> anything.
        names: Of all classes.

    Raises:
        ValueError: A class is unknown or given twice.
    """
    read: dict[int, Any] = {}
    for key, value in given.items():
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
            raise ValueError(f"{argument}: unknown class {key!r}; allowed are 0 to {len(names) - 1}{named}")
        if index in read:
            raise ValueError(f"{argument}: class {names[index]!r} is given twice; name it once")
        read[index] = value
    return read
