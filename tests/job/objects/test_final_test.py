"""The last look at objects under a real Trainer: each sample once, as the guard reads it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch.optim import SGD

from lightning_classprune.guard.objects import ObjectTask
from lightning_classprune.guard.tasks import Detection
from lightning_classprune.job.data.boxes_npz import BoxesNpz
from lightning_classprune.job.objects.answers import ObjectAnswers
from lightning_classprune.job.objects.centre_detector import centre_detector
from lightning_classprune.job.objects.final_test import ObjectTest
from lightning_classprune.job.objects.finder import Finder, ReadObjects
from lightning_classprune.job.objects.reproduction import check_objects_reproduced
from lightning_classprune.job.objects.torchvision_detector import torchvision_detector
from lightning_classprune.job.run_folder import RunFolder
from lightning_classprune.job.scores_file import read_scores, write_scores
from tests.job.data import object_archives
from tests.support.app_job import config

KIND = Detection(iou=0.1, score_threshold=0.09)


def made(folder: Path, **change: Any) -> tuple[Finder, BoxesNpz, ObjectTask]:
    data = BoxesNpz(object_archives.boxes(folder), "set", batch_size=4)
    data.setup()
    torch.manual_seed(1)
    module = Finder(centre_detector(1, 3, width=3), "boxes", optimizer=partial(SGD, lr=0.1))
    return module, data, ObjectTask(KIND, data.class_names, [1, 2], 0.0, "one", with_offset=True)


def looked(test: ObjectTest, module: Finder, data: BoxesNpz) -> None:
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[test])
    trainer.test(module, data.test_dataloader(), verbose=False)


def test_what_is_found_is_what_the_guard_would_find_and_alarms_have_their_places(tmp_path: Path) -> None:
    module, data, task = made(tmp_path)
    test = ObjectTest(task, ReadObjects())
    test.offsets = {"big": 0.02}
    looked(test, module, data)
    assert test.tested is not None
    batch = next(iter(torch.utils.data.DataLoader(data.splits.parts["test"], 99, collate_fn=data.collate)))
    with torch.no_grad():
        columns = task.columns(*ReadObjects()(module.eval(), batch))
    order = columns[0].argsort(stable=True)
    columns = tuple(column[order] for column in columns)
    whole = task.numbered(columns, torch.zeros(len(order), dtype=torch.int64))
    assert test.tested.found.same_decisions(task.outcomes(whole, test.offsets))
    classes = test.tested.counted()["classes"]
    assert len(test.tested.alarms.sample) == sum(one["fp"] for one in classes.values()) > 0


def test_classes_that_nobody_protects_are_counted_beside_the_others(tmp_path: Path) -> None:
    module, data, _ = made(tmp_path)
    tests = []
    for protected, rest in (([1, 2], None), ([1], [2])):
        of_the_rest = rest and ObjectTask(KIND, data.class_names, rest, 0.0, "one", with_offset=False)
        task = ObjectTask(KIND, data.class_names, protected, 0.0, "one", with_offset=True)
        tests.append(ObjectTest(task, ReadObjects(), of_the_rest or None))
        looked(tests[-1], module, data)
    whole, parted = (test.tested for test in tests)
    assert whole is not None
    assert parted is not None
    counts = whole.counted()["classes"]
    name = data.class_names[2]
    assert (whole.others, parted.others) == ({}, {name: (counts[name]["fn"], counts[name]["support"])})
    assert counts[name]["support"] > 0
    file = tmp_path / "scores.npz"
    write_scores(file, {"guard": {"dense": whole, "delivered": whole}, "test": {"delivered": parted}})
    again = read_scores(file)["test"]["delivered"]
    assert isinstance(again, ObjectAnswers)
    assert again.others == parted.others
    assert parted.counted()["classes"].keys() == {data.class_names[1]}


@pytest.mark.parametrize("of", [slice(None, -2), slice(-2, None)], ids=["heat", "sizes"])
def test_scores_of_nan_are_told_and_nothing_is_known(of: slice, tmp_path: Path) -> None:
    module, data, task = made(tmp_path)
    with torch.no_grad():
        module.network.trunk.head.bias[of] = float("nan")
    test = ObjectTest(task, ReadObjects())
    with pytest.warns(UserWarning, match="final test: .*NaN"):
        looked(test, module, data)
    assert test.tested is None


def test_a_network_of_lists_is_not_exported(tmp_path: Path) -> None:
    _, data, _ = made(tmp_path)
    cfg = config(tmp_path / "run", "data=boxes_npz", f"data.root={tmp_path}", "facts.protected=[1,2]")
    network = torchvision_detector("fasterrcnn_mobilenet_v3_large_320_fpn", 1, 3, min_size=32)
    with pytest.raises(ValueError, match=r"gives a list a batch, as torchvision's detectors do.*ticket"):
        check_objects_reproduced(network, {}, data, cfg, RunFolder(tmp_path / "run"), is_delivered=False)
