"""Export of a model in memory: all files give what the module gives, or none is there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_classprune.export.export import export
from lightning_classprune.pruning.masks import apply_masks

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


class Sorts(nn.Module):
    """ONNX has no operator for what this does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.eigvals(x.reshape(-1, 2, 2)).real @ torch.ones(2, 2)


def test_a_network_that_onnx_cannot_express_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be written as ONNX"):
        export(Sorts(), tmp_path / "out", torch.randn(3, 4), masks={}, class_names=["a", "b"])
    assert list(tmp_path.iterdir()) == []


def test_a_model_in_memory_with_its_normalisation_and_half_values(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 3)).train()
    masks = {name: torch.rand_like(p) < 0.1 for name, p in model.named_parameters() if p.ndim > 1}
    apply_masks(masks, dict(model.named_parameters()))
    x = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8)
    y = torch.arange(40) % 3
    facts = export(
        model,
        tmp_path,
        x,
        masks=masks,
        class_names=["a", "b", "c"],
        test=[(x[:32], y[:32]), (x[32:], y[32:])],
        normalization=((0.5, 0.4, 0.3), (0.2, 0.2, 0.2)),
        values="fp16",
    )
    assert model.training
    assert sum(counts["support"] for counts in facts["test"]["model.onnx"].values()) == 40
    assert 0 < facts["artefacts"]["ticket.safetensors"]["max_difference"] < 1e-2
    full = export(
        model, tmp_path / "full", x, masks=masks, class_names=["a", "b", "c"], normalization=(0.5, 0.2)
    )
    assert full["artefacts"]["ticket.safetensors"]["max_difference"] == 0
    for name in ("ticket.safetensors", "model.onnx"):
        assert facts["artefacts"][name]["bytes"] < full["artefacts"][name]["bytes"]
    assert full["measured"]["runtime"] == f"ONNX Runtime {onnxruntime.__version__}"
    assert "exported without a ledger" in (tmp_path / "card.md").read_text()
