"""Recommendation: what the ledger's rows say about going further, in plain words, and no more than they say."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_classprune.guard import statistics
from lightning_classprune.guard.verdict import POWER
from lightning_classprune.ledger.rows import ClassCounts, Row, delivered_row, dense_row

#: More positives than this multiple of what there is are not worth naming a number for.
_WITHIN_REACH = 100


def recommendation(rows: Sequence[Row]) -> str:
    """Return what was proven, what stopped the run, and how many more guard positives would likely change that.

    Densities are shares of the prunable weights (or channels, then said so) that are kept. The number of positives
    supposes that a candidate differs from the dense network as often, and misses as many more, as the one in the row
    did; then it would pass four times out of five. Empty where no pruned network was judged.
    """
    dense, final = dense_row(rows), delivered_row(rows)
    if dense is None or final is None or len(rows) < 2:
        return ""
    said = [] if final is dense else [_stands(final)]
    failed = [row for row in rows if row["verdict"] in ("refused", "unproven") and _sparser(row, final)]
    if failed:
        nearest = min(failed, key=lambda row: float(row["sparsity"]))
        said += _failed(nearest)
    abandoned = [row for row in rows if row["verdict"] == "abandoned" and _sparser(row, final)]
    if abandoned:
        densities = ", ".join(_kept(row) for row in abandoned)
        said.append(
            f"{densities} {'was' if len(abandoned) == 1 else 'were'} given up on validation data, untested"
        )
    if not failed and not abandoned:
        said.append("nothing sparser was tried")
    return "; ".join(said) + "."


def _sparser(row: Row, final: Row) -> bool:
    return bool(row["sparsity"] > final["sparsity"])


def _density(row: Row) -> str:
    return _kept(row) + (" of the channels" if row.get("units") == "channels" else " density")


def _kept(row: Row) -> str:
    return f"{100 * (1 - row['sparsity']):.3g}%"


def _stands(final: Row) -> str:
    if final.get("level") is None:
        return f"{_density(final)} was accepted by its counts, which do not exclude chance"
    return f"{_density(final)} is proven"


def _failed(row: Row) -> list[str]:
    verdict = "refused" if row["verdict"] == "refused" else "not proven"
    against = {name: counts for name, counts in row["classes"].items() if _fails(counts, row.get("level"))}
    if not against:
        return [f"{_density(row)} was {verdict}"]
    counts = ", ".join(
        f"{name}: {c['newly_missed']} newly missed and {c['newly_found']} newly found of {c['support']}"
        for name, c in against.items()
    )
    said = [f"{_density(row)} was {verdict} ({counts})"]
    level = row["level"]
    if level is not None:
        said += [_more(name, c, row, level) for name, c in against.items()]
    return said


def _fails(counts: ClassCounts, level: float | None) -> bool:
    if level is None or counts["p_value"] is None:
        tolerance = counts["tolerance"]
        return (
            tolerance is None
            or counts["newly_missed"] - counts["newly_found"] > tolerance * counts["support"]
        )
    return bool(counts["p_value"] > level)


def _more(name: str, counts: ClassCounts, row: Row, level: float) -> str:
    """How many more positives of one class would likely prove the density of a row."""
    support, missed, found = counts["support"], counts["newly_missed"], counts["newly_found"]
    bound, tolerance = counts["upper_bound"], counts["tolerance"]
    assert tolerance is not None  # there was a test
    if bound is not None and bound < tolerance:
        return (
            f"the rise of {name} is within its tolerance, but the recall is not shown to be above its floor"
        )
    left = tolerance - max(missed - found, 0) / support
    if left <= 0:
        return (
            f"more positives of {name} would not prove it: the rise in this sample is not below the tolerance"
        )
    # A rise within the tolerance leaves that much less to be shown of a candidate that would otherwise be unchanged.
    needed = statistics.positives_needed((missed + found) / support, left, level, POWER)
    if needed > _WITHIN_REACH * support:
        return f"no number of positives of {name} within reach would likely prove it"
    if needed <= support:
        return f"as many positives of {name} would prove such a candidate four times out of five"
    return f"about {needed - support} more guard positives of {name} would likely prove it"
