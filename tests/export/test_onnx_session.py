"""An exported file in stock ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_classprune.export.onnx_export import export_onnx
from lightning_classprune.export.onnx_session import OnnxFile

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def test_scores_and_decisions_of_any_batch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(3, 2), torch.randn(5, 3)
    export_onnx(layer, tmp_path / "model.onnx", x, thresholds={1: 0.125})
    file = OnnxFile(tmp_path / "model.onnx")
    for batch in (x[:1], x):
        scores, decision = file(batch)
        torch.testing.assert_close(scores, layer(batch).detach())
        assert torch.equal(decision, (scores[:, 1] - scores[:, 0] >= 0.125).long())
