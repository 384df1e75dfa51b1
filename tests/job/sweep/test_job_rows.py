"""Every job of a sweep is a row."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_classprune.job.sweep.job_rows import Errors, read_jobs
from lightning_classprune.job.sweep.sweep import tally, to_csv, varying
from tests.job.sweep.folders import run_folder


def test_every_job_is_a_row(sweep: Path) -> None:
    jobs = read_jobs(sweep)
    assert [job.name for job in jobs] == ["a1", "a2", "b1", "b2", "c1", "c2"]
    assert varying(jobs) == ["loss"]
    first = jobs[0]
    assert (first.seed, first.state, first.sparsity, first.verdict) == ("1", "finished", 0.75, "refused")
    assert (first.accepted, first.refused, first.epochs, first.seconds) == (2, 1, 16, 6.0)
    assert (first.miss_rate, first.alarm_rate, first.dense_rates) == (11 / 50, 0.05, (0.2, 0.05))
    errors = first.classes["crack"]
    assert (errors.guard_dense, errors.guard) == (Errors(10, 50, 5, 100), Errors(11, 50, 5, 100))
    assert (errors.test_dense, errors.test) == (Errors(4, 30, 1, 9), Errors(6, 30, 2, 9))
    assert jobs[1].classes["crack"].test_dense is None
    assert (jobs[4].state, jobs[4].error, jobs[4].sparsity) == ("failed", "ValueError: a|b <c>", None)
    assert (jobs[5].state, jobs[5].sparsity, jobs[5].accepted) == ("running", None, 1)
    assert tally(jobs) == "6 jobs: 4 finished (2 without an accepted step), 1 failed, 1 running"


def test_the_order_is_that_of_numbers(tmp_path: Path) -> None:
    for value in ("10", "9", "0.1", "0.05"):
        run_folder(tmp_path, f"w{value}", f"weight={value}")
    assert [job.overrides["weight"] for job in read_jobs(tmp_path)] == ["0.05", "0.1", "9", "10"]


def test_a_broken_folder_is_a_row_too(sweep: Path) -> None:
    (sweep / "a1" / "ledger.jsonl").write_text('{"verdict": "base')
    (sweep / "a2" / "status.json").write_text("{")
    broken = [job for job in read_jobs(sweep) if job.state == "unreadable"]
    assert [job.name for job in broken] == ["a1", "a2"]
    assert "line 1: not JSON" in str(broken[0].error)
    assert broken[0].overrides["loss"] == "a"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("status.json", '{"state": 3}'),
        ("status.json", '{"state": ["finished"]}'),
        ("status.json", "[" * 10_000),
        ("ledger.jsonl", '{"verdict": "accepted", "classes": {"crack": {"fn": "0"}}}'),
        (
            "ledger.jsonl",
            '{"verdict": "accepted", "epochs": 1e400, "seconds": 1, "sparsity": 1, "classes": {}}',
        ),
        ("ledger.jsonl", "{}"),
        (".hydra/overrides.yaml", "- a: [b"),
        (".hydra/overrides.yaml", "- &a [x]\n- *a"),
        ("test.json", '{"samples": 3, "classes": {"crack": 3}}'),
        ("test.json", "[]"),
    ],
)
def test_no_broken_file_hides_the_other_jobs(name: str, content: str, sweep: Path) -> None:
    (sweep / "a1" / name).write_text(content)
    jobs = {job.name: job for job in read_jobs(sweep)}
    assert "3 finished" in tally(list(jobs.values()))
    assert to_csv(list(jobs.values())).count("unreadable") == 1
    assert jobs.pop("a1").state == "unreadable"
    assert [job.state for job in jobs.values()] == ["finished"] * 3 + ["failed", "running"]
