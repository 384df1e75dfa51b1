"""Pictures of the guard in which objects are found otherwise, kept so that the report can outline these."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_classprune import files
from lightning_classprune.job.data.base import SplitDataModule
from lightning_classprune.job.objects.answers import ObjectAnswers, new_alarms
from lightning_classprune.job.report.pictures import Pixels, pixels
from lightning_classprune.ledger.object_pictures import worst_samples

#: Pictures of a class, and pixels of their longer side.
SHOWN, EDGE = 12, 320


@dataclass(frozen=True)
class ObjectPictures:
    """Pictures of guard samples.

    Attributes:
        pixels: Number of the sample -> `(H, W)` or `(H, W, 3)` uint8.
        scale: Pixels of these a pixel of the data, in (0, 1].
        alarm_sample: `(k,)`: the sample of each new false alarm.
        alarm_label: `(k,)`: its class.
        alarm_box: `(k, 4)`: where it is, in pixels of the data.
    """

    pixels: dict[int, Pixels]
    scale: float
    alarm_sample: Tensor
    alarm_label: Tensor
    alarm_box: Tensor

    def alarms(self, sample: int, label: int) -> Tensor:
        """`(m, 4)`: the new false alarms of a class in a sample."""
        return self.alarm_box[(self.alarm_sample == sample) & (self.alarm_label == label)]


def most_telling(dense: ObjectAnswers, delivered: ObjectAnswers, name: str) -> list[int]:
    """The samples to look at: with the most newly missed objects and other changes; else with the most missed.

    Args:
        dense: Of the dense network.
        delivered: Of the delivered one on the same samples.
        name: Of the class.
    """
    changes = delivered.found.changes(dense.found, name)
    changed = worst_samples(changes, SHOWN)
    if changed:
        return changed
    missed = Counter(delivered.found.missed_objects(name)[0].tolist())
    return sorted(
        (sample for sample, _ in missed.most_common(SHOWN)), key=lambda one: (changes.unit[one], one)
    )


def object_pictures(
    data: SplitDataModule, dense: ObjectAnswers, delivered: ObjectAnswers, protected: Sequence[int]
) -> ObjectPictures:
    """The pictures that the report shows.

    Args:
        data: The job's.
        dense: What the dense network finds in the guard.
        delivered: What the delivered one finds there.
        protected: Indices of the protected classes.
    """
    names = delivered.found.names
    wanted = sorted({one for index in protected for one in most_telling(dense, delivered, names[index])})
    guard: Any = data.splits.parts["guard"]
    alarms = [
        (sample, index, new_alarms(dense, delivered, sample, index))
        for sample in wanted
        for index in protected
    ]
    boxes = [box for *_, its in alarms for box in its.tolist()]
    return ObjectPictures(
        {sample: pixels(guard[sample][0], data.normalization, EDGE) for sample in wanted},
        min(1.0, EDGE / max(data.image_size)),
        torch.tensor([sample for sample, _, its in alarms for _ in its], dtype=torch.int64),
        torch.tensor([index for _, index, its in alarms for _ in its], dtype=torch.int64),
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
    )


def write_object_pictures(path: Path, pictures: ObjectPictures) -> None:
    """Keep pictures of one size in an `.npz` file."""
    with files.replacing(path) as part, part.open("wb") as file:
        np.savez_compressed(
            file,
            index=np.array(list(pictures.pixels), np.int64),
            pixels=np.stack(list(pictures.pixels.values())),
            scale=np.float64(pictures.scale),
            alarm_sample=pictures.alarm_sample.numpy(),
            alarm_label=pictures.alarm_label.numpy(),
            alarm_box=pictures.alarm_box.numpy(),
        )


def read_object_pictures(path: Path) -> ObjectPictures:
    """What `write_object_pictures` kept."""
    with np.load(path, allow_pickle=False) as arrays:
        shown = dict(zip(arrays["index"].tolist(), arrays["pixels"], strict=True))
        alarms = [torch.from_numpy(arrays[f"alarm_{name}"]) for name in ("sample", "label", "box")]
        return ObjectPictures(shown, float(arrays["scale"]), *alarms)
