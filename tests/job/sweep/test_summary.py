"""The summary of a sweep: four files that say the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lightning_classprune.job.sweep import summary
from lightning_classprune.job.sweep.job_rows import Job, read_jobs
from lightning_classprune.job.sweep.summary import to_html, to_markdown, write_summary
from lightning_classprune.job.sweep.sweep import tally
from tests.job.sweep.folders import run_folder


def test_a_sweep_without_any_result(tmp_path: Path) -> None:
    run_folder(tmp_path, "a", "seed=1", state="failed", error="x")
    write_summary(tmp_path)
    assert (tmp_path / "summary.png").stat().st_size > 0
    assert "1 job: 0 finished, 1 failed" in (tmp_path / "summary.md").read_text()


def test_a_job_that_ends_while_the_summary_is_written_is_in_it(
    sweep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own summary may be the one that ours replaces."""
    draw = summary.frontier_figure

    def figure(jobs: list[Job]) -> Any:
        if any(job.state == "running" for job in jobs):
            status = {"state": "finished", "error": None, "objective": 0.5}
            (sweep / "c2" / "status.json").write_text(json.dumps(status))
        return draw(jobs)

    monkeypatch.setattr(summary, "frontier_figure", figure)
    jobs = write_summary(sweep)
    assert tally(jobs) == "6 jobs: 5 finished (2 without an accepted step), 1 failed"
    assert tally(jobs) in (sweep / "summary.md").read_text()
    assert "running" not in (sweep / "summary.csv").read_text()


def test_both_pages_hold_both_tables(sweep: Path) -> None:
    jobs = read_jobs(sweep)
    for text in (to_markdown(jobs), to_html(jobs)):
        for said in (
            "miss rate",
            "false-alarm rate",
            "crack missed, guard: dense",
            "crack false alarms, test: dense",
            tally(jobs),
            "stand beside them",
        ):
            assert said in text
        assert text.count("no step accepted") == 1
