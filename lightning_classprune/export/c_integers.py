"""A network in eight bits as C can compute it: what is read from ONNX Runtime's quantised graph, layer by layer.

C computes as ONNX Runtime does: sums of products of bytes in 32 bits, a multiplication by one float a channel, and
rounding to the nearest even number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_classprune.export.c_network import Layer, Step

_WEIGHTED = ("Conv", "Gemm")


@dataclass(frozen=True)
class Rounding:
    """How numbers are bytes: a number is (byte - zero) * scale.

    Attributes:
        scale: Above 0.
        zero: 0 to 255.
    """

    scale: np.float32
    zero: int


@dataclass(frozen=True)
class Integers:
    """A layer in eight bits.

    Attributes:
        weight: As the layer's, int8.
        bias: int32, in units of the sums.
        reads: Of its input.
        writes: Of its output; None of the last layer, whose scores are floats.
        multiplier: A channel: from a sum to a byte of the output, without its zero, or to a score.
    """

    weight: NDArray[np.int8]
    bias: NDArray[np.int32]
    reads: Rounding
    writes: Rounding | None
    multiplier: NDArray[np.float32]


def read_integers(proto: Any, steps: Sequence[Step]) -> list[Integers]:
    """Return the layers of a quantised graph, in the order of the network's.

    Args:
        proto: What `quantized` returned of the network whose steps these are.
        steps: Of the network; the first and the last are layers.

    Raises:
        ValueError: They are not, or the graph has other layers.
    """
    layers = [step for step in steps if isinstance(step, Layer)]
    if not isinstance(steps[0], Layer) or not isinstance(steps[-1], Layer):
        raise ValueError(
            "int8: in C the network must begin and end with a convolution or a linear layer; leave int8 out"
        )
    graph = _Graph(proto.graph)
    nodes = [node for node in proto.graph.node if node.op_type in _WEIGHTED]
    if len(nodes) != len(layers):
        raise ValueError(
            f"int8: the quantised graph has {len(nodes)} layers for {len(layers)} of the network; leave int8 out"
        )
    found = [graph.layer(node, layer) for node, layer in zip(nodes, layers, strict=True)]
    if any((one.writes is None) != (one is found[-1]) for one in found):
        raise ValueError("int8: the network has a layer whose output is not rounded; leave int8 out")
    return found


class _Graph:
    """Values by name, and who uses them."""

    def __init__(self, graph: Any) -> None:
        from onnx import numpy_helper

        self._constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self._makers = {name: node for node in graph.node for name in node.output}
        self._users = {name: node for node in reversed(graph.node) for name in node.input}

    def layer(self, node: Any, layer: Layer) -> Integers:
        given, of_weight = (self._makers[name] for name in node.input[:2])
        reads = self._rounding(given)
        weight, scale = (self._constants[name] for name in of_weight.input[:2])
        if node.op_type == "Gemm" and not _attribute(node, "transB"):
            weight = weight.T
        weight = np.ascontiguousarray(weight.reshape(layer.weight.shape), np.int8)
        bias = np.zeros(len(weight), np.int32)
        if len(node.input) > 2 and node.input[2]:
            bias = self._constants[self._makers[node.input[2]].input[0]].astype(np.int32)
        unit = reads.scale * np.broadcast_to(scale.astype(np.float32).reshape(-1), (len(weight),))
        writes = self._written(node.output[0])
        multiplier = unit if writes is None else unit / writes.scale
        return Integers(weight, bias, reads, writes, np.ascontiguousarray(multiplier, np.float32))

    def _rounding(self, node: Any) -> Rounding:
        scale, zero = (self._constants[name] for name in node.input[1:3])
        return Rounding(np.float32(scale), int(zero))

    def _written(self, name: str) -> Rounding | None:
        """How a layer's output is rounded, behind its ReLU if that has stayed."""
        node = self._users.get(name)
        while node is not None and node.op_type == "Relu":
            node = self._users.get(node.output[0])
        return self._rounding(node) if node is not None and node.op_type == "QuantizeLinear" else None


def _attribute(node: Any, name: str) -> int:
    return next((int(one.i) for one in node.attribute if one.name == name), 0)
