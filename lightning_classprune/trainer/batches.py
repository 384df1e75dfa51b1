"""Batches: which part of a user's batch is the network's input and which the target, in the forms that are common.

A pair is `(input, target)`. Names are read from mappings, dataclasses and named tuples; a longer tuple is read as
`(input, target, ...)` where its second part looks like a target. Whatever else is an error that shows the batch and a
`predict` to paste: what is guessed wrongly would be judged wrongly.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

#: Names of an input and of a target. One of each must be there, and no second one.
INPUTS = ("x", "image", "images", "img", "pixel_values", "input", "inputs")
TARGETS = ("y", "label", "labels", "target", "targets")


class Reading(NamedTuple):
    """How a batch is read.

    Attributes:
        input: Where the input is: a place in a tuple, a key, or the name of an attribute.
        target: Where the target is.
    """

    input: int | str
    target: int | str


class UnreadableBatchError(ValueError):
    """No common form of a batch."""


def reading(batch: Any) -> Reading:
    """Find input and target.

    Raises:
        UnreadableBatchError: They cannot be told; shows what is in the batch, and a `predict` to paste.
    """
    names = parts(batch)
    found = [[name for name in known if name in names] for known in (INPUTS, TARGETS)]
    if all(len(one) == 1 for one in found):
        return Reading(found[0][0], found[1][0])
    if isinstance(batch, tuple | list) and (
        len(batch) == 2 or (not names and len(batch) > 2 and _is_target(batch[1], batch[0]))
    ):
        return Reading(0, 1)
    raise UnreadableBatchError(_explained(batch, names))


def parts(batch: Any) -> dict[str, Any]:
    """What has a name in a batch: keys, fields of a dataclass or of a named tuple; empty where nothing has."""
    if isinstance(batch, Mapping):
        return {key: value for key, value in batch.items() if isinstance(key, str)}
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        return {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return dict(zip(batch._fields, batch, strict=True))
    return {}


def part(batch: Any, where: int | str) -> Any:
    """One part of a batch."""
    return parts(batch)[where] if isinstance(where, str) else batch[where]


def image_place(batch: Any) -> int | str:
    """Where the images of a batch are, whatever its targets: under a common name, first of two, or alone in their form.

    Images are a tensor `(n, channels, height, width)`, or a list of a tensor `(channels, height, width)` a sample.

    Raises:
        UnreadableBatchError: That cannot be told.
    """
    names = parts(batch)
    known = [name for name in INPUTS if name in names]
    if len(known) == 1:
        return known[0]
    if isinstance(batch, tuple | list) and len(batch) == 2 and not names:
        return 0
    places: list[Any] = list(names or (range(len(batch)) if isinstance(batch, tuple | list) else ()))
    alike = [place for place in places if _are_images(part(batch, place))]
    if len(alike) == 1:
        found: int | str = alike[0]
        return found
    shown = ", ".join(f"{place}: {_told(part(batch, place))}" for place in places) or _told(batch)
    raise UnreadableBatchError(
        f"which part of a batch is the images cannot be told; it is a {type(batch).__name__} with {shown}. Give pairs "
        f"(images, target), or name them one of {', '.join(INPUTS)}"
    )


def with_part(batch: Any, where: int | str, value: Any) -> Any:
    """A batch of the same kind with another value in one place; the batch itself stays as it is."""
    if isinstance(batch, tuple | list) and not isinstance(where, str):
        return type(batch)([*batch[:where], value, *batch[where + 1 :]])
    changed: Any
    if isinstance(batch, tuple):
        changed = batch
        return changed._replace(**{str(where): value})
    changed = copy.copy(batch)
    if isinstance(batch, Mapping):
        changed[where] = value
    else:
        object.__setattr__(changed, str(where), value)  # of a dataclass, frozen or not
    return changed


def _are_images(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and all(isinstance(one, Tensor) and one.ndim == 3 for one in value)
    return isinstance(value, Tensor) and value.ndim == 4


def described(found: Reading, batch: Any) -> str:
    """How a batch is read, in the words of a program."""
    return f"scores = module({_place(batch, found.input)}), target = {_place(batch, found.target)}"


def unlike(found: Reading, batch: Any, error: Exception) -> UnreadableBatchError:
    """What to say of a network that cannot be called with what was taken for its input."""
    shown = ", ".join(f"{name}: {_told(part(batch, name))}" for name in parts(batch) or range(len(batch)))
    given, target = _place(batch, found.input), _place(batch, found.target)
    if isinstance(batch, Mapping):
        given = f"{found.input}={given}"
    elif not isinstance(found.input, str):
        given, target = target, given
    return UnreadableBatchError(
        f"predict: batches were read as {described(found, batch)}, and that raised {type(error).__name__}: "
        f"{str(error).strip()[:300]}. A batch is a {type(batch).__name__} with {shown}; say how the network is called, "
        f"for example with predict=lambda module, batch: (module({given}), {target})"
    )


def _place(batch: Any, where: int | str) -> str:
    by_attribute = isinstance(where, str) and not isinstance(batch, Mapping)
    return f"batch.{where}" if by_attribute else f"batch[{where!r}]"


def _is_target(value: Any, given: Any) -> bool:
    """Whether it looks like classes or labels of the same samples: whole numbers, or as many zeros and ones."""
    if not (isinstance(value, Tensor) and isinstance(given, Tensor) and value.ndim in (1, 2) and given.ndim):
        return False
    if len(value) != len(given) or value.is_complex():
        return False
    return not value.is_floating_point() or (
        value.numel() == len(value) and bool(((value == 0) | (value == 1)).all())
    )


def _explained(batch: Any, names: dict[str, Any]) -> str:
    if names:
        shown = ", ".join(f"{name}: {_told(value)}" for name, value in names.items())
        places = [_place(batch, name) for name in names]
    elif isinstance(batch, tuple | list):
        shown = ", ".join(f"{i}: {_told(value)}" for i, value in enumerate(batch))
        places = [f"batch[{i}]" for i in range(len(batch))]
    else:
        shown, places = _told(batch), ["batch"]
    first, last = (places[0], places[-1]) if places else ("batch", "batch")
    return (
        f"predict: which part of a batch is the input and which the target cannot be told; it is a "
        f"{type(batch).__name__} with {shown or 'nothing in it'}. Say it, for example with "
        f"predict=lambda module, batch: (module({first}), {last})"
    )


def _told(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return type(value).__name__
