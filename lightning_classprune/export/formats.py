"""Formats: the registry of what an export writes. A new one is a file of its own and a word here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

from lightning_classprune.export.artefact import Artefact, Spec
from lightning_classprune.export.c_format import CFormat
from lightning_classprune.export.compact_format import CompactFormat
from lightning_classprune.export.deployed import Deployed
from lightning_classprune.export.fast_format import FastFormat
from lightning_classprune.export.onnx_format import OnnxFormat, PlainFormat
from lightning_classprune.export.small_format import SmallFormat
from lightning_classprune.export.ticket_format import TicketFormat


class Format(Protocol):
    """One kind of file to deploy.

    Attributes:
        name: Of the format, for messages.
        extra: The extra of this package that it needs, if it needs one.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def extra(self) -> str | None: ...  # noqa: D102

    def write(self, rule: Deployed, folder: Path, spec: Spec) -> Sequence[Artefact]:
        """Write the files into a folder and return them as they read again; none where there is nothing to write.

        Args:
            rule: The network on the CPU with its normalisation and decision; it must not be changed.
            folder: Where the files go.
            spec: What all formats share.

        Raises:
            ModuleNotFoundError: A package of the extra is missing.
            ValueError: The format cannot express the network.
        """


#: What an export is for.
Purpose = Literal["all", "latency", "size", "mcu"]

FORMATS: dict[Purpose, list[Format]] = {
    "all": [TicketFormat(), OnnxFormat(), PlainFormat(), CompactFormat()],
    "latency": [FastFormat()],
    "size": [TicketFormat(), SmallFormat()],
    "mcu": [CFormat()],
}
