"""The checks of every commit: ruff, its formatter, and strict mypy over the package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support import ROOT

pytestmark = pytest.mark.processes
HOOKS = ROOT / ".pre-commit-config.yaml"


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["ruff", "check", "--no-cache", "."], id="ruff check"),
        pytest.param(["ruff", "format", "--check", "--no-cache", "."], id="ruff format"),
        pytest.param(["mypy", "--cache-dir", "{tmp_path}"], id="mypy"),
    ],
)
def test_clean(command: list[str], tmp_path: Path) -> None:
    command = [part.format(tmp_path=tmp_path) for part in command]
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_commit_hooks_run_the_same() -> None:
    (local,) = yaml.safe_load(HOOKS.read_text(encoding="utf-8"))["repos"]
    assert [hook["entry"] for hook in local["hooks"]] == ["ruff check --fix", "ruff format", "mypy"]
    assert {hook["language"] for hook in local["hooks"]} == {"system"}
