"""Files of a running fit: what cannot be made is said before training, and what is judged is the file."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_classprune import files
from lightning_classprune.export.judged_files import JudgedFiles
from lightning_classprune.export.judged_format import JudgedFormat
from lightning_classprune.export.onnx_session import OnnxFile
from lightning_classprune.guard.outcomes import Decisions
from lightning_classprune.trainer.forward import default_predict
from tests.support.compare import without_seconds
from tests.support.kit import Tiny, dataset, fit, plain_pruner, tiny

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytest.importorskip("torch_pruning")

GUARD = dataset(210, 3)


def job(**options: Any) -> Any:
    defaults: dict[str, Any] = {
        "protect": {1: 0.5},
        "confidence": 0.9,
        "max_fp_rise": 0.5,
        "target_sparsity": 0.4,
    }
    defaults |= {"fraction": 0.4, "judging": "end", "guard_dataloader": DataLoader(GUARD, batch_size=70)}
    return plain_pruner(**(defaults | {"judged": ["fp16", "int8"]} | options))


def run(callback: Any, module: Any = None, **options: Any) -> Any:
    train, val = DataLoader(dataset(96, 1), batch_size=16), DataLoader(dataset(200, 2), batch_size=100)
    module = tiny() if module is None else module
    fit(module, callback, **({"train": train, "val": val, "max_epochs": 1} | options))
    return module


def test_every_file_has_a_verdict_of_its_own_at_holms_levels(tmp_path: Path) -> None:
    callback = job(ladder=str(tmp_path), judged=["folded", "fp16", "int8"])
    module = run(callback)
    assert "forward" not in vars(module)
    row = callback.ledger[1]
    assert list(row["files"]) == ["int8", "fp16", "folded"]
    judged = [row, *row["files"].values()]
    p_values = [max(one["classes"]["1"][key] for key in ("p_value", "fp_p_value")) for one in judged]
    in_order = sorted(range(4), key=lambda i: p_values[i])
    assert [judged[i]["level"] for i in in_order] == pytest.approx([0.1 / 4, 0.1 / 3, 0.1 / 2, 0.1])
    assert {one["verdict"] for one in judged} == {"accepted"}
    x, y = GUARD.tensors
    dense = callback.guard_outcomes["dense"]
    for kind, one in row["files"].items():
        path = tmp_path / one["file"]
        assert (files.sha256(path), path.stat().st_size) == (one["sha256"], one["bytes"])
        misses, alarms = Decisions(y, OnnxFile(path)(x)[1], 2, ("0", "1")).pairs(dense, "1")
        counts = one["classes"]["1"]
        assert (counts["newly_missed"], counts["newly_found"]) == (misses.newly_missed, misses.newly_found)
        assert (counts["new_alarms"], counts["gone_alarms"]) == (alarms.newly_missed, alarms.newly_found)
        assert one["calibration"] is None if kind == "fp16" else one["calibration"]["samples"] == 96
        assert OnnxFile(path).metadata["values"] == {"folded": "fp32"}.get(kind, kind)
    folded = onnx.load(tmp_path / row["files"]["folded"]["file"])
    shapes = [list(tensor.dims) for tensor in folded.graph.initializer]
    assert [7, 8] in shapes, "three quarters of the channels that live"
    mark = json.loads(next(tmp_path.glob("judged-*.json")).read_text())
    assert mark["files"] == [one["sha256"] for one in row["files"].values()]
    assert list(JudgedFormat(tmp_path, row, {}).there) == ["int8", "fp16", "folded"]
    assert json.loads(json.dumps(without_seconds(callback.ledger))) == without_seconds(callback.ledger)


class Two(Tiny):
    """Its forward may take two tensors."""

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        return super().forward(x)


def twice(module: Any, batch: Any) -> Any:
    return module(batch[0]) + module(batch[0]), batch[1]


def beside(module: Any, batch: Any) -> Any:
    return -module(batch[0]), batch[1]


def inside(module: Any, batch: Any) -> Any:
    return module.net(batch[0]), batch[1]


@pytest.mark.parametrize(
    ("predict", "said"),
    [
        (twice, "predict calls the module's forward 2 times a batch"),
        (inside, "predict calls the module's forward 0 times a batch"),
        (beside, "forward returns a Tensor that is not what predict decides by"),
        (lambda m, b: (m(b[0], b[0]), b[1]), "forward takes more than one tensor"),
    ],
)
def test_what_a_file_could_not_stand_for_is_said_before_training(
    predict: Callable[..., Any], said: str
) -> None:
    with pytest.raises(MisconfigurationException, match=rf"^Files\.judged=\['int8', 'fp16'\]: .*{said}"):
        run(job(predict=predict), Two())


class Frozen(Tiny):
    """Its only width is held by a layer that mixes channels."""

    def __init__(self) -> None:
        super().__init__()
        self.net[1] = torch.nn.LayerNorm(12)


def test_a_network_that_cannot_be_folded_is_refused_before_training() -> None:
    with pytest.raises(
        MisconfigurationException, match=r"^Files\.judged=\['folded'\]: no folded file .*LayerNorm"
    ):
        run(job(judged=["folded"]), Frozen())


def test_several_training_loaders_are_refused() -> None:
    loader = DataLoader(dataset(96, 1), batch_size=16)
    with pytest.raises(MisconfigurationException, match="one DataLoader over a map-style data set is needed"):
        run(
            job(predict=lambda m, b: default_predict(m, b[0] if isinstance(b[0], list) else b)),
            train=[loader] * 2,
        )


def test_a_package_that_is_missing_is_named_in_setup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    said = r"Files\.judged=\['int8'\] needs the package onnxruntime: pip install 'lightning-classprune\[onnx,compact\]'"
    with pytest.raises(MisconfigurationException, match=said):
        JudgedFiles(["int8"], ["a", "b"], 0.0, default_predict).check_packages()
    with pytest.raises(MisconfigurationException, match=said):
        run(job(judged=["int8"]))


class Eigen(Tiny):
    """ONNX has no operator for what this does."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.linalg.eigvals(x[:, :4].reshape(-1, 2, 2)).real


def test_a_network_that_no_file_can_hold_is_refused_before_training() -> None:
    with pytest.raises(
        MisconfigurationException, match=r"no int8 file can be made of this network: .*no operator"
    ):
        run(job(judged=["int8"]), Eigen())
