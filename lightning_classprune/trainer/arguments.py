"""Arguments: checks of values that users give. Each error names the argument, the value and what is allowed."""

from __future__ import annotations

from collections.abc import Collection
from numbers import Integral, Real


def is_number(value: object) -> bool:
    """Whether it is a real number; a bool is an integer to Python, but nobody's number."""
    return isinstance(value, Real) and not isinstance(value, bool)


def is_whole(value: object) -> bool:
    """Whether it is a whole number, of Python or NumPy."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def share(name: str, value: float, otherwise: str = "") -> float:
    """A number strictly between 0 and 1.

    Args:
        name: Of the argument.
        value: What was given.
        otherwise: What else is allowed, in words.

    Raises:
        ValueError: It is something else.
    """
    if not is_number(value) or not 0 < value < 1:
        raise ValueError(
            f"{name}={value!r} is out of range: a number strictly between 0 and 1 {otherwise}".rstrip()
        )
    return float(value)


def whole(name: str, value: int, least: int) -> int:
    """A whole number of at least `least`.

    Raises:
        ValueError: It is something else.
    """
    if not is_whole(value) or value < least:
        raise ValueError(f"{name}={value!r} is out of range: a whole number of at least {least}")
    return int(value)


def whole_or_none(name: str, value: int | None, least: int) -> int | None:
    """As `whole`, or None."""
    return None if value is None else whole(name, value, least)


def one_of(name: str, value: object, allowed: Collection[object]) -> None:
    """Refuse what is not allowed.

    Raises:
        ValueError: It is something else.
    """
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name}={value!r} is unknown: {' or '.join(map(repr, allowed))}")
