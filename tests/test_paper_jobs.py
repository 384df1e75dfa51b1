"""benchmarks/paper.py from the archive to the report: real Trainers on a tiny archive."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import paper_data  # noqa: E402
import paper_files  # noqa: E402
import torch  # noqa: E402


def test_thinning_keeps_so_many_of_each_class_and_says_what_there_is():
    labels = torch.tensor([0, 1, 0, 0, 1, 1, 0, 1])
    kept = paper_data.thinned(labels, [3, 1], seed=0)
    assert torch.bincount(labels[kept]).tolist() == [3, 1]
    assert kept.tolist() == sorted(set(kept.tolist()))
    with pytest.raises(ValueError, match=r"train_counts=\[5, 1\]: the training part has \[4, 4\]"):
        paper_data.thinned(labels, [5, 1], seed=0)


def test_markdown_by_hand():
    assert paper_files.markdown([{"a": 1, "b": 0.123456}]) == "| a | b |\n| --- | --- |\n| 1 | 0.1235 |"


def test_no_job_files_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no job files"):
        paper_files.read_jobs(tmp_path)


def call(script: str, *arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(BENCHMARKS / script), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_jobs_score_every_density_are_skipped_when_there_and_become_a_report(tmp_path):
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    y = np.arange(160) % 2
    x = rng.integers(120, size=(160, 8, 8, 3)) + 100 * y[:, None, None, None]
    split = np.arange(160) < 40
    np.savez(
        tmp_path / "tiny.npz",
        x=x.astype(np.uint8),
        y=y,
        classes=np.array(["ok", "bad"]),
        split=split.astype(np.int64),
        split_names=np.array(["train", "test"]),
    )
    job = (
        f"data.root={tmp_path}", "data.name=tiny", "data.one_vs_rest=null", "~protect.mel", "+protect.bad=0.05",
        "model.width=4", "epochs=1", f"runs={tmp_path / 'runs'}",
    )  # fmt: skip
    arms = "arm=blind,recipe_lr,lightning_model_pruning"
    call("paper.py", "-m", *job, arms)
    jobs = paper_files.read_jobs(tmp_path / "runs")
    assert [job.label for job in jobs] == ["blind", "lightning_model_pruning", "recipe_lr"]
    for found in jobs:
        exact = 2.0 ** -np.arange(9) if found.label != "lightning_model_pruning" else found.arrays["density"]
        assert found.arrays["density"] == pytest.approx(exact, rel=0.02)
        assert found.arrays["test_target"].sum() == 20
        assert found.arrays["guard_score"].shape == (9, len(found.arrays["guard_target"]))
    assert "seed=1.npz is there" in call("paper.py", *job, "arm=blind")

    call("paper_report.py", str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--no-guard")
    rows = list(csv.DictReader((tmp_path / "out" / "results.csv").open()))
    assert len(rows) == 27
    assert {row["positives"] for row in rows} == {"20"}
    assert "# The paper's experiment" in (tmp_path / "out" / "README.md").read_text()
