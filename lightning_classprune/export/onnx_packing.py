"""Sparse weights inside an ONNX graph, rebuilt by standard operators that runtimes fold into constants at load.

A packed weight is `Reshape(ScatterElements(ConstantOfShape(0), CumSum(Cast(gaps)), values), shape)`, with gaps of one
byte, or two where that is smaller; values are as they were: floats, or the integers of a quantised graph. Integers of
32 bits that fit into fewer are stored so and cast. Every attribute is written, also where the standard has a default:
clients were seen to leave memory as it is where `value` was missing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_GAP_TYPES = (np.dtype(np.uint8), np.dtype(np.uint16))
_HALF_MAX = float(np.finfo(np.float16).max)


def encode_gaps(weight: NDArray[Any], gap: np.dtype[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Gaps and values of the non-zero entries of `weight`, in C order: two arrays of equal length.

    The running sum of the gaps is where each value belongs; the first gap counts from position 0. A gap too wide for
    its type is bridged by values of zero, which land on positions that are zero anyway. Zeros lose their sign.

    Args:
        weight: Any shape, any number type.
        gap: An unsigned integer type, `uint8` or `uint16`.
    """
    flat = weight.reshape(-1)
    positions = np.flatnonzero(flat)
    widest = int(np.iinfo(gap).max)
    steps = np.diff(positions, prepend=0)
    bridges = np.maximum(steps - 1, 0) // widest
    ends = np.cumsum(bridges + 1) - 1
    length = int(ends[-1]) + 1 if len(ends) else 0
    gaps = np.full(length, widest, dtype=gap)
    gaps[ends] = steps - bridges * widest
    values = np.zeros(length, dtype=flat.dtype)
    values[ends] = flat[positions]
    return gaps, values


class _Form(NamedTuple):
    """One way to store a weight: what goes into the graph."""

    initializers: list[Any]
    nodes: list[Any]

    def size(self) -> int:
        return sum(int(part.ByteSize()) for part in (*self.initializers, *self.nodes))


def pack_weights(model: Any, *, half: bool) -> None:
    """Replace every initializer of a `ModelProto` that may be a weight by its smallest form, in place; else it stays.

    These are the fp32 ones, and those of 8 and 32 bits that stand for them in a quantised graph.

    Works on content, not on names, so it also finds weights that the exporter transposed, renamed or fused with a
    batch normalisation: zeros stay zeros in all of these.

    Args:
        model: An `onnx.ModelProto` of opset 16 or later with its weights inside.
        half: Store the values of matrices and filters as fp16, except of those with a value beyond its range.
    """
    from onnx import TensorProto, numpy_helper

    graph = model.graph
    shared: dict[str, Any] = {}
    initializers, nodes = [], []
    for dense in graph.initializer:
        form = _Form([dense], [])
        if dense.data_type in (TensorProto.FLOAT, TensorProto.INT8, TensorProto.UINT8, TensorProto.INT32):
            weight = numpy_helper.to_array(dense)
            # Vectors are few bytes, and the decision's constants are among them: never rounded.
            rounded = half and weight.ndim > 1 and float(np.abs(weight).max(initial=0)) <= _HALF_MAX
            rounded &= weight.dtype == np.float32
            form = min([form, *_forms(dense.name, weight, rounded, shared)], key=_Form.size)
        initializers += form.initializers
        nodes += form.nodes
    used = {name for node in nodes for name in node.input}
    initializers += [tensor for name, tensor in shared.items() if name in used]
    nodes += graph.node
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(initializers)
    graph.node.extend(nodes)


def _forms(name: str, weight: NDArray[Any], half: bool, shared: dict[str, Any]) -> list[_Form]:
    from onnx import TensorProto, helper, numpy_helper

    def constant(key: str, numbers: Any) -> str:
        key = f"classprune/{key}"
        shared.setdefault(key, numpy_helper.from_array(np.asarray(numbers, np.int64), key))
        return key

    def zeros(size: str, name: str) -> Any:
        return helper.make_node("ConstantOfShape", [size], [name], value=zero)

    zero = numpy_helper.from_array(np.zeros(1, weight.dtype))
    shape = constant("x".join(map(str, weight.shape)), weight.shape)
    if not weight.any():
        return [_Form([], [zeros(shape, name)])]
    forms = []
    if weight.dtype == np.int32:
        narrow = np.min_scalar_type(min(int(weight.min()), -int(weight.max()) - 1))
        tensor = numpy_helper.from_array(weight.astype(narrow), f"{name}/narrow")
        cast = helper.make_node("Cast", [tensor.name], [name], to=TensorProto.INT32)
        forms.append(_Form([tensor], [cast]))
    if half:
        tensor = numpy_helper.from_array(weight.astype(np.float16), f"{name}/values")
        cast = helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT)
        forms.append(_Form([tensor], [cast]))
    for gap in _GAP_TYPES:
        gaps, values = encode_gaps(weight, gap)
        tensors = [
            numpy_helper.from_array(gaps, f"{name}/gaps"),
            numpy_helper.from_array(values.astype(np.float16) if half else values, f"{name}/values"),
        ]
        # tract takes int64 for symbols, which it does not sum.
        places = TensorProto.INT32 if weight.size <= np.iinfo(np.int32).max else TensorProto.INT64
        # Compress could drop the bridging zeros (6% of the bytes), but ONNX Runtime does not fold it: 1.7 times slower.
        nodes = [
            helper.make_node("Cast", [f"{name}/gaps"], [f"{name}/steps"], to=places),
            helper.make_node(
                "CumSum", [f"{name}/steps", constant("axis", 0)], [f"{name}/places"], exclusive=0, reverse=0
            ),
            zeros(constant(f"{weight.size}", [weight.size]), f"{name}/zeros"),
        ]
        updates = f"{name}/values"
        if half:
            nodes.append(helper.make_node("Cast", [updates], [f"{name}/floats"], to=TensorProto.FLOAT))
            updates = f"{name}/floats"
        nodes += [
            helper.make_node(
                "ScatterElements",
                [f"{name}/zeros", f"{name}/places", updates],
                [f"{name}/flat"],
                axis=0,
                reduction="none",
            ),
            helper.make_node("Reshape", [f"{name}/flat", shape], [name], allowzero=0),
        ]
        forms.append(_Form(tensors, nodes))
    return forms
