"""Every client that is here reads every ONNX file alike; those that are not here are skipped by name."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.clients import CLIENTS, absent
from lightning_classprune.export.deployed import Deployed
from lightning_classprune.export.onnx_export import make_graph, write_graph
from lightning_classprune.pruning.masks import apply_masks

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytestmark = pytest.mark.processes  # node and MNN run in their own

FORMS = {
    "model": {},
    "half": {"values": "fp16"},
    "plain": {"packed": False},
}


class Files(NamedTuple):
    folder: Path
    x: np.ndarray
    decided: list[int]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A network of pixels, 95% of whose weights are gone, one layer whole."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 64, 3, stride=2, padding=1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 300, bias=False),
        nn.ReLU(),
        nn.Linear(300, 3),
    ).eval()
    parameters = dict(net.named_parameters())
    masks = {name: torch.rand_like(p) < 0.05 for name, p in parameters.items() if p.ndim > 1}
    masks["0.weight"][:] = True
    masks["9.weight"][:] = torch.arange(300) % 10 == 0
    apply_masks(masks, parameters)
    for name in masks:
        parameters[name].data *= 3  # spreads the scores
    light = torch.rand(60, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    x = (torch.rand(60, 1, 16, 16) * light * 255).to(torch.uint8)
    with torch.no_grad():
        net[9].bias -= Deployed(net, (0.5, 0.25))(x).median(0).values
    rule = Deployed(net, (0.5, 0.25), {1: 1e-3})
    folder, graph = tmp_path_factory.mktemp("files"), make_graph(rule, x)
    for name, options in FORMS.items():
        write_graph(graph, folder / f"{name}.onnx", metadata={}, **options)
    scores, decision = rule(x)
    far = ((scores[:, 1] - scores[:, ::2].amax(1) - 1e-3).abs() > 1e-3) & (
        (scores[:, 0] - scores[:, 2]).abs() > 1e-3
    )
    assert len(decision[far].unique()) == 3
    return Files(folder, x[far].numpy(), decision[far].tolist())


@pytest.mark.parametrize("client", CLIENTS)
def test_decides_as_the_module(client: str, files: Files) -> None:
    if why := absent(client):
        pytest.skip(why)
    for form in FORMS:
        found = CLIENTS[client](files.folder / f"{form}.onnx", files.x)
        assert found.tolist() == files.decided, form


def test_what_is_absent_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert absent("ONNX Runtime") is None
    monkeypatch.setattr("benchmarks.clients.shutil.which", lambda name: "/bin/node")
    monkeypatch.setenv("NODE_PATH", str(tmp_path))
    assert absent("onnxruntime-web") == "the npm package onnxruntime-web is not in NODE_PATH"
    (tmp_path / "onnxruntime-web").mkdir()
    assert absent("onnxruntime-web") is None
    monkeypatch.setattr("benchmarks.clients.shutil.which", lambda name: None)
    assert absent("onnxruntime-node") == "node is not installed"
