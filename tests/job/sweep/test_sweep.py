"""A sweep's settings, and the frontier: what nothing beats."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_classprune.job.sweep.job_rows import Job, read_jobs
from lightning_classprune.job.sweep.sweep import Setting, frontier, settings, to_csv


def test_seeds_of_a_setting_are_grouped(sweep: Path) -> None:
    groups = settings(read_jobs(sweep))
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
    lines = list(csv.DictReader(io.StringIO(to_csv(read_jobs(sweep)))))
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
