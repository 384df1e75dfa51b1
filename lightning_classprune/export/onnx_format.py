"""Self-decoding ONNX as a file to deploy, and the ordinary file beside it."""

from __future__ import annotations

import json
from pathlib import Path

from lightning_classprune.export.artefact import NOT_DECLARED, Artefact, Spec
from lightning_classprune.export.checks import TOLERANCES
from lightning_classprune.export.deployed import Deployed
from lightning_classprune.export.onnx_export import Graph, texts, write_graph
from lightning_classprune.export.onnx_session import RUNTIME, OnnxFile
from lightning_classprune.pruning.masks import Masks


class OnnxFormat:
    """`model.onnx`, which rebuilds its weights when a stock runtime loads it."""

    name = "onnx"
    extra = "onnx"

    def write(self, rule: Deployed, folder: Path, spec: Spec) -> list[Artefact]:
        """Write the file."""
        return [graph_file(spec.graph(), folder / "model.onnx", spec, spec.masks)]


class PlainFormat:
    """`plain.onnx`: dense fp32 weights, for quantisers and for clients that cannot unpack."""

    name = "plain"
    extra = "onnx"

    def write(self, rule: Deployed, folder: Path, spec: Spec) -> list[Artefact]:
        """Write the file."""
        return [graph_file(spec.graph(), folder / "plain.onnx", spec, spec.masks, packed=False)]


def graph_file(graph: Graph, path: Path, spec: Spec, masks: Masks | None, *, packed: bool = True) -> Artefact:
    """Write what decides as one ONNX file.

    Args:
        graph: What decides.
        path: The file.
        spec: Of the export.
        masks: Of this network; None if it has none.
        packed: False writes dense fp32 weights, whatever `spec.values` says.
    """
    values = spec.values if packed else "fp32"
    as_judged = values == "fp32"
    metadata = texts(graph.deployed, masks, values, about(spec if as_judged else spec.undeclared()))
    report = write_graph(graph, path, values=values, metadata=metadata, packed=packed)
    verdict = None if as_judged else NOT_DECLARED
    return Artefact(path, OnnxFile(path), TOLERANCES[values], RUNTIME, {"opset": report.opset}, verdict)


def about(spec: Spec) -> dict[str, str]:
    """What an ONNX file says of the network that it holds, by key."""
    return {
        "class_names": json.dumps(spec.told["class_names"]),
        "claim": spec.claim,
        "verdict": json.dumps(spec.told["verdict"]),
    }
