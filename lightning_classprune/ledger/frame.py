"""Frames: the ledger as a pandas frame, for notebooks and comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lightning_classprune.ledger.rows import Row, delivered_row

if TYPE_CHECKING:
    import pandas

# Nullable types: a round 3 is 3 and not 3.0, also where another row has no count.
_TYPES = {
    "round": "Int64",
    "attempt": "Int64",
    "sparsity": "Float64",
    "density": "Float64",
    "verdict": "string",
    "reason": "string",
    "class": "string",
    "corruption": "string",
    "support": "Int64",
    "fn": "Int64",
    "recall": "Float64",
    "newly_missed": "Int64",
    "newly_found": "Int64",
    "p_value": "Float64",
    "upper_bound": "Float64",
    "tolerance": "Float64",
    "fp": "Int64",
    "negatives": "Int64",
    "new_alarms": "Int64",
    "gone_alarms": "Int64",
    "fp_p_value": "Float64",
    "fp_upper_bound": "Float64",
    "max_fp_rise": "Float64",
    "fp_risen": "boolean",
    "offset": "Float64",
    "chance": "Float64",
    "units": "Int64",
    "objects": "Int64",
    "objects_fn": "Int64",
    "objects_newly_missed": "Int64",
    "objects_newly_found": "Int64",
    "objects_fp": "Int64",
    "objects_new_alarms": "Int64",
    "objects_gone_alarms": "Int64",
    "rule": "string",
    "level": "Float64",
    "epochs": "Int64",
    "seconds": "Float64",
    "seed": "Int64",
    "delivered": "bool",
}


def ledger_frame(rows: Sequence[Row]) -> pandas.DataFrame:
    """Return one row per round and protected class, and per corruption of the guard, in the ledger's order.

    Columns: `round`, `attempt`, `sparsity` and `density` (0..1), `verdict` and `reason` of the whole round, `class`,
    `corruption` (under which the rest of the row was counted; `<NA>`: as the samples come), `support`, `fn`, `recall`,
    `newly_missed`, `newly_found`, `p_value`, `upper_bound`, `tolerance`, the same of false alarms (`fp`, `negatives`,
    `new_alarms`, `gone_alarms`, `fp_p_value`, `fp_upper_bound`, `max_fp_rise`, `fp_risen`), `offset`, `chance`, the
    counts of objects in the units that were tested (`units`, `objects`, `objects_fn`, `objects_newly_missed`,
    `objects_newly_found`, `objects_fp`, `objects_new_alarms`, `objects_gone_alarms`) and the `rule` by which one is
    found, `level`, `epochs`, `seconds`, `seed`, `delivered` (this round is the network that is handed over). What was
    not measured is `<NA>`; a round in which no class could be counted is one row without a class.

    Raises:
        ModuleNotFoundError: pandas is not installed.
    """
    try:
        import pandas
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'ledger_frame needs pandas: pip install "lightning-classprune[notebook]"'
        ) from error
    final = delivered_row(rows)
    records: list[dict[str, Any]] = []
    for row in rows:
        # Of the whole row "units" says what its sparsity counts.
        common = {key: value for key, value in row.items() if key != "units"} | {
            "density": 1 - row["sparsity"],
            "delivered": row is final,
        }
        of_classes = [{"class": name} | dict(counts) for name, counts in row["classes"].items()]
        for condition, there in row.get("corruptions", {}).items():
            named = {"corruption": condition, "verdict": there["verdict"], "reason": there["reason"]}
            of_classes += [
                {"class": name} | named | dict(counts) for name, counts in there["classes"].items()
            ]
        records += [common | of_class for of_class in of_classes or [{}]]
    frame = pandas.DataFrame.from_records(records, columns=list(_TYPES))
    return frame.astype(_TYPES)
