"""Export of a model in memory: all files give what the module gives, or none is there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_classprune.export.artefact import NOT_DECLARED, Artefact, Spec
from lightning_classprune.export.checks import in_memory
from lightning_classprune.export.deployed import Deployed
from lightning_classprune.export.export import export
from lightning_classprune.export.formats import FORMATS
from lightning_classprune.export.guard_split import GuardSplit
from lightning_classprune.export.onnx_session import OnnxFile
from lightning_classprune.guard.outcomes import Decisions
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
    rule = Deployed(model.eval(), ((0.5, 0.4, 0.3), (0.2, 0.2, 0.2)), {})
    dense = Decisions(y, rule(x)[1], 3, ("a", "b", "c"))
    model.train()
    guard = GuardSplit([(x[:9], y[:9]), (x[9:], y[9:])], dense)
    facts = export(
        model,
        tmp_path,
        x,
        masks=masks,
        class_names=["a", "b", "c"],
        test=[(x[:32], y[:32]), (x[32:], y[32:])],
        normalization=((0.5, 0.4, 0.3), (0.2, 0.2, 0.2)),
        values="fp16",
        int8=x,
        fold=4,
        guard=guard,
    )
    assert model.training
    own = [name for name, entry in facts["artefacts"].items() if entry.get("verdict") == NOT_DECLARED]
    assert own == [
        "ticket-unproven-not-declared.safetensors",
        "model-unproven-not-declared.onnx",
        "int8-unproven-not-declared.onnx",
        "folded-unproven-not-declared.onnx",
    ]
    assert facts["artefacts"][own[3]]["merged"] == {"0": [4, 16]}
    for name in own:
        assert set(facts["artefacts"][name]["counts"]) == {"a", "b", "c"}
    session = OnnxFile(tmp_path / own[2])
    assert facts["artefacts"][own[2]]["counts"] == guard.counts(guard.decided(session), ["a", "b", "c"])
    assert sum(counts["support"] for counts in facts["test"][own[1]].values()) == 40
    assert 0 < facts["artefacts"][own[0]]["max_difference"] < 1e-2
    full = export(model, tmp_path, x, masks=masks, class_names=["a", "b", "c"], normalization=(0.5, 0.2))
    there = {"ticket.safetensors", "model.onnx", "plain.onnx", "card.md", "card.json"}
    assert {path.name for path in tmp_path.iterdir()} == there  # no verdict of an earlier card is left
    assert full["artefacts"]["ticket.safetensors"]["max_difference"] == 0
    for name, half in zip(("ticket.safetensors", "model.onnx"), own, strict=False):
        assert facts["artefacts"][half]["bytes"] < full["artefacts"][name]["bytes"]
    assert full["measured"]["runtime"] == f"ONNX Runtime {onnxruntime.__version__}"
    assert "exported without a ledger" in (tmp_path / "card.md").read_text()


class Rounding:
    """A format whose file decides one case otherwise, by rounding."""

    name = "rounding"
    extra = None

    def write(self, rule: Deployed, folder: Path, spec: Spec) -> list[Artefact]:
        path = folder / "rounding.txt"
        path.write_text(spec.claim)

        def read(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            scores, decision = in_memory(rule)(x)
            return scores, torch.where(x[:, 0] == 7, 1 - decision, decision)

        return [Artefact(path, read, 1e-6, "NumPy")]


def test_a_file_that_decides_a_guard_case_otherwise_loses_the_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x, y = nn.Linear(2, 2), torch.arange(20.0).reshape(10, 2), torch.arange(10) % 2
    x[5, 0] = 7
    dense = Decisions(y, y, 2, ("a", "b"))
    monkeypatch.setitem(FORMATS, "all", [Rounding()])
    facts = export(
        model,
        tmp_path,
        x[:3],
        masks={},
        class_names=["a", "b"],
        guard=GuardSplit([(x, y)], dense),
    )
    name = "rounding-unproven-not-declared.txt"
    assert list(facts["artefacts"]) == [name]
    assert (tmp_path / name).read_text().startswith(f"{NOT_DECLARED}: the guard has not judged this file")
    assert facts["artefacts"][name]["changed_decisions"] == 0  # none of the example's
