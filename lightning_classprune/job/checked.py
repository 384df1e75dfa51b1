"""Whether what was read from a file has the types that it should have."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Any, Literal, TypedDict, Union, get_args, get_origin, get_type_hints, is_typeddict

#: Whole numbers are counts of things, and every one up to here is a float too.
LARGEST = 2**53


class Status(TypedDict):
    """How a job stands, as `status.json` says it."""

    state: Literal["running", "interrupted", "finished", "failed"]
    error: str | None
    objective: float | list[float] | None


def check(value: Any, kind: Any, where: str) -> None:
    """Compare a value of JSON with a type; of a `TypedDict`, the keys that are there.

    Args:
        value: As it was read.
        kind: A plain type, `Any`, `Literal`, `dict`, `list`, a union of these, or a `TypedDict`.
        where: What the message calls it.

    Raises:
        ValueError: It is of another type; names where.
    """
    origin, parts = get_origin(kind), get_args(kind)
    if kind is Any or (kind in (None, NoneType) and value is None):
        return
    if origin in (Union, UnionType):
        if any(_is(value, part, where) for part in parts):
            return
    elif origin is Literal:
        if any(value == one and type(value) is type(one) for one in parts):
            return
    elif is_typeddict(kind) and isinstance(value, dict):
        for key, inner in get_type_hints(kind).items():
            if key in value:
                check(value[key], inner, f"{where}.{key}")
        return
    elif origin is dict and isinstance(value, dict):
        for key, one in value.items():
            check(one, parts[1], f"{where}.{key}")
        return
    elif origin is list and isinstance(value, list):
        for number, one in enumerate(value):
            check(one, parts[0], f"{where}[{number}]")
        return
    elif kind in (int, float) and isinstance(value, int | kind) and not isinstance(value, bool):
        if isinstance(value, float) or abs(value) <= LARGEST:
            return
    elif kind in (str, bool) and isinstance(value, kind):
        return
    raise ValueError(f"{where} is {str(value)[:60]!r}, which cannot be")


def _is(value: Any, kind: Any, where: str) -> bool:
    try:
        check(value, kind, where)
    except ValueError:
        return False
    return True
