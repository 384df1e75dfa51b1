"""Judged files: the very bytes that the guard judged, with their verdict, or none."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lightning_classprune.export.artefact import Spec
from lightning_classprune.export.deployed import Deployed
from lightning_classprune.export.judged_format import JudgedFormat
from tests.export.test_quantization import X, network, run

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def row(content: bytes, name: str = "file.onnx") -> Any:
    told = {"file": name, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    told |= {"verdict": "refused", "reason": "why", "classes": {"a": {"fn": 1}}, "level": 0.01}
    return {"files": {"int8": told | {"calibration": {"samples": 3, "sha256": "ab"}}}}


def test_the_file_is_copied_with_what_was_said_of_it(tmp_path: Path) -> None:
    home, out = tmp_path / "home", tmp_path / "out"
    home.mkdir()
    out.mkdir()
    proto = network()
    onnx.helper.set_model_props(proto, {"thresholds": "{}"})
    content = proto.SerializeToString()
    (home / "file.onnx").write_bytes(content)
    told = row(content)
    form = JudgedFormat(home, told, {})
    assert list(form.there) == ["int8"]
    with pytest.warns(UserWarning, match="or decides by another threshold"):
        assert JudgedFormat(home, told, {1: 0.5}).there == {}
    rule = Deployed(nn.Flatten(), thresholds={})
    spec: Any = Spec({}, X, "fp32", {}, "", lambda n: None, lambda: None)  # type: ignore[arg-type, return-value]
    (written,) = form.write(rule, out, spec)
    assert written.path == out / "int8.onnx"
    assert written.path.read_bytes() == content
    assert (written.verdict, written.facts["declared"], written.facts["counts"]) == (
        "refused",
        True,
        {"a": {"fn": 1}},
    )
    torch.testing.assert_close(written.reader(X)[0], torch.from_numpy(run(network(), X)[0]))
    narrow: Any = Spec({}, X[:, :1], "fp32", {}, "", lambda n: None, lambda: None)  # type: ignore[arg-type, return-value]
    with pytest.raises(
        ValueError, match=r"file\.onnx does not take the example \(300, 1, 6, 6\), torch\.float32"
    ):
        form.write(rule, out, narrow)


@pytest.mark.parametrize("name", ["file.onnx", "other.onnx", "", "../home/file.onnx"])
def test_another_file_is_none_and_that_is_said(name: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "file.onnx").write_bytes(b"changed")
    right = b"changed" if name else b""
    said = row(b"as judged" if name == "file.onnx" else right, name)
    with pytest.warns(
        UserWarning, match="the int8 file that the guard judged, .* is not in .*, was changed, or decides"
    ):
        form = JudgedFormat(home, said, {})
    assert form.there == {}
    with pytest.warns(UserWarning, match="is not in None"):
        assert JudgedFormat(None, said, {}).there == {}


def test_a_run_that_declared_nothing_has_none(tmp_path: Path) -> None:
    for known in (None, {"verdict": "accepted"}):
        assert JudgedFormat(tmp_path, known, {}).there == {}  # type: ignore[arg-type]
