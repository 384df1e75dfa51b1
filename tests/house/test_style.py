"""The checks of every commit: ruff and its formatter; strict mypy over the package is in `test_typed.py`."""

from __future__ import annotations

import subprocess
import sys

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
    ],
)
def test_clean(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_commit_hooks_run_the_same() -> None:
    (local,) = yaml.safe_load(HOOKS.read_text(encoding="utf-8"))["repos"]
    assert [hook["entry"] for hook in local["hooks"]] == ["ruff check --fix", "ruff format", "mypy"]
    assert {hook["language"] for hook in local["hooks"]} == {"system"}
