"""The fastest ONNX file: the compact network in the widths that this machine's runtime likes best.

Runtimes compute convolutions in blocks of channels. A width that fills none whole takes a slower way, which a few idle
channels avoid. Which multiple pays is measured, as it depends on the runtime and on the processor.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from lightning_classprune.export.artefact import Artefact, Spec
from lightning_classprune.export.checks import latency
from lightning_classprune.export.deployed import Deployed
from lightning_classprune.export.onnx_export import make_graph
from lightning_classprune.export.onnx_format import graph_file

MULTIPLES = (1, 4, 8, 16)


class FastFormat:
    """`fast.onnx`; the whole network where no channel can be left out."""

    name = "fast"
    extra = "compact"

    def write(self, rule: Deployed, folder: Path, spec: Spec) -> list[Artefact]:
        """Write the file of the multiple that is fastest here, over all batch sizes of the card."""
        before, after = spec.compacted(1).report["parameters"]
        if before == after:
            return [graph_file(spec.graph(), folder / "fast.onnx", spec, spec.masks)]
        tried: dict[str, Artefact] = {}
        sizes: set[int] = set()
        for multiple in MULTIPLES:
            smaller = spec.compacted(multiple)
            size = smaller.report["parameters"][1]
            if size in sizes:  # the same widths
                continue
            sizes.add(size)
            graph = make_graph(rule.around(smaller.model), spec.example)
            tried[str(multiple)] = graph_file(graph, folder / f"fast-{multiple}.onnx", spec, None)
        times = latency({name: one.reader for name, one in tried.items()}, spec.example)
        cost = {name: math.prod(by_name[name] for by_name in times.values()) for name in tried}
        best = min(cost, key=lambda name: cost[name])
        for name, one in tried.items():
            if name != best:
                one.path.unlink()
        path = tried[best].path.replace(folder / "fast.onnx")
        found = tried[best]
        facts = {**found.facts, "widths_multiple_of": int(best), "multiples_ms": times}
        return [replace(found, path=path, facts=facts)]
