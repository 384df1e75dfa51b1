"""Gaps and values: a packed weight is the weight again, and no form is larger than the dense one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_classprune.export.onnx_packing import encode_gaps, pack_weights

U8, U16 = np.dtype(np.uint8), np.dtype(np.uint16)


def decode(gaps: np.ndarray[Any, Any], values: np.ndarray[Any, Any], size: int) -> np.ndarray[Any, Any]:
    flat = np.zeros(size, values.dtype)
    flat[np.cumsum(gaps.astype(np.int64))] = values
    return flat


def at(size: int, *positions: int) -> np.ndarray[Any, Any]:
    weight = np.zeros(size, np.float32)
    weight[list(positions)] = np.arange(1, len(positions) + 1)
    return weight


@pytest.mark.parametrize(
    ("positions", "gaps", "values"),
    [
        ([], [], []),
        ([0], [0], [1]),
        ([255], [255], [1]),
        ([256], [255, 1], [0, 1]),
        ([510], [255, 255], [0, 1]),
        ([3, 3 + 765], [3, 255, 255, 255], [1, 0, 0, 2]),
        ([3, 3 + 766], [3, 255, 255, 255, 1], [1, 0, 0, 0, 2]),
        ([0, 1, 2], [0, 1, 1], [1, 2, 3]),
    ],
)
def test_by_hand(positions: list[int], gaps: list[int], values: list[float]) -> None:
    found = encode_gaps(at(1000, *positions), U8)
    assert found[0].dtype == np.uint8
    assert found[0].tolist() == gaps
    assert found[1].tolist() == values


def test_two_bytes_bridge_where_one_byte_needs_many() -> None:
    weight = at(200_000, 65_535, 131_071, 199_999)
    gaps, values = encode_gaps(weight, U16)
    assert gaps.tolist() == [65_535, 65_535, 1, 65_535, 3_393]
    assert values.tolist() == [1, 0, 2, 0, 3]
    np.testing.assert_array_equal(decode(gaps, values, weight.size), weight)


@pytest.mark.parametrize("gap", [U8, U16])
@given(kept=st.sets(st.integers(0, 2999)), shape=st.sampled_from([(3000,), (30, 100), (10, 3, 10, 10)]))
def test_decoding_gives_the_weight(gap: np.dtype[Any], kept: set[int], shape: tuple[int, ...]) -> None:
    weight = at(3000, *sorted(kept)).reshape(shape)
    gaps, values = encode_gaps(weight, gap)
    assert len(gaps) == len(values)
    np.testing.assert_array_equal(decode(gaps, values, 3000).reshape(shape), weight)


@given(st.integers(1, 40), st.integers(-1, 1))
def test_gaps_around_multiples_of_the_widest(times: int, more: int) -> None:
    last = 7 + 255 * times + more
    gaps, values = encode_gaps(at(last + 5, 7, last), U8)
    assert len(gaps) == 1 + times + (more > 0)
    np.testing.assert_array_equal(decode(gaps, values, last + 5), at(last + 5, 7, last))


def test_full_weight_keeps_every_value() -> None:
    weight = np.arange(1, 601, dtype=np.float32)
    gaps, values = encode_gaps(weight, U8)
    assert gaps.tolist() == [0] + [1] * 599
    np.testing.assert_array_equal(values, weight)


# -- in a graph --


def packed(weight: np.ndarray[Any, Any], *, half: bool = False) -> Any:
    """A graph that holds one weight and gives it."""
    onnx = pytest.importorskip("onnx")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["w"], ["y"])],
        "g",
        [],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, weight.shape)],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    pack_weights(model, half=half)
    return model


@pytest.mark.parametrize(
    ("share", "operators"),
    [
        (1.0, ["Identity"]),  # full: dense
        (0.01, ["Cast", "CumSum", "ConstantOfShape", "ScatterElements", "Reshape", "Identity"]),
        (0.0, ["ConstantOfShape", "Identity"]),
    ],
)
def test_a_graph_gives_the_weight_in_its_smallest_form(share: float, operators: list[str]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    weight = np.random.default_rng(0).normal(size=(100, 60)).astype(np.float32)
    weight[np.random.default_rng(1).random(weight.shape) >= share] = 0
    model = packed(weight)
    assert [node.op_type for node in model.graph.node] == operators
    (got,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {})
    np.testing.assert_array_equal(got, weight)
    (got,) = onnx_reference().ReferenceEvaluator(model).run(None, {})
    np.testing.assert_array_equal(got, weight)


def onnx_reference() -> Any:
    return pytest.importorskip("onnx.reference")


def test_nothing_is_left_to_defaults_and_every_shape_is_the_standards() -> None:
    onnx = pytest.importorskip("onnx")
    weight = np.zeros((40, 50), np.float32)
    weight[::7, ::9] = 1
    model = packed(weight)
    onnx.checker.check_model(
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True), True
    )
    nodes = {node.op_type: node for node in model.graph.node}
    told = {
        kind: {a.name: onnx.helper.get_attribute_value(a) for a in n.attribute} for kind, n in nodes.items()
    }
    (zero,) = onnx.numpy_helper.to_array(told["ConstantOfShape"]["value"])
    assert (zero, zero.dtype) == (0, np.float32)
    assert told["CumSum"] == {"exclusive": 0, "reverse": 0}
    assert told["ScatterElements"] == {"axis": 0, "reduction": b"none"}
    assert told["Reshape"] == {"allowzero": 0}
    shapes = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    assert shapes[nodes["CumSum"].input[1]] == []
    assert shapes[nodes["ConstantOfShape"].input[0]] == [1]
    assert shapes[nodes["Reshape"].input[1]] == [2]


@pytest.mark.parametrize(
    ("low", "high", "stored"),
    [
        (-128, 127, "int8"),
        (0, 128, "int16"),
        (-129, 5, "int16"),
        (-32768, 32767, "int16"),
        (0, 32768, "int32"),
    ],
)
def test_whole_numbers_are_stored_in_as_few_bits_as_hold_them(low: int, high: int, stored: str) -> None:
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    numbers = np.full(90, high, np.int32)
    numbers[::2] = low or 1
    model = packed(numbers)
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT32
    (tensor,) = [t for t in model.graph.initializer if not t.name.startswith("classprune/")]
    assert onnx.numpy_helper.to_array(tensor).dtype == stored
    (got,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {})
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, numbers)


def test_halves_are_for_matrices_that_fit_them() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    weight = np.linspace(1, 2, 6000, dtype=np.float32).reshape(100, 60)
    for kept, halved in ((weight, True), (weight.reshape(-1), False), (weight * 1e5, False)):
        model = packed(kept, half=True)
        assert ("Cast" in [node.op_type for node in model.graph.node]) is halved
        (got,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {})
        expected = kept.astype(np.float16).astype(np.float32) if halved else kept
        np.testing.assert_array_equal(got, expected)
