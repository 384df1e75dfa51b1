"""The smallest ONNX file: of the packed whole and the packed compact network the one of fewer bytes."""

from __future__ import annotations

from pathlib import Path

from lightning_classprune.export.artefact import Artefact, Spec
from lightning_classprune.export.compact_format import CompactFormat
from lightning_classprune.export.deployed import Deployed
from lightning_classprune.export.onnx_format import OnnxFormat


class SmallFormat:
    """`model.onnx`, or `compact.onnx` where that is smaller."""

    name = "small"
    extra = "compact"

    def write(self, rule: Deployed, folder: Path, spec: Spec) -> list[Artefact]:
        """Write both, and keep one."""
        written = [*OnnxFormat().write(rule, folder, spec), *CompactFormat().write(rule, folder, spec)]
        smallest = min(
            (one for one in written if one.path.suffix == ".onnx"), key=lambda one: one.path.stat().st_size
        )
        for one in written:
            if one is not smallest:
                one.path.unlink()
        return [smallest]
