"""The network with similar channels merged as a file to deploy: without a training, and without a verdict."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from pathlib import Path

from lightning_classprune.export.artefact import NOT_DECLARED, Artefact, Spec
from lightning_classprune.export.deployed import Deployed
from lightning_classprune.export.onnx_export import make_graph
from lightning_classprune.export.onnx_format import graph_file


class FoldedFormat:
    """`folded.onnx`."""

    name = "folded"
    extra = "compact"

    def write(self, rule: Deployed, folder: Path, spec: Spec) -> list[Artefact]:
        """Write the file; what it decides otherwise is for the guard's counts to say, so no difference is too large."""
        assert spec.folded is not None
        smaller = spec.folded()
        graph = make_graph(rule.around(smaller.model), spec.example)
        found = graph_file(graph, folder / "folded.onnx", spec.undeclared(), None)
        merged = {name: smaller.report[name] for name in ("merged", "macs")}
        return [replace(found, tolerance=inf, verdict=NOT_DECLARED, facts={**found.facts, **merged})]
