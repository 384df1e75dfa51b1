"""What a run was made with, in primitives."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lightning_classprune.export.environment import PACKAGES, environment, installed_version


def test_it_is_json_and_says_what_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["classprune", "seed=1"])
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert found["command"] == ["classprune", "seed=1"]
    assert found["threads"] == torch.get_num_threads()
    assert list(found["versions"]) == list(PACKAGES)
    assert found["versions"]["torch"] == installed_version("torch")


def test_a_package_that_is_not_installed_has_no_version() -> None:
    assert installed_version("no-such-package-anywhere") is None


def test_git_state_is_that_of_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert environment()["git"] is None
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    (tmp_path / "file").write_text("old")
    for command in (["init", "-q"], ["add", "file"], [*identity, "commit", "-q", "-m", "one"]):
        subprocess.run(["git", *command], check=True)
    clean = environment()["git"]
    assert len(clean["commit"]) == 40
    assert not clean["dirty"]
    (tmp_path / "other").write_text("not tracked")
    assert environment()["git"] == clean
    (tmp_path / "file").write_text("new")
    assert environment()["git"] == clean | {"dirty": True}
