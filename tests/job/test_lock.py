"""One process a folder, and nobody is locked out by the dead."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lightning_classprune.job.lock import FolderInUse, held
from tests.support import ROOT

HOLD = """
import sys, time, multiprocessing
from pathlib import Path
from lightning_classprune.job.lock import held
with held(Path(sys.argv[1])):
    if sys.argv[2:]:
        multiprocessing.get_context("fork").Process(target=time.sleep, args=(float(sys.argv[2]),), daemon=True).start()
    print("held", flush=True)
    time.sleep(60)
"""


def holder(path: Path, *more: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), *more],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.processes
def test_the_second_is_told_who_holds_it_and_a_killed_one_holds_nothing(tmp_path: Path) -> None:
    """One of its data-loading processes, which has the same file open, outlives it for a second."""
    path = tmp_path / "run" / ".lock"
    first = holder(path, "1")
    try:
        with (
            pytest.raises(FolderInUse, match=rf"run is in use by process {first.pid} on .* since 20"),
            held(path),
        ):
            pass
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    begun = time.monotonic()
    with held(path):
        assert f"process {os.getpid()} on " in path.read_text()
    assert time.monotonic() - begun < 15


def test_it_is_given_back_when_the_block_ends_however_that_is(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    for _ in range(2):
        with pytest.raises(KeyError), held(path):
            raise KeyError
    with held(path), pytest.raises(FolderInUse, match=f"process {os.getpid()}"), held(path):
        pass


def test_a_strange_file_says_little_and_locks_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with held(path):
        path.write_text("process x on")
        with pytest.raises(FolderInUse, match="in use by process x on"), held(path):
            pass
        path.write_text("")
        with pytest.raises(FolderInUse, match="in use by another process"), held(path):
            pass
