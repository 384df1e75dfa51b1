"""Merged channels as a file: smaller, and without a verdict."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_classprune.export.artefact import NOT_DECLARED
from lightning_classprune.export.compact import compact
from lightning_classprune.export.deployed import Deployed
from lightning_classprune.export.folded_format import FoldedFormat
from tests.export.test_formats import X, spec

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytest.importorskip("torch_pruning")


def test_the_folded_network_is_written_with_its_normalisation(tmp_path: Path) -> None:
    torch.manual_seed(0)
    rule = Deployed(nn.Sequential(nn.Linear(4, 90), nn.ReLU(), nn.Linear(90, 2)), (0.5, 2.0), {})
    folded = compact(rule.network, rule.normalize(X[:2]), fold=8)
    (written,) = FoldedFormat().write(rule, tmp_path, replace(spec(rule, {}), folded=lambda: folded))
    assert (written.path.name, written.verdict) == ("folded.onnx", NOT_DECLARED)
    assert written.facts["merged"] == {"0": [8, 90]}
    assert written.facts["macs"] == [90 * 6, 8 * 6]
    assert json.loads(written.reader.metadata["verdict"]) is None
    assert written.reader.metadata["claim"].startswith(NOT_DECLARED)
    scores, decision = written.reader(X)
    torch.testing.assert_close(scores, folded.model((X - 0.5) / 2.0).detach())
    assert torch.equal(decision, scores.argmax(1))
