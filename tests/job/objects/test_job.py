"""The ready-made job on archives of objects: pruned, judged, told, reported, resumed into an export, and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_classprune.guard.objects import Found
from lightning_classprune.job import app
from lightning_classprune.job.export_run import export_run
from lightning_classprune.job.objects.answers import ObjectAnswers, counted
from lightning_classprune.job.report.report_run import write_report
from lightning_classprune.job.run_folder import RunFolder
from lightning_classprune.job.unprotected import lost
from tests.job.data import object_archives
from tests.support.app_job import config
from tests.support.witness import log_messages

SHORT = [
    "data.name=set",
    "data.batch_size=4",
    "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
    "model.width=8",
    "optimizer.lr=0.02",
    "search.densities=[0.5]",
    "callbacks.classprune.target_sparsity=0.5",
    "callbacks.classprune.guard.confidence=0.6",
    "max_fp_rise=0.5",
]
MASKS = [*SHORT, "trainer.max_epochs=14", "data=nuclei_npz", "+protect.object=0.5"]
BOXES = [
    *SHORT,
    "trainer.max_epochs=3",
    "data=boxes_npz",
    "+protect.big=0.5",
    "callbacks.classprune.guard.cluster=any",
]


@pytest.fixture(scope="module")
def masks_job(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("masks")
    app.run(config(folder / "run", *MASKS, f"data.root={object_archives.masks(folder)}"))
    return RunFolder(folder / "run")


def test_a_job_of_masks_leaves_a_verdict_counts_and_pictures(masks_job: RunFolder) -> None:
    rows = masks_job.ledger()
    assert rows[0]["verdict"] == "baseline"
    told = rows[-1]["classes"]["object"]
    assert told["rule"] == "found by an IoU above 0.5"
    scores, guard = masks_job.scores(), masks_job.guard()
    for network, one in guard.items():
        answers = scores["guard"][network]
        assert isinstance(answers, ObjectAnswers)
        assert isinstance(one, Found)
        assert answers.found.same_decisions(one)
    test = json.loads((masks_job.path / "test.json").read_text())
    delivered = scores["test"]["delivered"]
    assert isinstance(delivered, ObjectAnswers)
    assert counted(delivered.found) == {key: value for key, value in test.items() if key != "dense"}
    assert test["classes"]["object"]["recall"] > 0.5
    units = {unit for _, unit in masks_job.samples()["test"]}
    assert test["units"] == len(units)
    assert len(delivered.alarms.sample) >= test["classes"]["object"]["fp"]


def test_its_report_outlines_objects_and_says_what_it_leaves_out(masks_job: RunFolder) -> None:
    page = write_report(masks_job).read_text()
    assert "Missed objects" in page
    assert "Objects have no ROC curve" in page
    assert "Confusion on the guard data" not in page
    assert "Guard pictures, objects outlined" in page
    assert "0 newly missed" in page
    assert page == write_report(masks_job).read_text()


def test_it_is_exported_if_it_counts_what_the_run_counted(masks_job: RunFolder, tmp_path: Path) -> None:
    facts = export_run(masks_job.path, tmp_path / "out", dense=True, purpose="size")
    assert facts["artefacts"]
    assert facts["about"]["task"]["rule"] == "iou"
    assert facts["about"]["score_threshold"].keys() == {"object"}
    assert not facts["test"]
    with pytest.raises(ValueError, match=r"max_fn_rate=.* these hold objects"):
        export_run(masks_job.path, tmp_path / "rate", dense=True, max_fn_rate={"object": 0.1})
    archive = masks_job.path.parent / "set.npz"
    before = archive.read_bytes()
    object_archives.masks(masks_job.path.parent, brightness=5)
    with pytest.raises(ValueError, match=r"does not give what test\.json says.*Nothing was written"):
        export_run(masks_job.path, tmp_path / "other", dense=True)
    archive.write_bytes(before)


def test_a_job_of_boxes_tells_of_the_class_that_nobody_protects(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with log_messages() as said:
        app.run(config(tmp_path / "run", *BOXES, f"data.root={object_archives.boxes(tmp_path)}"))
    assert any("nobody protects 'small': a pruned network may lose such a class" in one for one in said)
    run = RunFolder(tmp_path / "run")
    assert set(run.ledger()[-1]["classes"]) == {"big"}
    test = json.loads((run.path / "test.json").read_text())
    assert set(test["classes"]) == {"big"}
    (small,) = lost(run.scores(), ["big"])
    assert small.cases > 0
    told = "Nobody protects, of the guard: " + small.in_words
    assert told in " ".join(capsys.readouterr().out.split())
    page = run.report.read_text()
    assert "Units that count as missed" in page
    assert f"Classes that nobody protects, of the guard: {small.in_words}." in page


def test_a_job_that_prunes_nothing_counts_objects_too(tmp_path: Path) -> None:
    root = object_archives.masks(tmp_path)
    app.run(
        config(tmp_path / "run", *MASKS, f"data.root={root}", "~callbacks.classprune", "trainer.max_epochs=1")
    )
    assert RunFolder(tmp_path / "run").scores().keys() == {"test"}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model=centre_detector"], "learns from boxes, and the data have masks; use model=unet"),
        (["model=conv_net", "loss=own"], "a Sequential finds no objects; .*model=unet"),
        (["loss=cross_entropy"], "a loss of their own; use loss=own"),
        (["+protect.nucleus=0.1"], "unknown class 'nucleus'.*object"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path: Path, overrides: list[str], said: str) -> None:
    given = [*MASKS, f"data.root={object_archives.masks(tmp_path)}", *overrides]
    given = [one for one in given if not ("model=conv_net" in overrides and one.startswith("model.width"))]
    with pytest.raises(ValueError, match=said):
        app.run(config(tmp_path / "run", *given))


def test_what_is_protected_is_asked_for_where_the_usual_class_is_not_there(tmp_path: Path) -> None:
    given: list[Any] = [one for one in MASKS if not one.startswith("+protect")]
    with pytest.raises(
        ValueError, match=r"protect is missing: .* such as protect\.object=0\.05; .*1: 'object'"
    ):
        app.run(config(tmp_path / "run", *given, f"data.root={object_archives.masks(tmp_path)}"))


def test_the_usual_class_is_protected_where_nothing_is_said(tmp_path: Path) -> None:
    import numpy as np

    root = object_archives.masks(tmp_path, label_classes=np.array(["none", "nucleus"]))
    given = [one for one in MASKS if not one.startswith("+protect")]
    cfg = config(tmp_path / "run", *given, f"data.root={root}")
    app.describe(cfg)
    assert dict(cfg.protect) == {"nucleus": 0.10}
    assert torch.is_tensor(app.build_module(cfg)(torch.zeros(1, 1, 32, 32)))
