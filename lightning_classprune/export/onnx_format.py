"""Self-decoding ONNX as a file to deploy."""

from __future__ import annotations

import json
from pathlib import Path

from lightning_classprune.export.artefact import Artefact, Spec
from lightning_classprune.export.checks import TOLERANCES
from lightning_classprune.export.deployed import Deployed
from lightning_classprune.export.onnx_export import export_onnx
from lightning_classprune.export.onnx_session import RUNTIME, OnnxFile
from lightning_classprune.pruning.masks import Masks


class OnnxFormat:
    """`model.onnx`, which rebuilds its weights when a stock runtime loads it."""

    name = "onnx"
    extra = "onnx"

    def write(self, rule: Deployed, folder: Path, spec: Spec) -> list[Artefact]:
        """Write the file."""
        return [write_graph(rule, folder / "model.onnx", spec, spec.masks)]


def write_graph(rule: Deployed, path: Path, spec: Spec, masks: Masks | None) -> Artefact:
    """Write what decides as one ONNX file.

    Args:
        rule: What decides.
        path: The file.
        spec: Of the export.
        masks: Of this network; None if it has none.
    """
    report = export_onnx(
        rule.network,
        path,
        spec.example,
        masks=masks,
        values=spec.values,
        normalization=rule.normalization,
        thresholds=rule.thresholds,
        offset=rule.offset,
        metadata={
            "class_names": json.dumps(spec.told["class_names"]),
            "claim": spec.claim,
            "verdict": json.dumps(spec.told["verdict"]),
        },
    )
    return Artefact(path, OnnxFile(path), TOLERANCES[spec.values], RUNTIME, {"opset": report.opset})
