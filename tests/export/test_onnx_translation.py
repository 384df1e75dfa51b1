"""A module as an ONNX graph: names, a free batch, no notes of the exporter's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightning_classprune.export.deployed import Deployed
from lightning_classprune.export.onnx_translation import translate

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")


@pytest.mark.parametrize(("thresholds", "outputs"), [(None, ["scores"]), ({}, ["scores", "decision"])])
def test_names_shapes_and_no_notes(thresholds: dict[int, float] | None, outputs: list[str]) -> None:
    rule = Deployed(nn.Linear(3, 2), thresholds=thresholds).eval()
    graph = translate(rule, torch.randn(1, 3)).graph
    assert [one.name for one in graph.input] == ["input"]
    assert [one.name for one in graph.output] == outputs
    free, fixed = graph.input[0].type.tensor_type.shape.dim
    assert (free.dim_param, fixed.dim_value) == ("batch", 3)
    for part in (*graph.input, *graph.output, *graph.initializer, *graph.node):
        assert not part.doc_string
        assert not part.metadata_props
    assert not graph.value_info
    assert not graph.metadata_props


class Eigenvalues(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvals(x.reshape(-1, 2, 2)).real


def test_what_onnx_cannot_express_is_named() -> None:
    with pytest.raises(ValueError, match=r"cannot be written as ONNX: it has no operator for .*eig"):
        translate(Deployed(Eigenvalues()).eval(), torch.randn(1, 4))
