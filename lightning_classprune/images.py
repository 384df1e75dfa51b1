"""Images: the picture of the ledger, for loggers that take pictures."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from lightning_classprune import report
from lightning_classprune.ledger import Row

KEY = "classprune/ledger"


def log_figure(loggers: Sequence[Any], rows: Sequence[Row], step: int) -> None:
    """Give the picture of the ledger to every logger that takes pictures; not drawn where none does.

    Those are loggers with `log_image` (as WandbLogger's) or `experiment.add_image` (as TensorBoardLogger's).

    Args:
        loggers: The trainer's.
        rows: The ledger so far, at least one row.
        step: Of the logger's axis.
    """
    by_image = [logger for logger in loggers if hasattr(logger, "log_image")]
    by_experiment = [
        logger for logger in loggers if logger not in by_image and hasattr(logger.experiment, "add_image")
    ]
    if not by_image and not by_experiment:
        return
    image = _rendered(rows)
    for logger in by_image:
        logger.log_image(key=KEY, images=[image], step=step)
    for logger in by_experiment:
        # Not `add_figure`: it imports pyplot, which chooses a backend for the whole process.
        logger.experiment.add_image(KEY, np.asarray(image), step, dataformats="HWC")


def _rendered(rows: Sequence[Row]) -> Image.Image:
    with BytesIO() as file:
        report.figure(rows).savefig(file, format="png")
        return Image.open(BytesIO(file.getvalue())).convert("RGB")
