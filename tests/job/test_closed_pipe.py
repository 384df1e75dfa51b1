"""A job whose output nobody reads any more."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_classprune.job.closed_pipe import lasting, outlive_readers
from lightning_classprune.job.run_folder import RunFolder
from tests.support import ROOT
from tests.support.app_job import LENIENT


def pipe() -> tuple[int, io.TextIOWrapper]:
    reader, writer = os.pipe()
    return reader, io.TextIOWrapper(os.fdopen(writer, "wb"), encoding="utf-8", line_buffering=True)


@pytest.mark.unit
def test_what_is_read_is_what_was_written() -> None:
    reader, stream = pipe()
    print("für alle", file=lasting(stream))
    assert os.read(reader, 100) == "für alle\n".encode()


@pytest.mark.unit
def test_without_a_reader_it_goes_on_in_silence() -> None:
    reader, stream = pipe()
    output = lasting(stream)
    print("one", file=output)
    os.close(reader)
    for _ in range(3):
        print("x" * 100_000, file=output, flush=True)
    os.write(output.fileno(), b"what a child process writes")
    assert not output.isatty()


@pytest.mark.unit
def test_streams_that_somebody_else_put_there_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", mine := io.StringIO())
    monkeypatch.setattr(sys, "stderr", None)
    outlive_readers()
    assert sys.stdout is mine
    assert lasting(mine) is mine


def test_a_job_is_finished_though_its_reader_left_after_the_first_line(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "lightning_classprune", *LENIENT, f"hydra.run.dir={folder}"]
    path = os.pathsep.join((str(ROOT), str(ROOT / "lightning_classprune" / "job" / "_hydra")))
    given = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    options = {"cwd": tmp_path, "env": given, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, **options) as job:  # type: ignore[call-overload]
        assert job.stdout.readline().startswith(b"Run folder: ")
        job.stdout.close()
        assert job.wait(timeout=240) == 0
    assert RunFolder(folder).status()["state"] == "finished"
    assert RunFolder(folder).report.is_file()
