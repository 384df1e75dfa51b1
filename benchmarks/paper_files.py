"""Reads what the jobs of benchmarks/paper.py wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from paper_measures import Scored


@dataclass(frozen=True)
class Job:
    """One job's file: data set, label (the arm), seed, configuration and the arrays of `RoundScores.arrays`."""

    data: str
    label: str
    seed: int
    about: dict[str, Any]
    arrays: dict[str, np.ndarray]

    @property
    def densities(self) -> np.ndarray:
        """Nominal densities 1, 1/2, ... of the rounds: the nearest power of two."""
        return 2.0 ** np.rint(np.log2(self.arrays["density"]))

    def scored(self, part: str) -> list[Scored]:
        """Return every round's network on a part."""
        score, found = self.arrays[f"{part}_score"], self.arrays[f"{part}_found"]
        return [
            Scored(s.astype(float), f, self.arrays[f"{part}_target"])
            for s, f in zip(score, found, strict=True)
        ]


def read_jobs(folder: Path) -> list[Job]:
    """Return the jobs under `folder`/<data>/<label>/seed=<n>.npz, in order.

    Raises:
        ValueError: there are none.
    """
    jobs = []
    for file in sorted(folder.glob("*/*/seed=*.npz")):
        if file.name.endswith(".partial.npz"):
            continue
        with np.load(file) as archive:
            arrays = {name: archive[name] for name in archive.files}
        about = json.loads(str(arrays.pop("about")))
        jobs.append(Job(file.parts[-3], file.parts[-2], int(file.stem.split("=")[1]), about, arrays))
    if not jobs:
        raise ValueError(f"{folder}: no job files <data>/<label>/seed=<n>.npz; run benchmarks/paper.py first")
    return jobs


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows with equal keys as a Markdown table; floats get four significant digits."""
    names = list(rows[0])
    cells = [[f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    lines = [names, ["---"] * len(names), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
