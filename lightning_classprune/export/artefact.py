"""What an export's formats are told, and what they say of each file that they write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from lightning_classprune.export.checks import Reader
from lightning_classprune.export.compact import Compacted
from lightning_classprune.export.onnx_export import Graph
from lightning_classprune.pruning.masks import Masks

Values = Literal["fp32", "fp16"]


@dataclass(frozen=True)
class Spec:
    """What all formats of one export share.

    Attributes:
        masks: Parameter name -> bool tensor, True = kept.
        example: Real inputs `(n, ...)`, n >= 1, as the files will get them.
        values: Type in which weights are stored.
        told: What a file tells its reader: class names, thresholds, verdict, ledger and what the user added; JSON
            values.
        claim: One sentence: what was proven.
        compacted: Multiple that widths are rounded up to -> the network without what the masks made useless, made at
            the first call.
        graph: The whole network with its normalisation and decision, made at the first call.
    """

    masks: Masks
    example: Tensor
    values: Values
    told: Mapping[str, Any]
    claim: str
    compacted: Callable[[int], Compacted]
    graph: Callable[[], Graph]


@dataclass(frozen=True)
class Artefact:
    """One file that was written.

    Attributes:
        path: The file.
        reader: What the file decides, read again.
        runtime: What runs it where it is deployed, if `reader` does too: then it is timed, and counted on test data.
        tolerance: How far a score may be from the module's, relative to the largest score, or to 1 where all are
            smaller.
        facts: What else the card says of it; JSON values.
    """

    path: Path
    reader: Reader
    tolerance: float
    runtime: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
