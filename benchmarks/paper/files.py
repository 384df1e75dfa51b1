"""The files of the jobs: written, and read for the report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.paper.measures import Scored
from lightning_classprune.files import replacing


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
        """Nominal densities of the rounds: 1, and as the job was told to prune."""
        callbacks = self.about["config"]["callbacks"]
        if (ours := callbacks.get("classprune")) is not None:
            search = ours["search"]
            if "densities" in search:
                return nearest(self.arrays["density"], np.array([1.0, *search["densities"]]))
            return nominal(self.arrays["density"], search["fraction"], 1 - ours["target_sparsity"])
        return nominal(self.arrays["density"], callbacks["model_pruning"]["amount"])

    def scored(self, part: str) -> list[Scored]:
        """Return every round's network on a part."""
        score, found = self.arrays[f"{part}_score"], self.arrays[f"{part}_found"]
        return [
            Scored(s.astype(float), f, self.arrays[f"{part}_target"])
            for s, f in zip(score, found, strict=True)
        ]

    def missed(self, *parts: str) -> np.ndarray:
        """Return `(rounds, positives)`: whether each network misses each positive of these parts together."""
        found = [self.arrays[f"{part}_found"][:, self.arrays[f"{part}_target"]] for part in parts]
        return ~np.concatenate(found, axis=1)


def nominal(measured: np.ndarray, fraction: float, end: float = 0.0) -> np.ndarray:
    """Return, for each measured density `(rounds,)`, the nearest of 1, 1 - f, (1 - f)^2, ... above `end`, or `end`.

    Measured ones differ a little by arm (rounding, weights that are zero by themselves).
    """
    steps = (1 - fraction) ** np.arange(len(measured))
    return nearest(measured, np.append(steps[steps > end * (1 + 1e-9)], end or []))


def nearest(measured: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Return the nearest of the allowed densities, in ratios.

    Rounded, so that the same density reached by other steps is the same number.
    """
    found = np.abs(np.log(measured)[:, None] - np.log(allowed)).argmin(1)
    return np.array([float(f"{density:.9g}") for density in allowed[found]])


def write_job(file: Path, about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write a job's file, whole or not at all."""
    # Not by its name, to which NumPy would add the ending of an archive.
    with replacing(file) as part, part.open("wb") as open_file:
        np.savez_compressed(open_file, about=np.array(json.dumps(about)), **arrays)


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
        raise ValueError(
            f"{folder}: no job files <data>/<label>/seed=<n>.npz; run `python -m benchmarks.paper` first"
        )
    return jobs
