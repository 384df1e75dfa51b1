"""Recommendation: what the ledger's rows say about going further, in plain words, and no more than they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_classprune.guard import statistics
from lightning_classprune.guard.verdict import POWER
from lightning_classprune.ledger.rows import ClassCounts, Row, delivered_row, dense_row

#: More positives than this multiple of what there is are not worth naming a number for.
_WITHIN_REACH = 10


def recommendation(rows: Sequence[Row]) -> str:
    """Return what was proven, what stopped the run, and how many more guard cases would likely change that.

    The number of cases supposes that a candidate differs from the dense network as often, and errs as much more, as the
    one in the row did; then it would pass four times out of five. Empty where no pruned network was judged.
    """
    dense, final = dense_row(rows), delivered_row(rows)
    if dense is None or final is None or len(rows) < 2:
        return ""
    said = [] if final is dense else [_stands(final)]
    failed = [row for row in rows if row["verdict"] in ("refused", "unproven") and _sparser(row, final)]
    if failed:
        said += _failed(min(failed, key=lambda row: row["sparsity"]))
    abandoned = [row for row in rows if row["verdict"] == "abandoned" and _sparser(row, final)]
    if abandoned:
        which = ", ".join(_at(row) for row in abandoned)
        said.append(
            f"{which} {'was' if len(abandoned) == 1 else 'were'} given up on validation data, untested"
        )
    if not failed and not abandoned:
        said.append("nothing sparser was tried")
    return "; ".join(said) + "."


def _sparser(row: Row, final: Row) -> bool:
    return row["sparsity"] > final["sparsity"]


def _at(row: Row) -> str:
    of = " of the channels" if row["units"] == "channels" else " sparsity"
    return f"{100 * row['sparsity']:.4g}%{of}"


def _stands(final: Row) -> str:
    if final["level"] is None:
        return f"{_at(final)} was accepted by its counts, which do not exclude chance"
    return f"{_at(final)} is proven"


def _failed(row: Row) -> list[str]:
    verdict = "refused" if row["verdict"] == "refused" else "not proven"
    level = row["level"]
    told: list[str] = []
    more: list[str] = []
    counted = dict(row["classes"])
    for condition, there in row.get("corruptions", {}).items():
        counted |= {f"{name} under {condition}": counts for name, counts in there["classes"].items()}
    for name, counts in counted.items():
        for side in _sides(name, counts):
            if side.fails(level):
                told.append(f"{name}: {side.new} {side.what}, {side.gone} {side.undone} of {side.cases}")
                more += [] if level is None else [side.more(level)]
    said = f"{_at(row)} was {verdict}"
    return [f"{said} ({', '.join(told)})" if told else said, *more]


@dataclass(frozen=True)
class _Side:
    """Misses or false alarms of one class in a row that did not stand."""

    name: str
    what: str
    undone: str
    of: str
    cases: int
    new: int
    gone: int
    allowed: float | None
    p_value: float | None

    def fails(self, level: float | None) -> bool:
        """Whether this side kept the row from standing."""
        if level is None or self.p_value is None:
            return self.allowed is None or self.new - self.gone > self.allowed * self.cases
        return self.p_value > level

    def more(self, level: float) -> str:
        """How many more cases would likely prove this side."""
        assert self.allowed is not None  # there was a test
        seen = max(self.new - self.gone, 0) / self.cases
        if seen >= self.allowed:
            return f"more {self.of} of {self.name} would not prove it: the rise in this sample is not below the limit"
        if (
            self.allowed < 1
            and statistics.exact_p_value(self.new, self.gone, self.cases, self.allowed) <= level
        ):
            return f"the rise of {self.name} is within its tolerance, but the recall is not shown to be above its floor"
        # A rise within the limit leaves that much less to be shown of a candidate that would otherwise be unchanged.
        discordance = (self.new + self.gone) / self.cases
        needed = statistics.positives_needed(discordance, self.allowed - seen, level, POWER)
        if needed > _WITHIN_REACH * self.cases:
            return f"no number of {self.of} of {self.name} within reach would likely prove it"
        return (
            f"about {max(needed - self.cases, 1)} more guard {self.of} of {self.name} would likely prove it"
        )


def _sides(name: str, c: ClassCounts) -> list[_Side]:
    sides = [
        _Side(
            name,
            "newly missed",
            "newly found",
            "positives",
            c["support"],
            c["newly_missed"],
            c["newly_found"],
            c["tolerance"],
            c["p_value"],
        )
    ]
    if c["max_fp_rise"] is not None:
        sides.append(
            _Side(
                name,
                "new false alarms",
                "gone",
                "negatives",
                c["negatives"],
                c["new_alarms"],
                c["gone_alarms"],
                c["max_fp_rise"],
                c["fp_p_value"],
            )
        )
    return sides
