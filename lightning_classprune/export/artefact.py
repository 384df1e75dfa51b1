"""What an export's formats are told, and what they say of each file that they write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from lightning_classprune.export.checks import Reader
from lightning_classprune.export.compact import NOT_DECLARED as NOT_DECLARED
from lightning_classprune.export.compact import Compacted
from lightning_classprune.export.onnx_export import Graph
from lightning_classprune.pruning.masks import Masks

Values = Literal["fp32", "fp16"]

_UNDECLARED = (
    "the guard has not judged this file; the card has its counts on the guard data, if these were given."
)


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
        int8: Inputs that an eight-bit file is calibrated on; None where there are none.
        folded: The network with similar channels merged, made when it is called; None where that is not asked for.
    """

    masks: Masks
    example: Tensor
    values: Values
    told: Mapping[str, Any]
    claim: str
    compacted: Callable[[int], Compacted]
    graph: Callable[[], Graph]
    int8: Tensor | None = None
    folded: Callable[[], Compacted] | None = None

    def undeclared(self) -> Spec:
        """The same for a file that was not judged: it may not carry the verdict of the network that it is made of."""
        return replace(self, claim=f"{NOT_DECLARED}: {_UNDECLARED}", told={**self.told, "verdict": None})


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
        verdict: The file's own: of the guard that judged it, or `NOT_DECLARED`; None where the network's is its too.
        keeps_name: Another file includes it by its name, which therefore says no verdict.
    """

    path: Path
    reader: Reader
    tolerance: float
    runtime: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    verdict: str | None = None
    keeps_name: bool = False
