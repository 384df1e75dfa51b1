"""Images: the picture of the ledger, for loggers that take pictures."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from lightning_classprune.ledger.figure import figure
from lightning_classprune.ledger.rows import Row

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
    image = Image.open(BytesIO(figure(rows)._repr_png_())).convert("RGB")
    for logger in by_image:
        logger.log_image(key=KEY, images=[image], step=step)
    for logger in by_experiment:
        # Not `add_figure`: that would draw it again, and through pyplot.
        logger.experiment.add_image(KEY, np.asarray(image), step, dataformats="HWC")
