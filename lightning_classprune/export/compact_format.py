"""The compact network as files to deploy: for PyTorch and as ONNX."""

from __future__ import annotations

import copy
from pathlib import Path

from lightning_classprune.export.artefact import Artefact, Spec
from lightning_classprune.export.checks import TOLERANCES, in_memory
from lightning_classprune.export.compact_files import fill_from_compact, save_compact
from lightning_classprune.export.deployed import Deployed
from lightning_classprune.export.onnx_export import make_graph
from lightning_classprune.export.onnx_format import graph_file


class CompactFormat:
    """`compact.safetensors` and `compact.onnx`; nothing where nothing can be left out."""

    name = "compact"
    extra = "compact"

    def write(self, rule: Deployed, folder: Path, spec: Spec) -> list[Artefact]:
        """Write both files."""
        smaller = spec.compacted(1)
        before, after = smaller.report["parameters"]
        if before == after:
            return []
        path = folder / "compact.safetensors"
        save_compact(path, smaller, spec.told)
        twin = copy.deepcopy(rule.network)
        fill_from_compact(path, twin)
        graph = make_graph(rule.around(smaller.model), spec.example)
        return [
            Artefact(path, in_memory(rule.around(twin)), TOLERANCES["fp32"]),
            graph_file(graph, folder / "compact.onnx", spec, None),
        ]
