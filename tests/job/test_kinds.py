"""What of a job depends on its task is chosen by the configuration alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import open_dict

from lightning_classprune.job.kinds import OfClasses, OfObjects, kind_of
from tests.support.app_job import config


def test_a_task_makes_a_job_of_objects(tmp_path: Path) -> None:
    of_classes = config(tmp_path, "data=breast_cancer")
    of_objects = config(tmp_path, "data=boxes_npz", "data.root=x")
    assert isinstance(kind_of(of_classes), OfClasses)
    assert isinstance(kind_of(of_objects), OfObjects)
    with open_dict(of_classes):
        del of_classes["task"]  # a run folder of old
    assert isinstance(kind_of(of_classes), OfClasses)


def test_a_loss_of_networks_that_find_objects_is_none_for_classes(tmp_path: Path) -> None:
    cfg = config(tmp_path, "data=breast_cancer", "loss=own")
    with pytest.raises(
        ValueError, match="loss=own is of networks that find objects; use loss=class_dependent"
    ):
        OfClasses().module(cfg)
