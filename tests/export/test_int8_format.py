"""Eight bits as a file: of the compact network where there is one, packed, and without a verdict."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_classprune.export.artefact import NOT_DECLARED
from lightning_classprune.export.deployed import Deployed
from lightning_classprune.export.int8_format import Int8Format
from tests.export.test_formats import spec

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytest.importorskip("torch_pruning")

X = torch.randn(40, 4, generator=torch.Generator().manual_seed(1))


def test_the_smaller_network_is_quantised(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 90), nn.ReLU(), nn.Linear(90, 2))
    with torch.no_grad():
        net[2].weight[:, 10:] = 0  # nothing reads the rest
    rule = Deployed(net, (0.5, 2.0), {})
    (written,) = Int8Format().write(rule, tmp_path, replace(spec(rule, {}), int8=X))
    assert (written.path.name, written.verdict, written.runtime) == (
        "int8.onnx",
        NOT_DECLARED,
        "ONNX Runtime",
    )
    assert written.facts["calibration"]["samples"] == 40
    proto = onnx.load(written.path)
    shapes = {tuple(t.dims) for t in proto.graph.initializer if t.data_type == onnx.TensorProto.INT8}
    assert {(10, 4), (4, 10)} & shapes
    told = {entry.key: entry.value for entry in proto.metadata_props}
    assert (told["values"], told["verdict"]) == ("int8", "null")
    assert told["claim"].startswith(NOT_DECLARED)
    scores, decision = written.reader(X)
    torch.testing.assert_close(scores, rule(X)[0].detach(), atol=0.05, rtol=0)
    assert torch.equal(decision, scores.argmax(1))
