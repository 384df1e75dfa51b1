"""A job's own process: it does what the folder says, and nobody else's words count."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lightning_classprune.job import own_process
from lightning_classprune.job.run_folder import RunFolder


def test_it_goes_on_with_the_folder_of_its_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(tmp_path)
    folder.begin(OmegaConf.create({"run_dir": str(tmp_path)}))
    folder.write_status("finished", objective=0.5)
    monkeypatch.setattr(own_process, "_end_with_the_sweep", lambda: None)  # it would end this process
    monkeypatch.setattr(sys, "argv", ["own_process", str(tmp_path)])
    own_process.main()
    assert "this job is finished, there is nothing to do. Objective: 0.5" in capsys.readouterr().out


def test_a_folder_without_a_job_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_process, "_end_with_the_sweep", lambda: None)
    monkeypatch.setattr(sys, "argv", ["own_process", str(tmp_path)])
    with pytest.raises(ValueError, match="is not a run folder"):
        own_process.main()
