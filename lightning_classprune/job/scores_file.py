"""`scores.npz`: what the dense and the delivered network said of the guard and the test split, sample by sample."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lightning_classprune import files
from lightning_classprune.guard.outcomes import Decisions
from lightning_classprune.job.final_test import Answers

#: Split (`guard`, `test`) -> network (`dense`, `delivered`) -> what it says there.
Scores = Mapping[str, Mapping[str, Answers]]


def write_scores(path: Path, scores: Scores) -> None:
    """Write the arrays `SPLIT/target`, `SPLIT/NETWORK/predicted` and `SPLIT/NETWORK/margin/CLASS`."""
    arrays: dict[str, Any] = {}
    names: tuple[str, ...] = ()
    for split, networks in scores.items():
        for network, one in networks.items():
            names = one.decisions.names
            arrays[f"{split}/target"] = one.decisions.target.to(torch.int16).numpy()
            arrays[f"{split}/{network}/predicted"] = one.decisions.predicted.to(torch.int16).numpy()
            for name, margin in one.margins.items():
                arrays[f"{split}/{network}/margin/{names.index(name)}"] = margin.numpy()
    with files.replacing(path) as part, part.open("wb") as file:
        np.savez_compressed(file, class_names=np.array(names), **arrays)


def read_scores(path: Path) -> dict[str, dict[str, Answers]]:
    """What `write_scores` wrote.

    Raises:
        ValueError, KeyError: It is not such a file.
    """
    found: dict[str, dict[str, Answers]] = {}
    with np.load(path, allow_pickle=False) as arrays:
        names = tuple(str(name) for name in arrays["class_names"])
        for key in arrays.files:
            if not key.endswith("/predicted"):
                continue
            split, network, _ = key.split("/")
            target = torch.from_numpy(arrays[f"{split}/target"]).long()
            decisions = Decisions(target, torch.from_numpy(arrays[key]).long(), len(names), names)
            start = f"{split}/{network}/margin/"
            margins = {
                names[int(name.removeprefix(start))]: torch.from_numpy(arrays[name])
                for name in arrays.files
                if name.startswith(start)
            }
            found.setdefault(split, {})[network] = Answers(decisions, margins)
    return found
