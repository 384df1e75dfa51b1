"""`samples.csv`: which sample of the source each number of a split is, so that a missed one can be looked at."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from lightning_classprune import files
from lightning_classprune.job.data.base import Sample

#: Heads the units of samples that hold objects.
UNIT = "unit"
Samples = Mapping[str, Sequence[Sample]]


def write_samples(path: Path, samples: Samples, class_names: Sequence[str] | None) -> None:
    """Write a line a sample: split, number in it, what it is called, and its class, or its unit where it holds objects.

    Args:
        path: Where to.
        samples: By split.
        class_names: Of all classes; None where samples hold objects.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["split", "number", "sample", UNIT if class_names is None else "class"])
    for split, its in samples.items():
        writer.writerows(
            [split, number, name, label if class_names is None else class_names[label]]
            for number, (name, label) in enumerate(its)
        )
    files.write_text(path, text.getvalue())


def read_samples(path: Path, class_names: Sequence[str]) -> dict[str, list[Sample]]:
    """What `write_samples` wrote.

    Raises:
        ValueError, KeyError: It is not such a file.
    """
    found: dict[str, list[Sample]] = {}
    classes = {name: index for index, name in enumerate(class_names)}
    for line in csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))):
        its = found.setdefault(line["split"], [])
        its.append((line["sample"], int(line[UNIT]) if UNIT in line else classes[line["class"]]))
    return found
