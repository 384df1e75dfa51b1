"""Protected classes: which they are, what they are called, and what each may lose."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_classprune.guard.tolerance import FNTolerance
from lightning_classprune.trainer.arguments import is_whole

_LONGEST = 200  # characters of a name
#: Unicode's categories of control characters, lone surrogates, and the ends of lines and paragraphs.
_NOT_TEXT = ("Cc", "Cs", "Zl", "Zp")
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


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
        index = _index(argument, key, names)
        if index in read:
            raise ValueError(f"{argument}: class {names[index]!r} is given twice; name it once")
        read[index] = value
    return read


def _index(argument: str, key: Any, names: Sequence[str]) -> int:
    """The class that a key means: by its name, or by its index where no other class has that for a name."""
    meant = [place for place, name in enumerate(names) if _is_name(key, name)]
    if isinstance(key, str):
        # Command lines turn indices into strings.
        index = meant[0] if meant else int(key) if key.isdecimal() and len(key) < 10 else -1
    elif is_whole(key):
        index = meant[0] if meant and not 0 <= key < len(names) else int(key)
        if 0 <= index < len(names) and any(place != index for place in meant):
            raise ValueError(
                f"{argument}: {key!r} is the index of class {names[index]!r} and the name of another; write the name "
                f"as text, {str(key)!r} or {names[index]!r} (on the command line {argument}.{key}=... is the name)"
            )
    else:
        index = meant[0] if len(meant) == 1 else -1
    if not 0 <= index < len(names):
        named = (
            f" or {', '.join(map(repr, names))}" if names[0] != "0" else ", or names with class_names=[...]"
        )
        quoted = "; YAML reads yes, no, on, off, true and false as such: quote a name" * isinstance(key, bool)
        raise ValueError(
            f"{argument}: unknown class {key!r}; allowed are 0 to {len(names) - 1}{named}{quoted}"
        )
    return index


def _is_name(key: Any, name: str) -> bool:
    """Whether a key is that name, or what YAML and command lines make of it without quotes."""
    if isinstance(key, str):
        return key == name
    if isinstance(key, bool):
        return name.casefold() in (("yes", "on", "true") if key else ("no", "off", "false"))
    if is_whole(key):
        return name == str(key)
    try:
        # YAML reads 1e5, inf and .5 as numbers, and 7 as an index.
        return isinstance(key, float) and not name.isdecimal() and repr(float(name)) == repr(key)
    except ValueError:
        return False


def check_names(argument: str, names: Sequence[str]) -> None:
    """Refuse class names that no table, log or command line can hold.

    Raises:
        ValueError: One is no text, empty, longer than 200 characters or holds control characters; or one stands twice.
    """
    for place, name in enumerate(names):
        shown = f"{argument}[{place}]={name!r}" if len(str(name)) <= _LONGEST else f"{argument}[{place}]"
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"{shown} must be a name, as text")
        if len(name) > _LONGEST:
            raise ValueError(f"{shown} has {len(name)} characters; must have at most {_LONGEST}")
        if any(unicodedata.category(letter) in _NOT_TEXT or letter in _TURNING for letter in name):
            raise ValueError(
                f"{shown} holds a line break, a control character or what turns the direction of text; rename the class"
            )
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(
            f"{argument}: the name {twice!r} stands there twice; must be different names, one a class"
        )
