"""The sweep that these tests read."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.job.sweep.folders import row, run_folder


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
