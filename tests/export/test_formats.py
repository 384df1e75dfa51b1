"""Formats: one of the test's own is a class and a line, and is written, checked, told and cleaned up like ours."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_classprune.export import fast_format
from lightning_classprune.export.artefact import Artefact, Spec
from lightning_classprune.export.compact import compact
from lightning_classprune.export.compact_format import CompactFormat
from lightning_classprune.export.deployed import Deployed
from lightning_classprune.export.export import export
from lightning_classprune.export.fast_format import FastFormat
from lightning_classprune.export.formats import FORMATS, Format
from lightning_classprune.export.onnx_export import make_graph
from lightning_classprune.export.onnx_format import OnnxFormat, PlainFormat
from lightning_classprune.export.small_format import SmallFormat
from lightning_classprune.export.ticket_format import TicketFormat
from lightning_classprune.pruning.masks import Masks, apply_masks

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytest.importorskip("torch_pruning")

NAMES = ["ok", "crack"]
X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


class JsonFormat:
    """A linear layer as numbers in a text, which NumPy runs."""

    name = "json"
    extra = None

    def __init__(self, error: float = 0.0) -> None:
        self.error = error

    def write(self, rule: Deployed, folder: Path, spec: Spec) -> list[Artefact]:
        layer: Any = rule.network
        path = folder / "model.json"
        path.write_text(json.dumps({"weight": layer.weight.tolist(), "bias": layer.bias.tolist()}))
        reader = partial(self.run, {k: np.array(v) for k, v in json.loads(path.read_text()).items()})
        return [Artefact(path, reader, 1e-6, "NumPy", {"claim": spec.claim})]

    def run(self, numbers: dict[str, Any], x: Tensor) -> tuple[Tensor, Tensor]:
        scores = torch.from_numpy(x.numpy() @ numbers["weight"].T + numbers["bias"]).float() + self.error
        return scores, scores.argmax(1)


class AbsentFormat:
    """Needs what is not there."""

    name = "absent"

    def __init__(self, extra: str | None) -> None:
        self.extra = extra

    def write(self, rule: Deployed, folder: Path, spec: Spec) -> list[Artefact]:
        (folder / "part").write_text("of a file")
        raise ModuleNotFoundError("No module named 'nowhere'", name="nowhere")


@contextmanager
def registered(form: Format) -> Iterator[None]:
    FORMATS["all"].append(form)
    try:
        yield
    finally:
        FORMATS["all"].remove(form)


def linear() -> tuple[nn.Linear, Masks]:
    torch.manual_seed(0)
    layer, masks = nn.Linear(4, 2), {"weight": torch.tensor([[True, False, True, False]] * 2)}
    apply_masks(masks, dict(layer.named_parameters()))
    return layer, masks


def test_ours_by_purpose() -> None:
    assert {purpose: [form.name for form in forms] for purpose, forms in FORMATS.items()} == {
        "all": ["ticket", "onnx", "plain", "compact"],
        "latency": ["fast"],
        "size": ["ticket", "small"],
        "mcu": ["c"],
    }
    extras = {form.name: form.extra for forms in FORMATS.values() for form in forms}
    assert extras == {
        "ticket": None,
        "onnx": "onnx",
        "plain": "onnx",
        **dict.fromkeys(["compact", "fast", "small", "c"], "compact"),
    }
    with pytest.raises(ValueError, match=r"purpose='speed' must be one of 'all', 'latency', 'size', 'mcu'"):
        export(nn.Linear(4, 2), ".", X, masks={}, class_names=NAMES, purpose="speed")  # type: ignore[arg-type]


@pytest.mark.processes  # asks git for the commit
def test_a_format_of_ones_own_is_written_checked_and_told(tmp_path: Path) -> None:
    layer, masks = linear()
    y = torch.tensor([0, 1, 0, 1, 0, 1])
    with registered(JsonFormat()):
        facts = export(layer, tmp_path, X, masks=masks, class_names=NAMES, test=[(X, y)])
    assert list(facts["artefacts"]) == ["ticket.safetensors", "model.onnx", "plain.onnx", "model.json"]
    entry = facts["artefacts"]["model.json"]
    assert entry["bytes"] == (tmp_path / "model.json").stat().st_size
    assert (entry["runtime"], entry["claim"], entry["changed_decisions"]) == ("NumPy", facts["claim"], 0)
    assert entry["max_difference"] < 1e-6
    assert list(facts["latency"]["1"]) == ["dense", "model.onnx", "model.json"]
    assert facts["test"]["model.json"] == facts["test"]["module"]
    card = (tmp_path / "card.md").read_text()
    assert "| `model.json` | 0." in card
    assert "`plain.onnx` by ONNX Runtime, `model.json` by NumPy, on" in card
    assert facts["advice"] in card
    assert {path.name for path in tmp_path.iterdir()} == {*facts["artefacts"], "card.md", "card.json"}


@pytest.mark.parametrize("error", [1e-3, float("nan")])
def test_a_file_that_does_not_give_what_the_module_gives_takes_all_with_it(
    error: float, tmp_path: Path
) -> None:
    layer, masks = linear()
    with registered(JsonFormat(error)), pytest.raises(ValueError, match=r"^model\.json: scores differ .* by"):
        export(layer, tmp_path, X, masks=masks, class_names=NAMES)
    assert not list(tmp_path.iterdir())


def test_a_package_that_is_missing_is_named_with_its_extra(tmp_path: Path) -> None:
    layer, masks = linear()
    words = r"the format 'absent' needs the package nowhere: pip install 'lightning-classprune\[more\]'"
    for extra, said in (("more", words), (None, "No module named 'nowhere'")):
        with registered(AbsentFormat(extra)), pytest.raises(ModuleNotFoundError, match=said) as raised:
            export(layer, tmp_path, X, masks=masks, class_names=NAMES)
        assert raised.value.name == "nowhere"
    assert not list(tmp_path.iterdir())


# -- ours, each alone --


def spec(rule: Deployed, masks: Masks, **change: Any) -> Spec:
    told: dict[str, Any] = {"class_names": NAMES, "thresholds": {}, "offsets": {"crack": 0.5}}
    told |= {"verdict": None, "ledger": [], "about": {}}
    content: dict[str, Any] = {
        "masks": masks,
        "example": X,
        "values": "fp32",
        "told": told,
        "claim": "nothing",
    }
    content["compacted"] = lambda n: compact(rule.network, rule.normalize(X[:2]), masks, multiple=n)
    content["graph"] = lambda: make_graph(rule, X)
    return Spec(**(content | change))


@pytest.mark.parametrize(("values", "tolerance"), [("fp32", 0.0), ("fp16", 1e-2)])
def test_the_ticket_is_read_into_a_copy(
    values: Any, tolerance: float, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    layer, masks = linear()
    rule = Deployed(layer, thresholds={})
    (written,) = TicketFormat().write(rule, tmp_path, spec(rule, masks, values=values))
    assert (written.path.name, written.tolerance, written.runtime) == ("ticket.safetensors", tolerance, None)
    scores, decision = written.reader(X)
    assert torch.equal(scores, layer(X)) is (values == "fp32")
    assert torch.equal(decision, scores.argmax(1))
    assert len(written.facts["content_sha256"]) == 64
    assert not _of_offsets(recwarn)


def test_onnx_is_read_by_its_runtime(tmp_path: Path) -> None:
    layer, masks = linear()
    rule = Deployed(layer, (1.0, 2.0), {1: 0.5})
    told = spec(rule, masks, values="fp16")
    graph = told.graph()
    told = replace(told, graph=lambda: graph)
    for form, name, tolerance in ((OnnxFormat(), "model.onnx", 1e-2), (PlainFormat(), "plain.onnx", 1e-4)):
        (written,) = form.write(rule, tmp_path, told)
        assert (written.path.name, written.tolerance, written.runtime) == (name, tolerance, "ONNX Runtime")
        torch.testing.assert_close(written.reader(X)[0], layer((X - 1) / 2), atol=tolerance, rtol=0)
        assert torch.equal(written.reader(X)[1], rule(X)[1])
        assert written.facts["opset"] >= 16
    plain = onnx.load(tmp_path / "plain.onnx")
    assert {entry.key: entry.value for entry in plain.metadata_props}["values"] == "fp32"
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in plain.graph.initializer}
    np.testing.assert_array_equal(weights["network.weight"], layer.weight.detach().numpy())


def test_a_compact_network_is_two_files_or_none(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    layer, masks = linear()
    rule = Deployed(layer, thresholds={})
    assert CompactFormat().write(rule, tmp_path, spec(rule, masks)) == []
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        net[2].weight[:, 1] = 0  # nothing reads the second unit
    rule = Deployed(net, thresholds={})
    written = CompactFormat().write(rule, tmp_path, spec(rule, {}))
    assert [one.path.name for one in written] == ["compact.safetensors", "compact.onnx"]
    assert [one.runtime for one in written] == [None, "ONNX Runtime"]
    for one in written:
        torch.testing.assert_close(one.reader(X)[0], net(X))
    assert not _of_offsets(recwarn)


def _of_offsets(warned: pytest.WarningsRecorder) -> list[str]:
    """Who reads a file is told of its offsets, not who writes it."""
    return [str(one.message) for one in warned if "offsets" in str(one.message)]


def test_the_fastest_and_the_smallest_are_one_file_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 30), nn.ReLU(), nn.Linear(30, 2))
    with torch.no_grad():
        net[2].weight[:, 11:] = 0  # nothing reads the rest
    rule = Deployed(net, thresholds={})
    monkeypatch.setattr(fast_format, "MULTIPLES", (4, 12, 8))
    (fast,) = FastFormat().write(rule, tmp_path, spec(rule, {}))
    (small,) = SmallFormat().write(rule, tmp_path, spec(rule, {}))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["compact.onnx", "fast.onnx"]
    assert (fast.path.name, small.path.name) == ("fast.onnx", "compact.onnx")
    width = {4: 12, 8: 16}[fast.facts["widths_multiple_of"]]
    shapes = {tuple(tensor.dims) for tensor in onnx.load(fast.path).graph.initializer}
    assert {(width, 4), (width,)} <= shapes
    for batch, by_multiple in fast.facts["multiples_ms"].items():
        assert list(by_multiple) == ["4", "8"], batch  # 12 gives the widths of 4
    for one in (fast, small):
        torch.testing.assert_close(one.reader(X)[0], net(X))
    whole, masks = linear()
    rule = Deployed(whole, thresholds={})
    told = spec(rule, masks)
    graph = told.graph()
    for form, name in ((FastFormat(), "fast.onnx"), (SmallFormat(), "model.onnx")):
        (written,) = form.write(rule, tmp_path, replace(told, graph=lambda: graph))
        assert written.path.name == name
        torch.testing.assert_close(written.reader(X)[0], whole(X))
