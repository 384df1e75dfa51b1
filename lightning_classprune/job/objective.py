"""What a job returns to Hydra's sweepers, from its ledger.

All of it rests on guard data, never on the test split. A sweep that picks its best job by guard counts has looked at
them often: each job's confidence holds for that job alone, and the test split says how good the picked one is.
"""

from __future__ import annotations

from collections.abc import Sequence

from lightning_classprune.ledger.rows import ClassCounts, Row, delivered_row, dense_row

Objective = float | tuple[float, ...]


def sparsity(rows: Sequence[Row]) -> float:
    """Return the sparsity of the delivered network, 0..1; 0 where nothing was judged."""
    final = delivered_row(rows)
    return 0.0 if final is None else float(final["sparsity"])


def balanced(rows: Sequence[Row], max_fp_rise: float) -> float:
    """Return the sparsity where both limits hold for every protected class, else minus the largest excess; to maximise.

    The limits are of the counts: the tolerance of the misses, and the allowed rise of the false alarms.

    Args:
        rows: The ledger.
        max_fp_rise: The allowed rise where false alarms are not guarded.
    """
    final, misses, alarms = delivered_row(rows), fn_increase(rows), fp_increase(rows)
    if final is None:
        return 0.0
    excess = [
        rise - (1.0 if limit is None else limit)
        for name, counts in final["classes"].items()
        for rise, limit in (
            (misses.get(name, 0.0), counts["tolerance"]),
            (alarms.get(name, 0.0), max_fp_rise if counts["max_fp_rise"] is None else counts["max_fp_rise"]),
        )
    ]
    worst = max(excess, default=0.0)
    return -worst if worst > 0 else sparsity(rows)


def weighted(rows: Sequence[Row], weight: float) -> float:
    """Return the sparsity minus `weight` times the worst rise of an error rate, to maximise.

    Of each protected class that is `fn_increase`, and `fp_increase` where its false alarms are guarded. The rise is
    against the job's own dense network: search with this where the dense network is the same in all jobs, or a setting
    that trains a poor one wins.
    """
    alarms = fp_increase(rows)
    rises = [*fn_increase(rows).values(), *(alarms[name] for name in _guarded(rows) if name in alarms)]
    return sparsity(rows) - weight * max(rises, default=0.0)


def sparsity_fn(rows: Sequence[Row]) -> tuple[float, float]:
    """Return the delivered sparsity, to maximise, and the worst error of a protected class, to minimise.

    The error is the FN rate of the delivered network on guard data, 0..1, plus the false-alarm rate where false alarms
    are guarded: the FN rate alone falls when more is called positive. 1 where nothing could be judged.
    """
    final = delivered_row(rows)
    classes = {} if final is None else final["classes"]
    errors = [
        counts["fn"] / counts["support"] + (_fp_rate(counts) if name in _guarded(rows) else 0.0)
        for name, counts in classes.items()
        if counts["support"]
    ]
    return sparsity(rows), max(errors, default=1.0)


def fn_increase(rows: Sequence[Row]) -> dict[str, float]:
    """Return, per protected class, the guard FN rate of the delivered network minus that of the dense one, -1..1.

    A class without guard samples is left out. Empty where nothing was judged, or the dense scores were NaN.
    """
    return {
        name: (now["fn"] - before["fn"]) / now["support"]
        for name, (before, now) in _pairs(rows).items()
        if now["support"]
    }


def fp_increase(rows: Sequence[Row]) -> dict[str, float]:
    """Return the same of the guard false-alarm rate; a class without other guard samples is left out."""
    return {
        name: (now["fp"] - before["fp"]) / now["negatives"]
        for name, (before, now) in _pairs(rows).items()
        if now["negatives"]
    }


def _pairs(rows: Sequence[Row]) -> dict[str, tuple[ClassCounts, ClassCounts]]:
    dense, final = dense_row(rows), delivered_row(rows)
    if dense is None or final is None:
        return {}
    return {
        name: (dense["classes"][name], counts)
        for name, counts in final["classes"].items()
        if name in dense["classes"]
    }


def _guarded(rows: Sequence[Row]) -> set[str]:
    """The classes whose false alarms a verdict of the run looks at; the dense network's row does not say."""
    return {
        name for row in rows for name, counts in row["classes"].items() if counts["max_fp_rise"] is not None
    }


def _fp_rate(counts: ClassCounts) -> float:
    return counts["fp"] / counts["negatives"] if counts["negatives"] else 0.0
