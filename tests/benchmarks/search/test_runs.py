"""The parts of benchmarks/search/runs.py that compute: the cubic, and what a run cost."""

from __future__ import annotations

from math import prod
from typing import Any

import pytest

from benchmarks.search import runs


def test_the_cubic_by_hand_and_to_its_end() -> None:
    """Six steps to .98: the first takes .98 (1 - (5/6)^3) of all, and all together leave a fiftieth."""
    shares = [runs.cubic_share(epoch, 5, 0.98) for epoch in range(6)]
    assert shares[0] == pytest.approx(0.98 * (1 - 125 / 216))
    assert prod(1 - share for share in shares) == pytest.approx(0.02)


def row(verdict: str, sparsity: float, epochs: int) -> dict[str, Any]:
    return {"verdict": verdict, "sparsity": sparsity, "epochs": epochs, "seconds": float(epochs)}


def test_the_cost_ends_with_the_delivered_round_and_counts_the_abandoned_before_it() -> None:
    rows = [
        row("baseline", 0.0, 8),
        row("abandoned", 0.98, 2),
        row("accepted", 0.9, 4),
        row("refused", 0.95, 4),
    ]
    assert runs.cost(rows, 8, 36.0) == {
        "epochs": 14,
        "seconds": 28.0,  # 14 of 18 epochs
        "all_epochs": 18,
        "density": pytest.approx(0.1),
        "tests": 2,
    }
    assert runs.cost([], 8, 9.0) == {
        "epochs": 8, "seconds": 9.0, "all_epochs": 8, "density": 1.0, "tests": 0
    }  # fmt: skip
