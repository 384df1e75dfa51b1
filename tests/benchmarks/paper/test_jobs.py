"""benchmarks/paper from the archive to the report: real Trainers on a tiny archive."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.paper import data, files, tables
from tests.benchmarks.paper.tiny import JOB, write_archive
from tests.support import forked


def test_thinning_keeps_so_many_of_each_class_and_says_what_there_is():
    labels = torch.tensor([0, 1, 0, 0, 1, 1, 0, 1])
    kept = data.thinned(labels, [3, 1], seed=0)
    assert torch.bincount(labels[kept]).tolist() == [3, 1]
    assert kept.tolist() == sorted(set(kept.tolist()))
    with pytest.raises(ValueError, match=r"train_counts=\[5, 1\]: the training part has \[4, 4\]"):
        data.thinned(labels, [5, 1], seed=0)


def test_no_job_files_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no job files"):
        files.read_jobs(tmp_path)


@pytest.mark.parametrize(
    ("measured", "fraction", "end", "expected"),
    [
        ([1, 0.5001, 0.2499, 0.1249], 0.5, 0.125, [1, 0.5, 0.25, 0.125]),
        ([1, 0.2501, 0.0625, 0.0156, 0.0101], 0.75, 1 - 0.99, [1, 0.25, 0.0625, 0.015625, 0.01]),
        ([1, 0.0099], 0.99, 1 - 0.99, [1, 0.01]),
        ([1, 0.51, 0.27], 0.5, 0.0, [1, 0.5, 0.25]),
    ],
)
def test_densities_are_those_that_the_job_was_told_to_reach(measured, fraction, end, expected):
    assert files.nominal(np.array(measured), fraction, end).tolist() == expected


def test_a_gradual_arm_has_the_densities_that_it_lists():
    about = {"config": {"callbacks": {"classprune": {"search": {"densities": [0.00390625]}}}}}
    arrays = {"density": np.array([0.99999, 0.003905])}
    assert files.Job("cracks", "gradual", 1, about, arrays).densities.tolist() == [1.0, 0.00390625]


def arms(**densities: tuple[int, list[float]]) -> dict[str, dict[int, files.Job]]:
    """Arms of so many seeds with these densities, their last one the target; two positives and two negatives."""
    made = {}
    for arm, (seeds, wanted) in densities.items():
        callback = {"search": {"fraction": 1 - wanted[1]}, "target_sparsity": 1 - wanted[-1]}
        about = {"config": {"callbacks": {"classprune": callback}}}
        found = np.tile([True, arm == "blind", False, False], (len(wanted), 1))
        part = {"found": found, "score": found.astype(float), "target": np.array([True, True, False, False])}
        arrays = {f"{name}_{what}": array for name in ("guard", "test") for what, array in part.items()}
        arrays["density"] = np.array(wanted)
        made[arm] = {seed: files.Job("d", arm, seed, about, arrays) for seed in range(seeds)}
    return made


def test_what_is_missed_is_of_the_positives_of_all_parts_together():
    arrays = {
        "guard_found": np.array([[True, False, True], [False, False, True]]),
        "guard_target": np.array([True, True, False]),
        "test_found": np.array([[True, True], [True, False]]),
        "test_target": np.array([False, True]),
    }
    job = files.Job("d", "blind", 1, {}, arrays)
    assert job.missed("guard", "test").tolist() == [[False, True, False], [True, True, True]]
    assert job.missed("test").tolist() == [[False], [True]]


def test_tables_show_the_largest_density_of_at_most_one_percent_that_all_arms_have():
    halves = [2.0**-k for k in range(9)]
    quarters = [1, 0.25, 0.0625, 0.015625, 0.00390625]
    assert tables.shown_density(arms(blind=(1, halves), weighted=(1, halves))) == 2**-7
    assert tables.shown_density(arms(blind=(1, halves), weighted=(1, quarters))) == 2**-8
    assert tables.shown_density(arms(blind=(1, [1, 0.25, 0.0625, 0.015625, 0.01]))) == 0.01
    # No density of all three: the one that most have.
    most = arms(blind=(1, quarters), weighted=(1, quarters), one_shot=(1, [1, 2**-7]))
    assert tables.shown_density(most) == 2**-8
    assert tables.shown_density(arms(blind=(1, [1, 0.5]), weighted=(1, [1, 0.5, 0.25]))) == 0.5


def test_figures_draw_the_core_and_the_arms_with_ten_seeds():
    line = [1, 0.5]
    made = arms(ranking=(9, line), recipe_lr=(10, line), weighted_ranking=(3, line), blind=(10, line))
    assert tables.drawn(made) == ["blind", "weighted_ranking", "recipe_lr"]
    assert tables.drawn(arms(recipe_lr=(3, line))) == ["recipe_lr"]


def test_the_density_after_part_of_a_step_lies_between_by_ratio():
    assert tables.after(np.array([1, 0.5, 0.25]), 1.5) == pytest.approx(2**-1.5)
    assert tables.after(np.array([1, 0.25, 0.0625, 0.01]), 3) == pytest.approx(0.01)


def test_mcnemar_has_a_row_for_each_seed_at_the_density():
    made = arms(blind=(2, [1, 0.5]), weighted=(2, [1, 0.5]))
    rows = tables.mcnemar_rows(tables.result_rows(made), ["blind", "weighted"], 0.5)
    # The second positive is found by class-blind alone, by decision and at the score of no negative.
    expected = {"only arm misses": 1, "only blind misses": 0, "p": 1.0}
    expected |= {f"{key} at 1% FPR": value for key, value in expected.items()}
    assert rows == [{"arm": "weighted", "seed": seed} | expected for seed in range(2)]


def test_an_offset_gives_as_few_misses_as_the_dense_network_has_on_the_guard_part():
    (weighted,) = arms(weighted=(1, [1, 0.5]))["weighted"].values()
    score = np.array([[4.0, 3, 2, 1], [1.0, 2, 3, 4]])  # the dense network's, and one that is turned round
    found = np.array([[True, True, False, False], [False, False, True, True]])
    part = {"guard_score": score, "guard_found": found, "test_score": score + 0.5}
    moved = tables.with_offsets(replace(weighted, arrays=weighted.arrays | part))
    # The dense network misses none: its threshold is at 3, the other's at 1, below every sample of the test part.
    assert [one.found.tolist() for one in moved] == [[True, True, False, False], [True] * 4]


def call(folder: Path, module: str, *arguments: str) -> str:
    done = forked.run("-m", module, *arguments, folder=folder)
    forked.check(done)
    return done.stdout


@pytest.mark.job
def test_jobs_score_every_density_are_skipped_when_there_and_become_a_report(tmp_path):
    pytest.importorskip("sklearn")
    write_archive(tmp_path, 8)
    job = (*JOB, f"data.root={tmp_path}", "+protect.bad=0.05", f"runs={tmp_path / 'runs'}", "densities=4")
    arms = "arm=blind,recipe_lr,lightning_model_pruning"
    call(tmp_path, "benchmarks.paper", "-m", *job, arms)
    jobs = files.read_jobs(tmp_path / "runs")
    assert [job.label for job in jobs] == ["blind", "lightning_model_pruning", "recipe_lr"]
    for found in jobs:
        exact = 2.0 ** -np.arange(4) if found.label != "lightning_model_pruning" else found.arrays["density"]
        assert found.arrays["density"] == pytest.approx(exact, rel=0.02)
        assert found.arrays["test_target"].sum() == 20
        assert found.arrays["guard_score"].shape == (4, len(found.arrays["guard_target"]))
    assert "seed=1.npz is there" in call(tmp_path, "benchmarks.paper", *job, "arm=blind")

    call(
        tmp_path,
        "benchmarks.paper.report",
        str(tmp_path / "runs"),
        "--out",
        str(tmp_path / "out"),
        "--no-guard",
    )
    rows = list(csv.DictReader((tmp_path / "out" / "results.csv").open()))
    assert len(rows) == 12
    assert {row["positives"] for row in rows} == {"20"}
    assert "# The paper's experiment" in (tmp_path / "out" / "README.md").read_text()
