"""What is told of an error that ends a job: one line where it says itself what to do, else its traceback."""

from __future__ import annotations

import re
from pathlib import Path

from hydra.errors import InstantiationException
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from lightning_classprune.job.configuration import PACKAGE


def one_line(error: BaseException) -> str | None:
    """An error of ours, or one of a wrong setting, in one line; None for any other, which needs its traceback."""
    where = ""
    if isinstance(error, InstantiationException) and error.__cause__ is not None:
        key = re.search(r"full_key: (\S+)", str(error))
        where, error = f"{key[1]}: " if key else "", error.__cause__
    if isinstance(error, MissingMandatoryValue):
        return f"{where}{error.full_key} has no value; give {error.full_key}=..."
    known = isinstance(error, MisconfigurationException | OmegaConfBaseException) or (
        isinstance(error, ValueError | TypeError | OSError | ImportError) and _is_ours(error)
    )
    return f"{where}{' '.join(str(error).split())}" if known and str(error) else None


def _is_ours(error: BaseException) -> bool:
    """Whether our own code raised it: what is below us fails for reasons that we do not know."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return place is not None and PACKAGE in Path(place.tb_frame.f_code.co_filename).resolve().parents
