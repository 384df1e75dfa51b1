"""What an older Lightning lacks: tests that need it are skipped there."""

from __future__ import annotations

import importlib
import inspect
from importlib.metadata import version
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

#: Whether a checkpoint from inside an epoch, or from the end of a validation, is gone on with by Lightning as it was.
RESUMES_INSIDE_EPOCHS = not lightning.__version__.startswith("2.4.")
needs_resuming_inside_epochs = pytest.mark.skipif(
    not RESUMES_INSIDE_EPOCHS, reason="Lightning 2.4 steps schedulers again"
)

#: Newer ones nest what they show live, and the bar of 2.4 takes away what is not there, also without this package.
needs_rich_bar = pytest.mark.skipif(
    not RESUMES_INSIDE_EPOCHS and tuple(map(int, version("rich").split(".")[:2])) >= (14, 1),
    reason="the Rich bar of Lightning 2.4 needs rich older than 14.1",
)

needs_onnx_exporter = pytest.mark.skipif(
    "dynamic_shapes" not in inspect.signature(torch.onnx.export).parameters,
    reason="the exporter of torch 2.4 leaves no batch size free",
)

#: Of `ModelCheckpoint`.
needs_saving_on_exceptions = pytest.mark.skipif(
    "save_on_exception" not in inspect.signature(ModelCheckpoint).parameters,
    reason="Lightning saves on exceptions by itself from 2.6 on",
)


def averaging_of(package: str, name: str) -> Any:
    """A class of a package's callbacks, or one that skips the test that makes one."""
    return getattr(importlib.import_module(f"{package}.callbacks"), name, _Missing)


class _Missing:
    def __init__(self, **_: Any) -> None:
        pytest.skip("Lightning has weight averaging from 2.6 on")


WeightAveraging = averaging_of("lightning.pytorch", "WeightAveraging")
EMAWeightAveraging = averaging_of("lightning.pytorch", "EMAWeightAveraging")
