"""Confusion matrices of the guard data, as the report's page shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lightning_classprune.guard.outcomes import Decisions

LARGEST = 20  # classes; with more, each protected class is set against all others


def confusion_matrices(
    networks: Mapping[str, Decisions], class_names: Sequence[str], protected: Sequence[int]
) -> list[dict[str, Any]]:
    """Return groups of matrices: one of all classes, or, of many classes or labels, one a protected class.

    Args:
        networks: What a matrix is called -> the decisions that it counts, on the same samples.
        class_names: Of all classes or labels.
        protected: Indices of the protected ones.
    """
    if not networks:
        return []
    one = next(iter(networks.values()))
    if one.target.ndim == 1 and len(class_names) <= LARGEST:
        return [_group("", list(class_names), set(protected), networks, None)]
    return [
        _group(class_names[index], [class_names[index], "others"], {0}, networks, index)
        for index in protected
    ]


def _group(
    title: str, names: list[str], protected: set[int], networks: Mapping[str, Decisions], index: int | None
) -> dict[str, Any]:
    matrices = []
    for network, outcomes in networks.items():
        target, predicted = outcomes.target, outcomes.predicted
        if index is not None:
            target, predicted = (1 - one.long() for one in outcomes.found(index))
        size = len(names)
        flat = np.bincount((target * size + predicted).numpy(), minlength=size * size)
        rows = [
            {
                "name": name,
                "protected": i in protected,
                "cells": [
                    {
                        "count": int(n),
                        "share": int(n) / counts.sum() if counts.sum() else None,
                        "right": i == j,
                    }
                    for j, n in enumerate(counts)
                ],
            }
            for i, (name, counts) in enumerate(zip(names, flat.reshape(size, size), strict=True))
        ]
        matrices.append({"network": network, "rows": rows})
    return {"name": title, "columns": names, "matrices": matrices}
