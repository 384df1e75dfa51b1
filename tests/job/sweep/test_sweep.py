"""A sweep's settings, and the frontier: what nothing beats."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_classprune.job.sweep.job_rows import ClassErrors, Errors, Job, read_jobs
from lightning_classprune.job.sweep.sweep import Setting, frontier, settings, to_csv


def test_seeds_of_a_setting_are_grouped(sweep: Path) -> None:
    groups = settings(read_jobs(sweep))
    assert [(one.label, len(one.jobs), one.pruned) for one in groups] == [
        ("loss=a", 2, True),
        ("loss=b", 2, False),
    ]
    assert groups[0].point == pytest.approx((0.625, (11 + 8) / 100, 0.05))
    assert groups[1].point == pytest.approx((0.0, 0.2, 0.05))
    assert groups[0].dense_rates == pytest.approx((0.2, 0.05))
    assert frontier(groups) == groups[:1]


def test_labels_are_short() -> None:
    values = (("search.rewind", "lr"), ("optimizer.lr", "0.00123456"), ("seed/x", "12345678"))
    assert Setting(values, ()).label == "rewind=lr, lr=0.001235, x=12345678"


def setting(name: str, *points: tuple[float, float, int]) -> Setting:
    """Jobs of a sparsity, and of misses and false alarms among 100 each; the dense networks err on half."""
    jobs = [
        Job(
            "",
            {},
            None,
            "finished",
            sparsity=sparsity,
            accepted=int(sparsity > 0),
            classes={"crack": ClassErrors(Errors(50, 100, 50, 100), Errors(misses, 100, alarms, 100))},
        )
        for sparsity, misses, alarms in points
    ]
    return Setting((("name", name),), tuple(jobs))


def test_frontier_by_hand() -> None:
    a, b, c, d, e, f = (
        setting("a", (0.5, 10, 5)),
        setting("b", (0.8, 12, 5)),
        setting("c", (0.7, 13, 5)),  # b beats it
        setting("d", (0.9, 20, 5)),
        setting("e", (0.5, 11, 5)),  # a beats it
        setting("f", (0.4, 10, 4)),  # has fewer false alarms than any
    )
    assert frontier([d, c, b, e, a, f]) == [f, a, b, d]
    unpruned = setting("dense", (0.0, 10, 5))
    assert frontier([unpruned]) == []
    assert frontier([unpruned, c]) == [c]


def test_what_keeps_up_with_a_poor_dense_network_earns_nothing() -> None:
    """Rates are absolute: no rise at all over a network that errs on half of all cases is beaten by a rise to 20%."""
    poor, good = setting("poor", (0.9, 50, 50)), setting("good", (0.9, 20, 20))
    assert frontier([poor, good]) == [good]


def test_a_lucky_seed_does_not_make_a_frontier() -> None:
    lucky = setting("lucky", (0.99, 0, 5), (0.0, 10, 5), (0.0, 10, 5))
    steady = setting("steady", (0.6, 6, 5), (0.6, 6, 5))
    assert frontier([lucky, steady]) == [steady]


POINTS = st.lists(
    st.tuples(st.sampled_from([0.2, 0.5, 0.9]), st.sampled_from([0, 10, 20]), st.sampled_from([0, 10])),
    max_size=8,
)


@given(POINTS)
def test_nothing_beats_the_frontier_and_it_beats_all_else(points: list[tuple[float, int, int]]) -> None:
    groups = [setting(str(i), point) for i, point in enumerate(points)]
    best = frontier(groups)
    for one in groups:
        better = [
            other
            for other in groups
            if other.point[0] >= one.point[0]
            and other.point[1] <= one.point[1]
            and other.point[2] <= one.point[2]
            and other.point != one.point
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
    assert (lines[0]["guard_fp/crack"], lines[0]["guard_negatives/crack"]) == ("5", "100")
    assert (lines[0]["test_fp_dense/crack"], lines[0]["test_fp/crack"], lines[0]["test_negatives/crack"]) == (
        "1",
        "2",
        "9",
    )
    assert (lines[0]["miss_rate"], lines[0]["miss_rate_dense"], lines[0]["alarm_rate"]) == (
        "0.22",
        "0.2",
        "0.05",
    )
    assert (lines[4]["state"], lines[4]["error"], lines[4]["sparsity"]) == (
        "failed",
        "ValueError: a|b <c>",
        "",
    )
