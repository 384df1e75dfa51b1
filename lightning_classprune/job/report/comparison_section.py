"""The dense beside the delivered network, as the report's page shows them: a line a measure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_classprune.job.comparison import NETWORKS, SPLITS, AnyMeasures, Line, Rate

#: Split and network of every column of numbers.
COLUMNS = [(split, network) for split in SPLITS for network in NETWORKS]

NOT_KNOWN = {"told": "\N{EN DASH}", "rate": None}


def comparison_lines(
    both: Mapping[str, Mapping[str, Mapping[str, AnyMeasures]]],
) -> dict[str, list[dict[str, Any]]]:
    """Return, per class, a mapping a measure: what it is, and a cell for each of `COLUMNS`.

    Args:
        both: What `comparison.compared` returned.
    """
    return {name: _lines(splits) for name, splits in both.items() if any(splits.values())}


def _lines(splits: Mapping[str, Mapping[str, AnyMeasures]]) -> list[dict[str, Any]]:
    known = {
        (split, network): one.lines for split, networks in splits.items() for network, one in networks.items()
    }
    first = next(iter(known.values()))
    return [
        {
            "what": line.what,
            "cells": [
                {"head": f"{split}, {network}", **_cell(known, (split, network), place)}
                for split, network in COLUMNS
            ],
        }
        for place, line in enumerate(first)
    ]


def _cell(known: Mapping[tuple[str, str], list[Line]], column: tuple[str, str], place: int) -> dict[str, Any]:
    value = known[column][place].value if column in known else None
    if value is None:
        return NOT_KNOWN
    if isinstance(value, Rate):
        return {"told": "", "rate": value}
    return {"told": f"{value:.3f}" if isinstance(value, float) else f"{value:,}", "rate": None}
