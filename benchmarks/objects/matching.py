"""`matching`: how long 500 pictures of nuclei take by each rule, once they lie in memory.

Every nucleus' prediction is the nucleus moved by up to a pixel each way, some are left out, and some are made up.
Without `--root` ellipses take the place of nuclei.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.support import markdown, named, versions
from lightning_classprune.guard.matching import boxes_of, in_turn
from lightning_classprune.guard.objects import Reading
from lightning_classprune.guard.tasks import Detection, InstanceSegmentation, Segmentation

Ints = NDArray[np.int64]

PICTURES, BATCH, MOST = 500, 8, 5.0


def nuclei(root: Path | None) -> list[Ints]:
    """Maps of numbers of 500 pictures: of the archive, or of ellipses."""
    if root is not None:
        with np.load(root / "nuclei_dsb2018_192.npz", allow_pickle=False) as arrays:
            return [one.astype(np.int64) for one in arrays["instances"][:PICTURES]]
    rng = np.random.default_rng(0)
    rows, columns = np.indices((192, 192))
    made = []
    for _ in range(PICTURES):
        one = np.zeros((192, 192), np.int64)
        for number in range(1, 41):
            (y, x), (high, wide) = rng.integers(0, 192, 2), rng.uniform(4, 12, 2)
            one[((rows - y) / high) ** 2 + ((columns - x) / wide) ** 2 < 1] = number
        made.append(one)
    return made


def guessed(true: Ints, rng: np.random.Generator) -> Ints:
    """A prediction: every object moved a little, some left out, a few made up."""
    moved = np.roll(true, rng.integers(-1, 2, 2), (0, 1))
    gone = rng.random(int(moved.max()) + 1) < 0.1
    moved = np.where(gone[moved], 0, moved)
    for number in range(1, 4):
        y, x = rng.integers(0, 180, 2)
        moved[y : y + 10, x : x + 10] = true.max() + number
    return moved


def listed(numbers: Ints, rng: np.random.Generator | None = None) -> dict[str, Any]:
    """Masks as `InstanceSegmentation` reads them, and their boxes; with scores where they are predictions."""
    there = np.unique(numbers[numbers > 0])
    told = {"map": torch.from_numpy(numbers), "labels": torch.ones(len(there), dtype=torch.int64)}
    places, count = in_turn(numbers)
    told["boxes"] = torch.from_numpy(boxes_of(places, count))
    if rng is not None:
        told["scores"] = torch.from_numpy(rng.random(len(there)))
    return told


def matching(root: Path | None) -> list[str]:
    """A table: seconds by rule, with and without the biases at which offsets are tried."""
    rng = np.random.default_rng(1)
    true = nuclei(root)
    claimed = [guessed(one, rng) for one in true]
    target, given = [listed(one) for one in true], [listed(one, rng) for one in claimed]
    masks, scores = (torch.from_numpy(np.stack(one) > 0) for one in (true, claimed))
    raw = np.where(scores, 3.0, -3.0) + rng.normal(size=scores.shape)
    logits = torch.from_numpy(ndimage.gaussian_filter(raw, (0, 1, 1))).float()
    kinds: dict[str, tuple[Any, Any, Any]] = {
        "InstanceSegmentation, IoU": (InstanceSegmentation(), given, target),
        "InstanceSegmentation, centroid": (InstanceSegmentation(rule="centroid"), given, target),
        "InstanceSegmentation, coverage": (InstanceSegmentation(rule="coverage"), given, target),
        "Detection, IoU": (Detection(), given, target),
        "Segmentation, coverage": (Segmentation(), logits, masks.long()),
        "Segmentation, IoU": (Segmentation(rule="iou"), logits, masks.long()),
        "Segmentation, centroid": (Segmentation(rule="centroid"), logits, masks.long()),
    }
    rows = []
    for name, (kind, predictions, targets) in kinds.items():
        row: dict[str, Any] = {"task and rule": name}
        for with_offset in (False, True):
            biases = (0.0, *kind.biases()) if with_offset else (0.0,)
            how = Reading(("background", "nucleus"), (1,), 0.0, biases)
            began, found_, objects = time.process_time(), 0, 0
            for start in range(0, PICTURES, BATCH):
                batch = slice(start, start + BATCH)
                _, seen = kind.read(predictions[batch], targets[batch], how)
                found_, objects = found_ + int(seen[1].found[:, 0].sum()), objects + len(seen[1].found)
            row["objects"], row["found"] = objects, found_
            row["s with offsets" if with_offset else "s"] = f"{time.process_time() - began:.2f}"
            row["biases"] = len(biases)
        rows.append(row)
    which = "nuclei of the archive" if root is not None else "ellipses"
    return [
        "# Time of the matching",
        "",
        f"{PICTURES} pictures of 192 x 192 ({which}), in batches of {BATCH}, processor time of one core; with offsets: "
        f"what is found is counted at every bias. Each bias is one matching more. The aim is {MOST:g} s for one.",
        "",
        markdown(rows),
        "",
        f"Made by `python -m benchmarks.objects matching`, {named(versions())}.",
    ]
