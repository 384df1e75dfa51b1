"""The ONNX file: smaller, the same network in stock runtimes, and nothing left behind when it cannot be made."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_classprune.export.onnx_export import OnnxReport, export_onnx
from lightning_classprune.job.classifier import Classifier
from lightning_classprune.job.models import mlp
from lightning_classprune.pruning.masks import Masks, apply_masks
from lightning_classprune.pruning.parameters import select_parameters
from tests.support import ROOT
from tests.support.older import needs_onnx_exporter

pytestmark = needs_onnx_exporter
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")


def magnitude_masks(model: nn.Module, sparsity: float) -> Masks:
    """The largest weights of each layer."""
    masks = {}
    for name, weight in select_parameters(model).items():
        sizes = weight.detach().abs()
        masks[name] = sizes > sizes.flatten().kthvalue(int(sparsity * sizes.numel())).values
    return masks


class Mixed(nn.Module):
    """A residual block with BatchNorm, a grouped convolution, tied weights, an empty and a full layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.empty = nn.Conv2d(16, 16, 1, bias=False)
        self.first = nn.Linear(16, 16)
        self.second = nn.Linear(16, 16)
        self.second.weight = self.first.weight
        self.wide = nn.Linear(16, 3000)
        self.head = nn.Linear(3000, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.stem(x)).relu()
        x = x + self.grouped(x) + self.empty(x)
        x = self.second(self.first(x.mean((2, 3))).relu()).relu()
        out: Tensor = self.head(self.wide(x).relu())
        return out


class Exported(NamedTuple):
    model: nn.Module
    masks: Masks
    raw: Tensor
    scores: Tensor
    decisions: Tensor
    threshold: float
    report: OnnxReport
    path: Path


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    torch.manual_seed(0)
    model = Mixed()
    model(torch.randn(16, 3, 8, 8))  # moves the running statistics away from 0 and 1
    nn.init.normal_(model.head.weight)  # spreads the scores
    model.grouped.eval()
    masks = magnitude_masks(model, 0.8)
    masks["empty.weight"][:] = False
    masks["stem.weight"][:] = True
    masks["wide.weight"] = torch.rand_like(model.wide.weight) < 0.001
    light = torch.rand(70, 3, 1, 1)
    raw = (torch.rand(70, 3, 8, 8) * light * 255).to(torch.uint8)

    judged = copy.deepcopy(model).eval()
    apply_masks(masks, dict(judged.named_parameters()))
    with torch.no_grad():
        scores = judged((raw.float() / 255 - torch.tensor([0.4, 0.5, 0.6]).reshape(3, 1, 1)) / 0.25)
    margin = scores[:, 1] - scores[:, [0, 2]].amax(1)
    between = margin.sort().values[30:32]
    assert between.diff() > 1e-5
    threshold = float(between.mean())
    decisions = torch.where(margin >= threshold, 1, scores[:, [0, 2]].argmax(1) * 2)
    assert decisions.bincount(minlength=3)[1] == 39

    path = tmp_path_factory.mktemp("mixed") / "new" / "model.onnx"
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = export_onnx(
        model,
        path,
        raw,
        masks=masks,
        normalization=([0.4, 0.5, 0.6], 0.25),
        thresholds={1: threshold},
        metadata={"class_names": json.dumps(["sound", "crack", "dirt"])},
    )
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.training
    assert not model.grouped.training
    return Exported(judged, masks, raw, scores, decisions, threshold, report, path)


class TestFile:
    def test_runs_in_stock_onnx_runtime_at_any_batch(self, mixed: Exported) -> None:
        session = onnxruntime.InferenceSession(mixed.path)
        for batch in (1, 7, 70):
            scores, decisions = session.run(["scores", "decision"], {"input": mixed.raw[:batch].numpy()})
            np.testing.assert_allclose(scores, mixed.scores[:batch], rtol=0, atol=1e-4)
            assert decisions.tolist() == mixed.decisions[:batch].tolist()
        assert mixed.report.samples == 70
        assert mixed.report.changed_decisions == 0
        assert mixed.report.max_difference <= mixed.report.tolerance
        assert mixed.report.tolerance == pytest.approx(1e-4 * max(1.0, float(mixed.scores.abs().max())))

    def test_runs_in_openvino(self, mixed: Exported) -> None:
        openvino = pytest.importorskip("openvino")
        # Its default on some CPUs is bfloat16.
        compiled = openvino.Core().compile_model(mixed.path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        for batch in (1, 7):
            found = compiled(mixed.raw[:batch].numpy())
            np.testing.assert_allclose(found["scores"], mixed.scores[:batch], rtol=0, atol=1e-4)
            assert found["decision"].tolist() == mixed.decisions[:batch].tolist()

    def test_is_valid_smaller_and_says_what_it_is(self, mixed: Exported) -> None:
        masks, report, path = mixed.masks, mixed.report, mixed.path
        onnx.checker.check_model(path, full_check=True)
        model = onnx.load(path)
        assert report.bytes == path.stat().st_size < report.dense_bytes / 8
        assert report.opset == model.opset_import[0].version
        texts = {entry.key: entry.value for entry in model.metadata_props}
        assert json.loads(texts["class_names"]) == ["sound", "crack", "dirt"]
        assert json.loads(texts["thresholds"]) == {"1": mixed.threshold}
        assert json.loads(texts["normalization"])["std"] == 0.25
        total = sum(m.numel() for m in masks.values())
        assert float(texts["sparsity"]) == pytest.approx(
            1 - sum(int(m.sum()) for m in masks.values()) / total
        )
        assert [p.name for p in path.parent.iterdir()] == ["model.onnx"]

    def test_holds_no_path_of_the_machine_that_made_it(self, mixed: Exported) -> None:
        assert str(ROOT).encode() not in mixed.path.read_bytes()
        assert b"site-packages" not in mixed.path.read_bytes()

    def test_is_unpacked_once_at_load(self, mixed: Exported, tmp_path: Path) -> None:
        packed = {node.op_type for node in onnx.load(mixed.path).graph.node}
        assert {"ScatterElements", "CumSum", "ConstantOfShape"} <= packed
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "folded.onnx")
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        onnxruntime.InferenceSession(mixed.path, options)
        folded = {node.op_type for node in onnx.load(tmp_path / "folded.onnx").graph.node}
        assert not folded & {"ScatterElements", "CumSum", "ConstantOfShape"}

    def test_each_weight_takes_its_smallest_form(self, mixed: Exported) -> None:
        graph = onnx.load(mixed.path).graph
        types = {tensor.name: tensor.data_type for tensor in graph.initializer}
        gaps = {name: kind for name, kind in types.items() if name.endswith("/gaps")}
        assert gaps["network.wide.weight/gaps"] == onnx.TensorProto.UINT16  # one in a thousand
        assert gaps["network.head.weight/gaps"] == onnx.TensorProto.UINT8
        assert "network.stem.weight" in types  # full: dense
        empty = [node for node in graph.node if list(node.output) == ["network.empty.weight"]]
        assert [node.op_type for node in empty] == ["ConstantOfShape"]

    @pytest.mark.processes
    def test_a_folder_of_images_is_classified_without_torch(self, mixed: Exported, tmp_path: Path) -> None:
        raw, path = mixed.raw, mixed.path
        expected = [["sound", "crack", "dirt"][i] for i in mixed.decisions[:6].tolist()]
        assert len(set(expected)) > 1
        for i in range(3):
            pixels = raw[i].permute(1, 2, 0).numpy().tobytes()
            (tmp_path / f"{i}.ppm").write_bytes(b"P6\n# a comment\n8 8\n255\n" + pixels)
            np.save(tmp_path / f"{3 + i}.npy", raw[3 + i].numpy())
        (tmp_path / "notes.txt").write_text("no image")
        script = ROOT / "benchmarks" / "classify_folder.py"
        lines = [line for line in script.read_text().splitlines() if line]
        assert len(lines) <= 15
        imports = {line.split()[1].split(".")[0] for line in lines if line.startswith(("import ", "from "))}
        assert imports - set(sys.stdlib_module_names) == {"numpy", "onnxruntime"}
        found = subprocess.run(
            [sys.executable, script, path, tmp_path], capture_output=True, text=True, check=True, timeout=120
        ).stdout.splitlines()
        names = ["0.ppm", "1.ppm", "2.ppm", "3.npy", "4.npy", "5.npy"]
        assert found == [f"{name}\t{expected[i]}" for i, name in enumerate(names)]


def test_half_values_are_smaller_and_close(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 200), nn.ReLU(), nn.Linear(200, 3))
    with torch.no_grad():
        model[0].weight[0, 0] = 1e5  # beyond fp16: this layer stays fp32
        model[2].weight[:, 0] = 0
    example = torch.randn(4, 64)
    masks = magnitude_masks(model, 0.8)
    full = export_onnx(model, tmp_path / "fp32.onnx", example, masks=masks)
    half = export_onnx(model, tmp_path / "fp16.onnx", example, masks=masks, values="fp16")
    assert half.bytes < 0.8 * full.bytes
    assert full.max_difference <= full.tolerance
    assert 0 < half.max_difference <= half.tolerance == 100 * full.tolerance
    types = {tensor.data_type for tensor in onnx.load(tmp_path / "fp16.onnx").graph.initializer}
    assert {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16} <= types


class OneLogitLoss(nn.BCEWithLogitsLoss):
    def forward(self, logits: Tensor, y: Tensor) -> Tensor:
        return super().forward(logits[:, 0], y.float())


def test_lightning_module_that_was_trained(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(32, 8)
    model = Classifier(mlp(8, 1), OneLogitLoss(), 2, optimizer=torch.optim.SGD)
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, barebones=True
    )
    trainer.fit(model, DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), batch_size=8))
    path = tmp_path / "model.onnx"
    report = export_onnx(model, path, x, thresholds={1: 0.05})
    with torch.no_grad():
        expected = model(x)[:, 0] >= 0.05
    scores, decided = onnxruntime.InferenceSession(path).run(None, {"input": x.numpy()})
    assert scores.shape == (32, 1)
    assert decided.tolist() == expected.long().tolist()
    assert 0 < int(expected.sum()) < 32
    assert report.max_difference <= 1e-4
    assert model.trainer is trainer


class Svd(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.svdvals(x.reshape(-1, 4, 2))


class RowByRow(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([row * 2 for row in x])


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class Drifting(nn.Module):
    """Gives its file other scores than it has."""

    def __init__(self, offset: float) -> None:
        super().__init__()
        self.offset = offset

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if torch.compiler.is_exporting() else x * 2 + self.offset


BORDER = torch.tensor([[0.0], [0.249999], [0.3]])


class TestBadInput:
    @pytest.mark.parametrize(
        ("model", "example", "match"),
        [
            (Svd(), torch.randn(3, 8), "no operator for aten._linalg_svd"),
            (RowByRow(), torch.randn(3, 8), "fix the batch size"),
            (Pair(), torch.randn(3, 8), "one tensor of scores"),
            (nn.Linear(4, 2), torch.randn(3, 8), r"example of shape \(3, 8\).*does not fit"),
            (nn.Linear(4, 2), torch.randn(0, 4), "at least one input"),
            (nn.Linear(4, 2), [1.0], "at least one input"),
            (nn.Linear(4, 2, device="meta"), torch.randn(3, 4), "on meta, .* model.cpu"),
            (nn.Linear(4, 2).bfloat16(), torch.randn(3, 4), "bfloat16.*float"),
        ],
    )
    def test_is_named_and_leaves_the_old_file(
        self, tmp_path: Path, model: nn.Module, example: Any, match: str
    ) -> None:
        path = tmp_path / "model.onnx"
        path.write_text("old")
        with pytest.raises(ValueError, match=match):
            export_onnx(model.train(), path, example)
        assert model.training
        assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
        assert path.read_text() == "old"

    @pytest.mark.parametrize(
        ("arguments", "match"),
        [
            ({"masks": {"weight": torch.ones(2, 3, dtype=torch.bool)}}, r"masks\['weight'\].*\(2, 4\)"),
            ({"masks": {"other": torch.ones(2, 4, dtype=torch.bool)}}, "does not exist"),
            ({"values": "int8"}, "'fp32' or 'fp16'"),
            ({"metadata": {"values": "mine"}}, r"metadata\['values'\]"),
            ({"metadata": {"verdict": 3}}, r"metadata\['verdict'\]"),
            ({"thresholds": {7: 0.0}}, "classes are 0 to 1"),
            ({"normalization": ([0.0] * 5, [1.0] * 5)}, "does not fit"),
        ],
    )
    def test_arguments(self, tmp_path: Path, arguments: dict[str, Any], match: str) -> None:
        with pytest.raises(ValueError, match=match):
            export_onnx(nn.Linear(4, 2), tmp_path / "model.onnx", torch.randn(3, 4), **arguments)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("offset", "match"),
        [
            (1e-5, "1 of 3 .* decided otherwise"),
            (0.1, "differ from the module's"),
            (float("nan"), "differ from"),
        ],
    )
    def test_file_that_is_not_the_module(self, tmp_path: Path, offset: float, match: str) -> None:
        with pytest.raises(ValueError, match=match):
            export_onnx(Drifting(offset), tmp_path / "model.onnx", BORDER, thresholds={1: 0.5})
        assert not list(tmp_path.iterdir())

    def test_half_values_may_decide_otherwise_and_say_so(self, tmp_path: Path) -> None:
        path = tmp_path / "model.onnx"
        report = export_onnx(Drifting(1e-5), path, BORDER, thresholds={1: 0.5}, values="fp16")
        assert (report.changed_decisions, report.samples) == (1, 3)

    def test_packages_that_are_missing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(ModuleNotFoundError, match=r"pip install 'lightning-classprune\[onnx\]'"):
            export_onnx(nn.Linear(4, 2), tmp_path / "model.onnx", torch.randn(3, 4))


def test_a_pruned_lstm_is_exported_with_its_weights_packed(tmp_path: Path) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.last = nn.LSTM(32, 64, batch_first=True), nn.Linear(64, 2)

        def forward(self, x: Tensor) -> Tensor:
            scores: Tensor = self.last(self.lstm(x)[0][:, -1])
            return scores

    torch.manual_seed(0)
    net = Recurrent()
    masks = {name: torch.rand_like(p) < 0.05 for name, p in net.named_parameters() if p.ndim > 1}
    file, example = tmp_path / "model.onnx", torch.randn(4, 5, 32)
    told = export_onnx(net, file, example, masks=masks)
    assert (told.max_difference < 1e-5, told.changed_decisions) == (True, 0)
    assert told.bytes < told.dense_bytes / 5
    more = torch.randn(7, 5, 32)
    apply_masks(masks, dict(net.named_parameters()))
    (scores,) = onnxruntime.InferenceSession(file.read_bytes()).run(None, {"input": more.numpy()})
    np.testing.assert_allclose(scores, net(more).detach().numpy(), atol=1e-5)
