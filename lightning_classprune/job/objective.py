"""What a job returns to Hydra's sweepers, from its ledger.

All of it rests on guard data, never on the test split. A sweep that picks its best job by guard counts has looked at
them often: each job's confidence holds for that job alone, and the test split says how good the picked one is.
"""

from __future__ import annotations

from collections.abc import Sequence

from lightning_classprune.ledger.rows import Row, delivered_row, dense_row

Objective = float | tuple[float, ...]


def sparsity(rows: Sequence[Row]) -> float:
    """Return the sparsity of the delivered network, 0..1; 0 where nothing was judged."""
    final = delivered_row(rows)
    return 0.0 if final is None else float(final["sparsity"])


def weighted(rows: Sequence[Row], weight: float) -> float:
    """Return the sparsity minus `weight` times the worst `fn_increase`, to maximise.

    The increase is against the job's own dense network: search with this where the dense network is the same in all
    jobs, or a setting that trains a poor one wins.
    """
    return sparsity(rows) - weight * max(fn_increase(rows).values(), default=0.0)


def sparsity_fn(rows: Sequence[Row]) -> tuple[float, float]:
    """Return the delivered sparsity, to maximise, and the worst FN rate of a protected class, 0..1, to minimise.

    The rate is that of the delivered network on guard data; 1 where nothing could be judged.
    """
    final = delivered_row(rows)
    classes = [] if final is None else final["classes"].values()
    rates = [counts["fn"] / counts["support"] for counts in classes if counts["support"]]
    return sparsity(rows), max(rates, default=1.0)


def fn_increase(rows: Sequence[Row]) -> dict[str, float]:
    """Return, per protected class, the guard FN rate of the delivered network minus that of the dense one, -1..1.

    A class without guard samples is left out. Empty where nothing was judged, or the dense scores were NaN.
    """
    dense, final = dense_row(rows), delivered_row(rows)
    if dense is None or final is None:
        return {}
    return {
        name: (counts["fn"] - dense["classes"][name]["fn"]) / counts["support"]
        for name, counts in final["classes"].items()
        if name in dense["classes"] and counts["support"]
    }
