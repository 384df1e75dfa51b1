"""Quantisation: seven-bit weights per channel, scores in float, and everything outside the layers as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lightning_classprune.export.onnx_packing import pack_weights
from lightning_classprune.export.quantization import (
    CALIBRATION,
    calibration_facts,
    calibration_samples,
    quantized,
    shorten,
)

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

X = torch.randn(300, 2, 6, 6, generator=torch.Generator().manual_seed(0))
EXAMPLE = X[:2]


def network(*, weights: bool = True) -> Any:
    """Normalisation, a sparse convolution, ReLU, a matrix, an offset, and a decision, by hand."""
    make, of = onnx.helper, onnx.numpy_helper.from_array
    random = np.random.default_rng(0)
    filters = random.normal(size=(40, 2, 3, 3)).astype(np.float32)
    filters[random.random(filters.shape) < 0.8] = 0
    filters[0] *= 100  # one scale for all channels would leave nothing of the others
    matrix = random.normal(size=(640, 3)).astype(np.float32)
    tensors = {"half": np.float32(0.5), "offset": np.array([0, 3, 0], np.float32)}
    tensors |= {"filters": filters, "b": np.ones(40, np.float32)}
    tensors |= {"matrix": matrix, "flat": np.array([-1, 640])}
    nodes = [
        make.make_node("Sub", ["input", "half"], ["normal"]),
        make.make_node("Conv", ["normal", "filters", "b"], ["maps"]),
        make.make_node("Relu", ["maps"], ["positive"]),
        make.make_node("Reshape", ["positive", "flat"], ["rows"]),
        make.make_node("MatMul", ["rows", "matrix"], ["products"]),
        make.make_node("Add", ["products", "offset"], ["scores"]),
        make.make_node("ArgMax", ["scores"], ["decision"], axis=1, keepdims=0),
    ]
    if not weights:
        nodes = [
            make.make_node("Relu", ["input"], ["scores"]),
            make.make_node("ArgMax", ["scores"], ["decision"]),
        ]
    info = make.make_tensor_value_info
    graph = make.make_graph(
        nodes,
        "g",
        [info("input", onnx.TensorProto.FLOAT, ["n", 2, 6, 6])],
        [info("scores", onnx.TensorProto.FLOAT, None), info("decision", onnx.TensorProto.INT64, None)],
        [of(np.asarray(value), name) for name, value in tensors.items()],
    )
    return make.make_model(graph, opset_imports=[make.make_opsetid("", 20)], ir_version=10)


def run(proto: Any, x: torch.Tensor) -> tuple[NDArray[Any], NDArray[Any]]:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    scores, decision = session.run(["scores", "decision"], {"input": x.numpy()})
    return scores, decision


def test_weights_have_seven_bits_zeros_stay_and_only_the_layers_change() -> None:
    before = network()
    whole = before.SerializeToString()
    proto = quantized(before, X)
    assert before.SerializeToString() == whole
    kinds = [node.op_type for node in proto.graph.node]
    # The input of each layer is rounded, its output is not where nothing weighted follows.
    assert kinds.count("QuantizeLinear") == 3  # normalised input, maps, and rows
    assert kinds[-2:] == ["Add", "ArgMax"]
    stored = [onnx.numpy_helper.to_array(t) for t in proto.graph.initializer]
    filters = next(t for t in stored if t.shape == (40, 2, 3, 3))
    assert filters.dtype == np.int8
    assert np.abs(filters).max(axis=(1, 2, 3)).tolist() == [64] * 40  # each channel has its own scale
    given = next(t for t in before.graph.initializer if t.name == "filters")
    assert (filters[onnx.numpy_helper.to_array(given) == 0] == 0).all()
    assert any(t.dtype == np.float32 and t.tolist() == [0, 3, 0] for t in stored)
    scores, _ = run(proto, X)
    assert len(np.unique(scores)) > 256  # floats
    exact, _ = run(before, X)
    assert 0 < np.abs(scores - exact).max() < 0.05 * np.abs(exact).max()


def test_a_packed_graph_gives_what_the_dense_one_gives_and_is_smaller() -> None:
    proto = quantized(network(), X)
    packed = onnx.ModelProto()
    packed.CopyFrom(proto)
    pack_weights(packed, half=False)
    shorten(packed.graph)
    names = {name for node in packed.graph.node for name in (*node.input, *node.output)}
    assert max(len(name) for name in names - {"scores", "decision", "input"}) <= 3
    onnx.checker.check_model(packed, full_check=True)
    for found, known in zip(run(packed, X), run(proto, X), strict=True):
        np.testing.assert_array_equal(found, known)
    assert packed.ByteSize() < proto.ByteSize()


def test_the_scales_of_biases_are_computed_with_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    proto = quantized(network(), X)
    (product,) = [node for node in proto.graph.node if node.op_type == "Mul"]
    monkeypatch.setitem(quantized.__globals__, "_multiply_scales", lambda graph: None)
    stored = quantized(network(), X)
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in stored.graph.initializer}
    known = constants[product.output[0]]
    factors = [constants[name] for name in product.input]
    assert (factors[0] * factors[1]).tobytes() == known.tobytes()
    assert known.shape == (40,)
    assert product.output[0] not in {t.name for t in proto.graph.initializer}
    for found, one in zip(run(proto, X), run(stored, X), strict=True):
        np.testing.assert_array_equal(found, one)


def test_the_same_data_give_the_same_file_and_others_another() -> None:
    one, same, other = (quantized(network(), x).SerializeToString() for x in (X[:99], X[:99], X[99:]))
    assert one == same
    assert one != other


def test_what_cannot_be_quantised_is_said() -> None:
    with pytest.raises(ValueError, match="int8: the network has no convolution and no product with a matrix"):
        quantized(network(weights=False), X)
    some = X.clone()
    some[7] = 3e38
    with pytest.raises(ValueError, match=r"int8: .* its scores are not finite on the calibration data"):
        quantized(network(), some)


def test_calibration_data_of_several_forms() -> None:
    assert torch.equal(calibration_samples(X, EXAMPLE), X)
    batches = [X[:200], (X[200:], torch.zeros(100)), [X]]
    assert torch.equal(calibration_samples(batches, EXAMPLE), torch.cat((X, X[: CALIBRATION - 300])))
    facts = calibration_facts(X)
    assert facts["samples"] == 300
    assert facts["sha256"] != calibration_facts(X[:299])["sha256"] == calibration_facts(X[:299])["sha256"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([], "are empty"),
        (X[:0], "are empty"),
        (X[:, :1], r"\(n, 1, 6, 6\), torch.float32, are not like the example, \(n, 2, 6, 6\)"),
        ((X * 255).to(torch.uint8), "torch.uint8, are not like"),
        (X * float("nan"), "not finite"),
        ([{"x": X}], "a batch of the calibration data is a dict"),
        ([[]], "a batch of the calibration data is a list"),
    ],
)
def test_calibration_data_that_do_not_fit(data: Any, said: str) -> None:
    with pytest.raises(ValueError, match=f"^int8: .*{said}"):
        calibration_samples(data, EXAMPLE)
