"""C99 files: compiled without a warning, they decide what the module decides."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lightning_classprune.export.artefact import NOT_DECLARED, Spec
from lightning_classprune.export.c_format import CFormat
from lightning_classprune.export.c_library import CLibrary
from lightning_classprune.export.compact import compact
from lightning_classprune.export.deployed import Deployed
from lightning_classprune.export.int8_format import int8_file
from lightning_classprune.export.onnx_export import make_graph
from lightning_classprune.guard.decision_offset import DecisionOffset
from lightning_classprune.job.models import conv_net, mlp

pytest.importorskip("torch_pruning")
pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler"),
]
NAMES = ["fine", "crack */", "??/"]


def spec(rule: Deployed, x: torch.Tensor, **change: Any) -> Spec:
    content: dict[str, Any] = {
        "masks": {},
        "example": x,
        "values": "fp32",
        "told": {"class_names": NAMES},
        "claim": "nothing",
        "compacted": cache(lambda n: compact(rule.network, rule.normalize(x[:2]), multiple=n)),
        "graph": lambda: pytest.fail("not needed"),
    }
    return Spec(**(content | change))


def drawn(net: nn.Module, kept: float) -> nn.Module:
    """Random statistics, and a share of the weights."""
    torch.manual_seed(0)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                module.bias.normal_()
        for weight in net.parameters():
            if weight.ndim > 1:
                weight *= torch.rand_like(weight) < kept
                weight *= 3
    return net.eval()


def every_step() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, (3, 5), stride=(1, 2), padding=(2, 1), dilation=(2, 1), bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.Conv2d(8, 8, 3, padding="same", groups=8),  # depthwise
        nn.ReLU(),
        nn.Conv2d(8, 12, 1, groups=2),
        nn.AvgPool2d(2, stride=1),
        nn.ReLU(),
        nn.Conv2d(12, 6, 3, padding=4),
        nn.AdaptiveMaxPool2d((2, 3)),
        nn.Flatten(),
        nn.Linear(36, 10),
        nn.BatchNorm1d(10),
        nn.ReLU(),
        nn.Linear(10, 3),
    )


def pixels(*shape: int) -> torch.Tensor:
    """Light and dark images."""
    drawn = torch.Generator().manual_seed(1)
    light = torch.rand(shape[0], 1, 1, 1, generator=drawn)
    return (torch.rand(shape, generator=drawn) * light * 255).to(torch.uint8)


PIXELS, GREY = pixels(20, 3, 13, 17), pixels(12, 1, 32, 32)
NUMBERS = torch.randn(20, 12, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("make", "x", "options"),
    [
        (every_step, PIXELS, {"normalization": ((0.4, 0.5, 0.6), 0.2), "thresholds": {1: 0.25}}),
        (
            lambda: mlp(12, 3),
            NUMBERS,
            {"normalization": (torch.arange(12.0), torch.arange(1, 13.0)), "offset": True},
        ),
        (lambda: mlp(12, 1), NUMBERS, {"thresholds": {1: 0.05}}),
        (lambda: conv_net(1, 3), GREY, {"normalization": (0.5, 0.25)}),
    ],
    ids=["every step", "features", "one logit", "the job's"],
)
@pytest.mark.parametrize("kept", [1.0, 0.5])
def test_decisions_are_the_modules(
    make: Callable[[], nn.Module], x: torch.Tensor, options: dict[str, Any], kept: float, tmp_path: Path
) -> None:
    torch.manual_seed(2)  # a network that still decides otherwise for other samples with half of its weights
    net = drawn(make(), kept)
    rule = Deployed(
        net,
        options.get("normalization"),
        options.get("thresholds", {}),
        DecisionOffset({"fine": 0.5}, NAMES) if "offset" in options else None,
    )
    with torch.no_grad():
        # Else one class has all; between two samples, for at one of them scores would tie.
        net[-1].bias -= rule(x)[0].quantile(0.45, dim=0)
        scores, decision = rule(x)
    code, header = CFormat().write(rule, tmp_path, spec(rule, x))
    for read in (code.reader, header.reader):
        got, decided = read(x)
        assert got.shape == scores.shape
        torch.testing.assert_close(got, scores, rtol=1e-4, atol=1e-4)
        assert torch.equal(decided, decision)
    assert len(decision.unique()) > 1
    assert (code.path.name, header.path.name, code.runtime, header.runtime) == (
        "model.c",
        "model.h",
        "C99",
        None,
    )
    assert code.facts["flash"] > 0


@pytest.mark.parametrize(
    ("net", "kept", "x", "options"),
    [
        (every_step, 1.0, PIXELS, {"normalization": ((0.4, 0.5, 0.6), 0.2), "thresholds": {1: 0.25}}),
        (lambda: mlp(12, 1), 0.3, NUMBERS, {"thresholds": {1: 0.05}}),
        (lambda: conv_net(1, 3), 0.1, GREY, {"normalization": (0.5, 0.25)}),
    ],
    ids=["every step", "one logit", "the job's"],
)
def test_in_eight_bits_it_decides_as_the_int8_file(
    net: Any,
    kept: float,
    x: torch.Tensor,
    options: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("onnxscript")
    rule = Deployed(drawn(net(), kept), options.get("normalization"), options.get("thresholds", {}))
    told = spec(rule, x, int8=x)
    smaller = rule.around(told.compacted(1).model)
    graph = make_graph(smaller, x)
    monkeypatch.setitem(CFormat.write.__globals__, "make_graph", lambda *_: graph)  # once is enough
    known = int8_file(graph, tmp_path / "int8.onnx", x, {})
    scores, decision = known.reader(x)
    code, header = CFormat().write(rule, tmp_path, told)
    got, decided = code.reader(x)
    torch.testing.assert_close(got, scores, rtol=1e-6, atol=1e-6)
    assert torch.equal(decided, decision)
    assert (code.verdict, header.verdict) == (NOT_DECLARED, NOT_DECLARED)
    assert header.keeps_name
    assert "unproven (not declared)" in code.path.read_text()
    whole, _ = CFormat().write(rule, tmp_path, spec(rule, x))
    assert code.facts["ram"] < 0.5 * whole.facts["ram"]
    assert code.facts["flash"] < whole.facts["flash"]
    assert code.facts["multiplications"] <= whole.facts["multiplications"]
    CFormat().write(rule, tmp_path, told)
    check_needs_no_library(code.path, tmp_path / "model.o")


def test_it_needs_no_library(tmp_path: Path) -> None:
    rule = Deployed(drawn(conv_net(1, 3), 0.2), thresholds={})
    (code, _) = CFormat().write(rule, tmp_path, spec(rule, GREY.float()))
    check_needs_no_library(code.path, tmp_path / "model.o")


def check_needs_no_library(code: Path, made: Path) -> None:
    subprocess.run(["cc", "-std=c99", "-ffreestanding", "-O2", "-c", str(code), "-o", str(made)], check=True)
    needed = subprocess.run(["nm", "-u", str(made)], capture_output=True, text=True, check=True).stdout
    assert not [
        name for name in needed.split() if name not in ("U", "_GLOBAL_OFFSET_TABLE_", "memset", "memcpy")
    ]


def test_what_cannot_be_checked_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rule = Deployed(mlp(12, 3), thresholds={})
    with pytest.raises(ValueError, match="values='fp16': the C file stores weights as float"):
        CFormat().write(rule, tmp_path, spec(rule, NUMBERS, values="fp16"))
    wide = NUMBERS.double()
    twin = Deployed(mlp(12, 3).double(), thresholds={})
    with pytest.raises(ValueError, match=r"torch\.float64 has no C input"):
        CFormat().write(twin, tmp_path, spec(twin, wide))
    broken = tmp_path / "broken.c"
    broken.write_text("int model_decide(void) { return undeclared; }")
    with pytest.raises(ValueError, match=r"refuses broken\.c: (.|\n)*undeclared"):
        CLibrary(broken, 2)
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(ValueError, match="there is no C compiler here"):
        CLibrary(broken, 2)
