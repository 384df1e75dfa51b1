"""Identity: what can be said of a user's function or object in primitives, so that two runs can be compared.

A function is told by its import path, its closure and its defaults; one that cannot be imported (a lambda, a local
function) by its code as well; an object by the path of its class and its state (`state_dict`, else its attributes).
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from enum import Enum
from math import isnan
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

#: Marks what nothing can be said of.
OPAQUE = "cannot be compared"

_DEEPEST = 8  # what lies deeper in an object belongs to something else
_LISTED = 100  # more than these are told by their hash


def identity(value: Any) -> Any:
    """Lists, dicts and primitives that are equal for two values if they are the same, as far as can be told.

    Tensors and arrays are told by their hash, modules (whose weights a checkpoint has) by their class. Where nothing
    can be told the text `OPAQUE` stands.
    """
    return _identity(value, ())


def is_opaque(told: Any) -> bool:
    """Whether something in an identity could not be told."""
    if isinstance(told, Mapping):
        return any(OPAQUE in key or is_opaque(one) for key, one in told.items())
    if isinstance(told, list):
        return any(is_opaque(one) for one in told)
    return isinstance(told, str) and told.startswith(OPAQUE)


def _identity(value: Any, within: tuple[int, ...]) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, bytes):
        return _hash(value)
    if isinstance(value, Enum | ModuleType | torch.dtype | torch.device):
        return str(value)
    if isinstance(value, float) and isnan(value):
        return "nan"  # which equals itself
    for plain in (int, float, str):
        if isinstance(value, plain):
            return plain(value)  # not of NumPy, which a safe load would refuse
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Tensor):
        return _of_array(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy(), value)
    if isinstance(value, np.ndarray | np.generic):
        return _of_array(np.ascontiguousarray(value), value)
    if id(value) in within or len(within) == _DEEPEST:
        return _path(type(value))
    within = (*within, id(value))
    if isinstance(value, Mapping):
        return {_key(key, within): _identity(one, within) for key, one in value.items()}
    if isinstance(value, list | tuple):
        told = [_identity(one, within) for one in value]
        return told if len(told) <= _LISTED else f"{len(told)} values {_hash(repr(told).encode())}"
    if isinstance(value, set | frozenset):
        return sorted((_identity(one, within) for one in value), key=repr)
    if isinstance(value, type | BuiltinFunctionType):
        return _path(value)
    if isinstance(value, FunctionType):
        return _of_function(value, within)
    if isinstance(value, MethodType):
        return {"method": value.__func__.__qualname__, "of": _identity(value.__self__, within)}
    if isinstance(value, functools.partial):
        return {"partial": _identity([value.func, value.args, value.keywords], within)}
    return _of_object(value, within)


def _key(key: Any, within: tuple[int, ...]) -> str:
    """A function for a key is told as elsewhere, not by its place in memory."""
    return repr(_identity(key, within)) if callable(key) else str(key)


def _of_function(function: FunctionType, within: tuple[int, ...]) -> Any:
    told: dict[str, Any] = {"function": _path(function)}
    for name, values in (
        ("closure", _closure(function)),
        ("defaults", function.__defaults__),
        ("keywords", function.__kwdefaults__),
    ):
        if values:
            told[name] = _identity(values, within)
    if "<" in function.__qualname__:
        told["code"] = _hash(repr(_of_code(function.__code__)).encode())
    return told


def _closure(function: FunctionType) -> dict[str, Any]:
    """What a function has of the one around it, as far as that has a value already."""
    found: dict[str, Any] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):
            found[name] = cell.cell_contents
    return found


def _of_code(code: CodeType) -> tuple[Any, ...]:
    return code.co_code, _of_constant(code.co_consts), code.co_names, code.co_varnames


def _of_constant(constant: Any) -> Any:
    if isinstance(constant, CodeType):
        return _of_code(constant)
    if isinstance(constant, tuple):
        return tuple(map(_of_constant, constant))
    if isinstance(constant, frozenset):
        return sorted(map(repr, constant))  # whose order is another in every process
    return constant


def _of_object(value: Any, within: tuple[int, ...]) -> Any:
    path = _path(type(value))
    if isinstance(value, nn.Module):
        return path
    if callable(getattr(value, "state_dict", None)):
        return {"object": path, "state": _identity(value.state_dict(), within)}
    if hasattr(value, "__dict__"):
        return {"object": path, "state": _identity(vars(value), within)} if vars(value) else path
    return f"{OPAQUE}: {path}"


def _of_array(content: np.ndarray[Any, Any], value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)} {_hash(content.tobytes())}"


def _path(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def _hash(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
