"""Weight averaging, which Lightning has from 2.6 on: a test that makes one is skipped with an older one."""

from __future__ import annotations

import importlib
from typing import Any

import pytest


def averaging_of(package: str, name: str) -> Any:
    """A class of a package's callbacks, or one that skips the test that makes one."""
    return getattr(importlib.import_module(f"{package}.callbacks"), name, _Missing)


class _Missing:
    def __init__(self, **_: Any) -> None:
        pytest.skip("this Lightning has no WeightAveraging")


WeightAveraging = averaging_of("lightning.pytorch", "WeightAveraging")
EMAWeightAveraging = averaging_of("lightning.pytorch", "EMAWeightAveraging")
