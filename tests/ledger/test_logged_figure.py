"""The picture of the ledger goes to loggers that take pictures, drawn once, and to no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_classprune.ledger import logged_figure
from lightning_classprune.ledger.logged_figure import KEY, log_figure
from tests.ledger.test_figure import ROWS


class ImageLogger:
    """Takes pictures as WandbLogger does."""

    def __init__(self) -> None:
        self.taken: list[Any] = []

    def log_image(self, key: str, images: list[Any], step: int) -> None:
        self.taken.append((key, images, step))


class Experiment:
    def __init__(self) -> None:
        self.taken: list[Any] = []

    def add_image(self, tag: str, image: Any, step: int, dataformats: str) -> None:
        self.taken.append((tag, image, step, dataformats))


class WithExperiment:
    """Takes pictures as TensorBoardLogger does."""

    def __init__(self) -> None:
        self.experiment = Experiment()


def test_both_kinds_of_logger_get_the_same_picture() -> None:
    by_image, by_experiment = ImageLogger(), WithExperiment()
    log_figure([by_image, by_experiment], ROWS, 17)
    ((key, (image,), step),) = by_image.taken
    ((tag, pixels, at, order),) = by_experiment.experiment.taken
    assert key == tag == KEY == "classprune/ledger"
    assert (step, at, order) == (17, 17, "HWC")
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), pixels)
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 10, "something is drawn"


def test_nothing_is_drawn_where_no_logger_takes_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(logged_figure, "figure", drawn.append)
    log_figure([], ROWS, 1)
    log_figure([CSVLogger(tmp_path)], ROWS, 1)
    assert drawn == []


def test_tensorboard_shows_it(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    log_figure([logger], ROWS, 3)
    log_figure([logger], ROWS[:2], 1)
    logger.finalize("success")
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    images = events.Images(KEY)
    assert [image.step for image in images] == [3, 1]
    assert all(image.encoded_image_string.startswith(b"\x89PNG") for image in images)
