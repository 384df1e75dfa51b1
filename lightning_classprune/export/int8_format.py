"""The network in eight bits as a file to deploy: smaller, and faster where processors multiply bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import inf
from pathlib import Path

from torch import Tensor

from lightning_classprune.export.artefact import NOT_DECLARED, Artefact, Spec
from lightning_classprune.export.deployed import Deployed
from lightning_classprune.export.onnx_export import Graph, make_graph, texts
from lightning_classprune.export.onnx_format import about
from lightning_classprune.export.onnx_packing import pack_weights
from lightning_classprune.export.onnx_session import RUNTIME, OnnxFile
from lightning_classprune.export.quantization import calibration_facts, quantized, shorten
from lightning_classprune.files import replacing


class Int8Format:
    """`int8.onnx`: the compact network where there is one, quantised, its weights packed like those of the others."""

    name = "int8"
    extra = "onnx"

    def write(self, rule: Deployed, folder: Path, spec: Spec) -> list[Artefact]:
        """Write the file; what it decides otherwise is for the guard's counts to say, so no difference is too large."""
        assert spec.int8 is not None
        smaller = spec.compacted(1)
        is_compact = smaller.report["parameters"][0] != smaller.report["parameters"][1]
        graph = make_graph(rule.around(smaller.model), spec.example) if is_compact else spec.graph()
        metadata = texts(rule, spec.masks, "int8", about(spec.undeclared()))
        return [int8_file(graph, folder / "int8.onnx", spec.int8, metadata)]


def int8_file(graph: Graph, path: Path, samples: Tensor, metadata: Mapping[str, str]) -> Artefact:
    """Quantise a graph and write it, packed, whole or not at all.

    Args:
        graph: With dense weights.
        path: The file.
        samples: Inputs to calibrate on.
        metadata: Texts for the file, by key.

    Raises:
        ValueError: The graph cannot be quantised with these samples.
    """
    import onnx

    proto = quantized(graph.proto, samples)
    pack_weights(proto, half=False)
    shorten(proto.graph)
    calibration = calibration_facts(samples)
    onnx.helper.set_model_props(proto, {**metadata, "calibration": json.dumps(calibration)})
    with replacing(path) as part:
        part.write_bytes(proto.SerializeToString())
        onnx.checker.check_model(part, full_check=True)
    return Artefact(path, OnnxFile(path), inf, RUNTIME, {"calibration": calibration}, NOT_DECLARED)
