"""The run folder: written whole or not at all, kept up to date, and read back as it was written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from omegaconf import OmegaConf

from lightning_classprune import files
from lightning_classprune.guard.outcomes import Decisions
from lightning_classprune.job import app
from lightning_classprune.job.run_folder import RunFolder
from tests.support.app_job import LENIENT, config


class RowsOnDisk(Callback):
    """Reads the ledger file at the start of every epoch, after the job's own callbacks."""

    seen: list[int] = []  # noqa: RUF012 - Hydra builds the object, the test reads the class

    def __init__(self, folder: str) -> None:
        self.folder = RunFolder(Path(folder))

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            RowsOnDisk.seen.append(len(self.folder.ledger()))


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("job")
    spy = f"+callbacks.spy={{_target_: tests.job.test_run_folder.RowsOnDisk, folder: '{folder}'}}"
    RowsOnDisk.seen.clear()
    app.run(config(folder, *LENIENT, spy))
    return RunFolder.open(folder)


def test_the_ledger_file_grows_with_every_verdict(job: RunFolder) -> None:
    assert RowsOnDisk.seen == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [row["verdict"] for row in job.ledger()] == ["baseline", "accepted", "accepted"]


def test_the_configuration_rebuilds_the_job(job: RunFolder) -> None:
    cfg = job.config()
    assert cfg.facts.class_names == ["malignant", "benign"]
    assert "${" not in OmegaConf.to_yaml(cfg)
    module = app.build_module(cfg)
    state = torch.load(job.accepted, weights_only=True)["state_dict"]
    module.load_state_dict(state)


def test_status_and_environment_say_what_happened(job: RunFolder) -> None:
    assert job.status() == {"state": "finished", "error": None, "objective": job.ledger()[-1]["sparsity"]}
    made_with = job.environment()
    assert made_with is not None
    assert made_with["versions"]["torch"] == torch.__version__.split("+")[0]
    assert made_with["git"] is None or len(made_with["git"]["commit"]) == 40


def test_guard_outcomes_are_what_the_ledger_counts(job: RunFolder) -> None:
    outcomes, rows = job.guard(), job.ledger()
    for name, row in (("dense", rows[0]), ("delivered", rows[-1])):
        counts = outcomes[name].counts()[0]
        assert counts[3] == row["classes"]["malignant"]["fn"]
        assert counts[4] == row["classes"]["malignant"]["support"]


def test_a_job_that_raises_leaves_its_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="melanoma"):
        app.run(config(tmp_path, *LENIENT, "+protect.melanoma=0.1"))
    status = RunFolder(tmp_path).status()
    assert status["state"] == "failed"
    assert "melanoma" in status["error"]


def test_a_job_whose_folder_says_nothing_more_is_running(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.begin(OmegaConf.create({"seed": 1}))
    assert folder.status()["state"] == "running"
    assert folder.ledger() == []
    assert folder.guard() == {}
    assert folder.test() is None
    assert folder.last_checkpoint is None


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is not a run folder: it has no config\.yaml"):
        RunFolder.open(tmp_path)


@pytest.mark.parametrize("labels", [1, 3])
def test_guard_file_round_trip(labels: int, tmp_path: Path) -> None:
    shape = (5,) if labels == 1 else (5, labels)
    target, dense, delivered = (torch.randint(2, shape) for _ in range(3))
    folder = RunFolder(tmp_path)
    folder.write_guard({"dense": Decisions(target, dense, 3), "delivered": Decisions(target, delivered, 3)})
    read = folder.guard()
    assert torch.equal(read["dense"].target, target)
    assert torch.equal(read["dense"].predicted, dense)
    assert torch.equal(read["delivered"].predicted, delivered)
    assert read["delivered"].num_classes == 3


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.json"
    files.write_text(path, json.dumps({"a": 1}))
    with pytest.raises(TypeError, match="half"):
        _fail_half_way(path)
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in path.parent.iterdir()] == ["file.json"]
    assert path.stat().st_mode & 0o777 == 0o644


def _fail_half_way(path: Path) -> None:
    with files.replacing(path) as part:
        part.write_text("half")
        raise TypeError(part.read_text())
