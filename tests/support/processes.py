"""Shared by the tests that train in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import ROOT, SUPPORT


def run_job(script: str, *arguments: str, timeout: int = 240, **environment: str) -> str:
    """Run a script of this folder in a process of its own; returns what it printed."""
    found = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
    }
    done = subprocess.run(
        [sys.executable, str(SUPPORT / script), *arguments],
        env=found | environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


def shared_folder(factory: pytest.TempPathFactory, name: str, fill: Callable[[Path], object]) -> Path:
    """A folder that one test worker fills and all read: with pytest-xdist every worker makes a module's fixtures."""
    base = factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, done = base / name, base / f"{name}.done"
    try:
        folder.mkdir()
    except FileExistsError:
        deadline = time.monotonic() + 300
        while not done.exists():
            assert time.monotonic() < deadline, f"another worker did not fill {folder}"
            time.sleep(0.2)
    else:
        error = "the job was interrupted"
        try:
            fill(folder)
            error = ""
        except Exception as caught:
            error = str(caught)
        finally:
            done.with_suffix(".part").write_text(error)
            done.with_suffix(".part").rename(done)
    assert not done.read_text(), done.read_text()
    return folder
