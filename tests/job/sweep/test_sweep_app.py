"""The command that writes a sweep's summary anew."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lightning_classprune.job.sweep.job_rows import read_jobs
from lightning_classprune.job.sweep.sweep_app import main


def test_a_folder_without_runs_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="no run folder below it; give the folder of a sweep"):
        read_jobs(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path)])
    assert ended.value.code == 2
    assert "no run folder" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_command_writes_the_summary(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (sweep / "a1" / "ledger.png").touch()
    (sweep / "a2" / "ledger.png").touch()
    (sweep / "a2" / "report.html").touch()
    main([str(sweep)])
    assert "6 jobs: 4 finished" in capsys.readouterr().out
    table = (sweep / "summary.md").read_text()
    assert (
        "| [1](<a1/ledger.png>) | a | 1 | finished | 75.0% "
        "| 10 > 11 / 50 | 5 > 5 / 100 | 4 > 6 / 30 | 1 > 2 / 9 | 2 / 1 |" in table
    )
    assert "[2](<a2/report.html>)" in table
    assert "| 10 > 8 / 50 | 5 > 5 / 100 | 5 / 30 | 2 / 9 |" in table
    assert r"failed: ValueError: a\|b <c>" in table
    assert (
        "| 1 | loss=a | 2 | 62.5% (50.0% to 75.0%) "
        "| 19.0% (16.0% to 22.0%) | 20.0% | 5.0% (5.0% to 5.0%) | 5.0% | yes |" in table
    )
    tables = [part for part in table.split("\n\n") if part.startswith("|")]
    for part in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in part.splitlines()}) == 1
    page = (sweep / "summary.html").read_text()
    assert '<a href="a2/report.html">2</a>' in page
    assert "a|b &lt;c&gt;" in page
    assert (sweep / "summary.png").read_bytes().startswith(b"\x89PNG")
    assert not list(sweep.glob(".*"))
