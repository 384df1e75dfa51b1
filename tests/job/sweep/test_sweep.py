"""A sweep's summary: every job is a row, and the frontier is what nothing beats."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_classprune.job.sweep import sweep_report
from lightning_classprune.job.sweep.sweep import (
    Job,
    Setting,
    frontier,
    read,
    settings,
    tally,
    to_csv,
    varying,
)
from lightning_classprune.job.sweep.sweep_app import main
from lightning_classprune.ledger import text as ledger


def row(verdict: str, sparsity: float, fn: int) -> dict[str, Any]:
    counts = {"fn": fn, "support": 50}
    return {
        "verdict": verdict,
        "sparsity": sparsity,
        "classes": {"crack": counts},
        "epochs": 4,
        "seconds": 1.5,
    }


def run_folder(
    sweep: Path,
    name: str,
    *overrides: str,
    state: str = "finished",
    rows: list[dict[str, Any]] | None = None,
    error: str | None = None,
    test_fn: int | None = None,
    dense_fn: int | None = None,
) -> None:
    folder = sweep / name
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text("".join(f"- {one}\n" for one in overrides))
    status = {"state": state, "error": error, "objective": None}
    (folder / "status.json").write_text(json.dumps(status))
    if rows:
        ledger.write_jsonl(rows, folder / "ledger.jsonl")
    if test_fn is not None:
        counts = {"classes": {"crack": {"fn": test_fn, "support": 30}, "other": {"fn": 0, "support": 9}}}
        if dense_fn is not None:
            counts["dense"] = {"crack": {"fn": dense_fn, "support": 30}}
        (folder / "test.json").write_text(json.dumps(counts))


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Two settings with two seeds each, a job that failed, and one that was killed in its second round."""
    dense = row("baseline", 0.0, 10)
    both = ["data=x", "+extra=1"]
    good = [dense, row("accepted", 0.5, 9), row("accepted", 0.75, 11), row("refused", 0.9, 20)]
    run_folder(tmp_path, "a1", *both, "loss=a", "seed=1", rows=good, test_fn=6, dense_fn=4)
    run_folder(tmp_path, "a2", *both, "loss=a", "seed=2", rows=[dense, row("accepted", 0.5, 8)], test_fn=5)
    for seed in (1, 2):
        rows = [dense, row("unproven", 0.5, 12)]
        run_folder(tmp_path, f"b{seed}", *both, "loss=b", f"seed={seed}", rows=rows, test_fn=5)
    run_folder(tmp_path, "c1", *both, "loss=c", "seed=1", state="failed", error="ValueError: a|b <c>")
    run_folder(tmp_path, "c2", *both, "loss=c", "seed=2", state="running", rows=good[:2])
    return tmp_path


def test_every_job_is_a_row(sweep: Path) -> None:
    jobs = read(sweep)
    assert [job.name for job in jobs] == ["a1", "a2", "b1", "b2", "c1", "c2"]
    assert varying(jobs) == ["loss"]
    first = jobs[0]
    assert (first.seed, first.state, first.sparsity, first.verdict) == ("1", "finished", 0.75, "refused")
    assert (first.accepted, first.refused, first.epochs, first.seconds) == (2, 1, 16, 6.0)
    assert first.increase == pytest.approx(1 / 50)
    misses = first.classes["crack"]
    assert (misses.guard_dense, misses.guard, misses.guard_support) == (10, 11, 50)
    assert (misses.test_dense, misses.test, misses.test_support) == (4, 6, 30)
    assert jobs[1].classes["crack"].test_dense is None
    assert (jobs[4].state, jobs[4].error, jobs[4].sparsity) == ("failed", "ValueError: a|b <c>", None)
    assert (jobs[5].state, jobs[5].sparsity, jobs[5].accepted) == ("running", None, 1)
    assert tally(jobs) == "6 jobs: 4 finished (2 without an accepted step), 1 failed, 1 running"


def test_seeds_of_a_setting_are_grouped(sweep: Path) -> None:
    groups = settings(read(sweep))
    assert [(one.label, len(one.jobs), one.pruned) for one in groups] == [
        ("loss=a", 2, True),
        ("loss=b", 2, False),
    ]
    assert groups[0].point == pytest.approx((0.625, (1 / 50 - 2 / 50) / 2))
    assert groups[1].point == (0.0, 0.0)
    assert frontier(groups) == groups[:1]


def test_labels_are_short() -> None:
    values = (("search.rewind", "lr"), ("optimizer.lr", "0.00123456"), ("seed/x", "12345678"))
    assert Setting(values, ()).label == "rewind=lr, lr=0.001235, x=12345678"


def test_the_order_is_that_of_numbers(tmp_path: Path) -> None:
    for value in ("10", "9", "0.1", "0.05"):
        run_folder(tmp_path, f"w{value}", f"weight={value}")
    assert [job.overrides["weight"] for job in read(tmp_path)] == ["0.05", "0.1", "9", "10"]


def test_a_broken_folder_is_a_row_too(sweep: Path) -> None:
    (sweep / "a1" / "ledger.jsonl").write_text('{"verdict": "base')
    (sweep / "a2" / "status.json").write_text("{")
    broken = [job for job in read(sweep) if job.state == "unreadable"]
    assert [job.name for job in broken] == ["a1", "a2"]
    assert "line 1: not JSON" in str(broken[0].error)
    assert broken[0].overrides["loss"] == "a"


def test_a_folder_without_runs_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="no run folder below it; give the folder of a sweep"):
        read(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path)])
    assert ended.value.code == 2
    assert "no run folder" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def setting(name: str, *points: tuple[float, float]) -> Setting:
    jobs = [Job("", {}, None, "finished", sparsity=x, increase=y, accepted=int(x > 0)) for x, y in points]
    return Setting((("name", name),), tuple(jobs))


def test_frontier_by_hand() -> None:
    a, b, c, d, e = (
        setting("a", (0.5, 0.0)),
        setting("b", (0.8, 0.02)),
        setting("c", (0.7, 0.03)),  # b beats it
        setting("d", (0.9, 0.10)),
        setting("e", (0.5, 0.01)),  # a beats it
    )
    assert frontier([d, c, b, e, a]) == [a, b, d]
    unpruned = setting("dense", (0.0, 0.0))
    assert frontier([unpruned]) == []
    assert frontier([unpruned, c]) == [c]


def test_a_lucky_seed_does_not_make_a_frontier() -> None:
    lucky = setting("lucky", (0.99, -0.1), (0.0, 0.0), (0.0, 0.0))
    steady = setting("steady", (0.6, -0.04), (0.6, -0.04))
    assert frontier([lucky, steady]) == [steady]


POINTS = st.lists(st.tuples(st.sampled_from([0.2, 0.5, 0.9]), st.sampled_from([-0.1, 0.0, 0.1])), max_size=8)


@given(POINTS)
def test_nothing_beats_the_frontier_and_it_beats_all_else(points: list[tuple[float, float]]) -> None:
    groups = [setting(str(i), point) for i, point in enumerate(points)]
    best = frontier(groups)
    for one in groups:
        better = [
            other
            for other in groups
            if other.point[0] >= one.point[0] and other.point[1] <= one.point[1] and other.point != one.point
        ]
        assert (one in best) is not bool(better)
        assert not better or any(other in best for other in better)
    assert [one.point[0] for one in best] == sorted(one.point[0] for one in best)


def test_csv_has_a_line_a_job(sweep: Path) -> None:
    lines = list(csv.DictReader(io.StringIO(to_csv(read(sweep)))))
    assert len(lines) == 6
    assert (lines[0]["job"], lines[0]["loss"], lines[0]["seed"], lines[0]["sparsity"]) == (
        "a1",
        "a",
        "1",
        "0.75",
    )
    assert (lines[0]["guard_fn_dense/crack"], lines[0]["guard_fn/crack"]) == ("10", "11")
    assert (lines[0]["test_fn/crack"], lines[0]["test_support/crack"]) == ("6", "30")
    assert (lines[4]["state"], lines[4]["error"], lines[4]["sparsity"]) == (
        "failed",
        "ValueError: a|b <c>",
        "",
    )


def test_command_writes_the_summary(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (sweep / "a1" / "ledger.png").touch()
    (sweep / "a2" / "ledger.png").touch()
    (sweep / "a2" / "report.html").touch()
    main([str(sweep)])
    assert "6 jobs: 4 finished" in capsys.readouterr().out
    table = (sweep / "summary.md").read_text()
    assert (
        "| [1](<a1/ledger.png>) | a | 1 | finished | 75.0% | +2.0% | 10 > 11 / 50 | 4 > 6 / 30 | 2 / 1 |"
        in table
    )
    assert "[2](<a2/report.html>)" in table
    assert "| 10 > 8 / 50 | 5 / 30 |" in table
    assert r"failed: ValueError: a\|b <c>" in table
    assert "| 1 | loss=a | 2 | 62.5% (50.0% to 75.0%) | -1.0% (-4.0% to +2.0%) | yes |" in table
    tables = [part for part in table.split("\n\n") if part.startswith("|")]
    for part in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in part.splitlines()}) == 1
    page = (sweep / "summary.html").read_text()
    assert '<a href="a2/report.html">2</a>' in page
    assert "a|b &lt;c&gt;" in page
    assert (sweep / "summary.png").read_bytes().startswith(b"\x89PNG")
    assert not list(sweep.glob(".*"))


def test_figure_shows_settings_spread_and_frontier(sweep: Path) -> None:
    before = set(sys.modules)
    figure = sweep_report.figure(read(sweep))
    axes = figure.axes[0]
    assert axes.get_title("left") == "6 jobs: 4 finished (2 without an accepted step), 1 failed, 1 running"
    labels = {text.get_text() for text in figure.legends[0].get_texts()}
    assert labels == {
        "mean over seeds; bars: all seeds",
        "no step accepted",
        "frontier: nothing is sparser and misses less",
        "as many missed as dense",
    }
    assert {text.get_text() for text in axes.texts} == {"1", "2"}
    assert [text.get_text() for text in figure.legends[1].get_texts()] == ["1: loss=a", "2: loss=b"]
    bars = [segment for bar in axes.containers for part in bar[2] for segment in part.get_segments()]
    assert [pytest.approx(0.5), pytest.approx(0.25)] in [sorted(line[:, 0], reverse=True) for line in bars]
    assert "matplotlib.pyplot" not in set(sys.modules) - before


def test_figure_of_a_sweep_without_any_result(tmp_path: Path) -> None:
    run_folder(tmp_path, "a", "seed=1", state="failed", error="x")
    sweep_report.write(tmp_path)
    assert (tmp_path / "summary.png").stat().st_size > 0
    assert "1 job: 0 finished, 1 failed" in (tmp_path / "summary.md").read_text()


def test_a_job_that_ends_while_the_summary_is_written_is_in_it(
    sweep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own summary may be the one that ours replaces."""
    draw = sweep_report.figure

    def figure(jobs: list[Job]) -> Any:
        if any(job.state == "running" for job in jobs):
            status = {"state": "finished", "error": None, "objective": 0.5}
            (sweep / "c2" / "status.json").write_text(json.dumps(status))
        return draw(jobs)

    monkeypatch.setattr(sweep_report, "figure", figure)
    jobs = sweep_report.write(sweep)
    assert tally(jobs) == "6 jobs: 5 finished (2 without an accepted step), 1 failed"
    assert tally(jobs) in (sweep / "summary.md").read_text()
    assert "running" not in (sweep / "summary.csv").read_text()
