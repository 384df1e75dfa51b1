"""The run folder: written whole or not at all, kept up to date, and read back as it was written."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
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


@pytest.mark.unit
@pytest.mark.parametrize(
    ("name", "content", "read"),
    [
        ("status.json", '{"state": 3}', "status"),
        ("status.json", "[]", "status"),
        ("status.json", "[" * 10_000, "status"),
        ("status.json", "[" + "{}," * 600_000 + "1]", "status"),
        ("test.json", "3", "test"),
        ("layers.json", "{}", "layers"),
        ("layers.json", '{"layers": 3}', "layers"),
        ("hashes.json", '{"a": 1}', "hashes"),
        ("hashes.json", '{"status.json": "0"}', "hashes"),
        ("hashes.json", "{}", "hashes"),
        ("status.json", '{"error": null}', "status"),
        ("ledger.jsonl", '{"round": "0"}', "ledger"),
        ("ledger.jsonl", '{"classes": {"a": {"fn": 1e400}}}', "ledger"),
        ("ledger.jsonl", "\ufeff\x00", "ledger"),
        ("guard.npz", "PK\x03\x04", "guard"),
        ("scores.npz", "", "scores"),
        ("guard_pictures.npz", "PK\x05\x06" + 18 * "\0", "pictures"),
        ("config.yaml", "a: *b", "config"),
    ],
)
def test_a_damaged_file_is_named_in_a_line(name: str, content: str, read: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=name) as raised:
        getattr(RunFolder(tmp_path), read)()
    assert "\n" not in str(raised.value)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("guard.npz", "guard"),
        ("scores.npz", "scores"),
        ("guard_pictures.npz", "pictures"),
        ("object_pictures.npz", "object_pictures"),
    ],
)
def test_an_archive_that_would_fill_the_memory_is_not_read(
    name: str, read: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LARGEST_SQUEEZED", 1_000_000)
    np.savez_compressed(tmp_path / name, target=np.zeros(1_000_000, np.uint8))
    with pytest.raises(ValueError, match=rf"{name} cannot be read .*more than 100 times the file"):
        getattr(RunFolder(tmp_path), read)()


@pytest.mark.unit
def test_what_was_changed_after_the_end_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.verify(["ledger.jsonl"])
    folder.ledger_file.write_text('{"round": 0}\n')
    folder.write_status("finished", objective=0.5)
    folder.write_hashes()
    folder.verify(["ledger.jsonl", "status.json", "accepted.ckpt"])
    for before, after in (("status.json", "statur.json"), ("all of", "all off")):
        kept = (tmp_path / "hashes.json").read_text()
        (tmp_path / "hashes.json").write_text(kept.replace(before, after))
        with pytest.raises(ValueError, match=r"hashes\.json was changed or damaged"):
            folder.verify(["status.json"])
        (tmp_path / "hashes.json").write_text(kept)
    folder.ledger_file.write_text('{"round": 1}\n')
    with pytest.raises(ValueError, match=r"ledger\.jsonl was changed or damaged since the job ended"):
        folder.verify(["status.json", "ledger.jsonl"])


@pytest.mark.unit
def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no new file can be written the old one has room for what there is to say."""
    folder = RunFolder(tmp_path)
    folder.write_status("running")
    size = (tmp_path / "status.json").stat().st_size

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "write_text", full)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    folder.write_status("failed", error="OSError: " + 5000 * "x")
    assert folder.status()["state"] == "failed"
    assert folder.status()["error"].endswith(f"(the disk of {tmp_path} is full)")
    assert (tmp_path / "status.json").stat().st_size == size


@pytest.mark.processes  # git, which the environment asks
def test_what_a_killed_process_left_half_written_goes(tmp_path: Path) -> None:
    gone, here = 2**22 + 1, os.getpid()  # no process has a number as large as the first
    for name in ("ledger.jsonl", "checkpoints/x", "tickets/round=00.safetensors"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        for process in (gone, here):
            (path.parent / f".{path.name}.{process}-abc_d3.part").touch()
    (tmp_path / ".mine.part").touch()
    RunFolder(tmp_path).begin(OmegaConf.create({"seed": 1}))
    left = [path.name for path in tmp_path.rglob(".*.part")]
    assert len(left) == 4
    assert not any(str(gone) in name for name in left)


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
