"""Quantisation: weights and activations of a graph in eight bits, by ONNX Runtime, calibrated on data.

Weights have seven bits: sums of products of eight and seven bits never exceed the sixteen bits in which processors
without dot-product instructions add them in pairs, so the file decides alike on all of them. Scores stay floats, for
256 levels would tie cases at the border.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

#: Samples that activations are measured on, at most.
CALIBRATION = 512
_BATCH = 32
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"

#: Inputs `(n, ...)`, or batches of them, alone or with their targets.
CalibrationData: TypeAlias = Tensor | Iterable[Tensor | tuple[Tensor, ...] | list[Tensor]]


def calibration_samples(data: CalibrationData, example: Tensor) -> Tensor:
    """The first `CALIBRATION` inputs of calibration data.

    Args:
        data: The data.
        example: An input `(n, ...)` as the file will get them.

    Raises:
        ValueError: There are none, they are not like the example, or they are not finite.
    """
    parts: list[Tensor] = []
    for batch in [data] if isinstance(data, Tensor) else data:
        x = batch[0] if isinstance(batch, tuple | list) and batch else batch
        if not isinstance(x, Tensor):
            raise ValueError(
                f"int8: a batch of the calibration data is a {type(batch).__name__}; give a tensor of inputs "
                "(n, ...), or batches of inputs or of (inputs, targets)"
            )
        if x.shape[1:] != example.shape[1:] or x.dtype != example.dtype or not x.ndim:
            raise ValueError(
                f"int8: calibration data (n, {', '.join(map(str, x.shape[1:]))}), {x.dtype}, are not like the "
                f"example, (n, {', '.join(map(str, example.shape[1:]))}), {example.dtype}; give inputs as the file "
                "will get them"
            )
        parts.append(x.detach().cpu()[: CALIBRATION - sum(map(len, parts))])
        if sum(map(len, parts)) == CALIBRATION:
            break
    samples = torch.cat(parts) if parts else example[:0]
    if not len(samples):
        raise ValueError("int8: the calibration data are empty; give inputs of the training part")
    if samples.is_floating_point() and not bool(torch.isfinite(samples).all()):
        raise ValueError("int8: the calibration data hold values that are not finite; give clean inputs")
    return samples.contiguous()


def calibration_facts(samples: Tensor) -> dict[str, Any]:
    """What tells one calibration from another: how many samples, and their hash."""
    content = hashlib.sha256(samples.numpy().tobytes()).hexdigest()
    return {"samples": len(samples), "sha256": content}


def quantized(proto: Any, samples: Tensor) -> Any:
    """The graph with eight-bit weights and activations between its first and last weighted operators.

    What comes before, the normalisation, and behind, offsets and decision, is as it was.

    Args:
        proto: An `onnx.ModelProto` with dense weights and the input `input`; it is not changed.
        samples: Inputs, at least one.

    Raises:
        ValueError: The graph has nothing to quantise, or its scores of the samples are not finite.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    inside, last = _between(copy.graph)
    # Its advice to preprocess is not for graphs whose norms are folded already.
    onnx.helper.set_model_props(copy, {"onnx.quant.pre_process": "onnxruntime.quant"})
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder) / "int8.onnx"
        try:
            _check_finite(proto, samples)
            quantize_static(
                copy,
                path,
                _Batches(samples),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_quantize=inside,
            )
        except Exception as error:  # whatever the quantiser, which asserts, and the runtime raise
            raise ValueError(f"int8: the network cannot be quantised: {str(error) or repr(error)}") from error
        result = onnx.load(path)
    for name in last:
        _as_float(result.graph, name)
    del result.metadata_props[:]
    _multiply_scales(result.graph)
    return result


class _Batches:
    """What ONNX Runtime reads calibration data from."""

    def __init__(self, samples: Tensor) -> None:
        self._batches = iter(torch.split(samples, _BATCH))

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"input": batch.numpy()}


@contextmanager
def _quiet() -> Iterator[None]:
    """ONNX Runtime's quantiser talks to the root logger."""
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logging.root.setLevel(level)


def _between(graph: Any) -> tuple[list[str], list[str]]:
    """The names of all nodes from the first weighted ones to the last, and the outputs of the last.

    Nodes without a name get one.

    Raises:
        ValueError: No node has weights.
    """
    for number, node in enumerate(graph.node):
        node.name = node.name or f"node{number}"
    constants = {tensor.name for tensor in graph.initializer}
    weighted = [n for n in graph.node if n.op_type in _WEIGHTED and len(constants.intersection(n.input[1:2]))]
    if not weighted:
        raise ValueError("int8: the network has no convolution and no product with a matrix of weights")
    behind = _reached(graph.node, {name for node in weighted for name in node.output}, forward=True)
    before = _reached(graph.node, {name for node in weighted for name in node.input}, forward=False)
    is_weighted = {node.name for node in weighted}
    inside = [n.name for n in graph.node if n.name in is_weighted or (n.name in behind and n.name in before)]
    last = [node.output[0] for node in weighted if node.name not in before]
    return inside, last


def _reached(nodes: Any, names: set[str], *, forward: bool) -> set[str]:
    """The nodes that depend on some values, or that these depend on; nodes are in the order of the computation."""
    found, known = set(), set(names)
    for node in nodes if forward else reversed(nodes):
        takes, gives = (node.input, node.output) if forward else (node.output, node.input)
        if known.intersection(takes):
            found.add(node.name)
            known.update(gives)
    return found


def _check_finite(proto: Any, samples: Tensor) -> None:
    """The quantiser passes over values that are not numbers."""
    import onnxruntime

    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for batch in torch.split(samples, _BATCH):
        (scores,) = session.run(["scores"], {"input": batch.numpy()})
        if not np.isfinite(scores).all():
            raise ValueError("its scores are not finite on the calibration data")


def _as_float(graph: Any, name: str) -> None:
    """Take the pair that rounds a value out of a graph."""
    own = (name, f"{name}_QuantizeLinear_Input")  # the second where the value is an output of the graph
    rounding = next((n for n in graph.node if n.op_type == "QuantizeLinear" and n.input[0] in own), None)
    if rounding is None:
        return
    back = next(n for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] == rounding.output[0])
    before, after = rounding.input[0], back.output[0]
    graph.node.remove(rounding)
    graph.node.remove(back)
    for node in graph.node:
        for place, value in enumerate(node.output):
            node.output[place] = after if value == before else value
        for place, value in enumerate(node.input):
            node.input[place] = after if value == before else value
    used = {value for node in graph.node for value in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)


def _multiply_scales(graph: Any) -> None:
    """Compute the scales of biases, which are an activation's times a weight's, where that gives the same bits.

    Stored, they take as much as the biases.
    """
    from onnx import helper, numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer}
    scales = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "DequantizeLinear"}
    products = []
    for node in list(graph.node):
        if node.op_type not in _WEIGHTED or len(node.input) < 3:
            continue
        x, weight, bias = (scales.get(name, "") for name in node.input[:3])
        if not all(name in constants for name in (x, weight, bias)):
            continue
        factors = [numpy_helper.to_array(constants[name]) for name in (x, weight)]
        known = numpy_helper.to_array(constants[bias])
        product = factors[0] * factors[1]
        made = helper.make_node("Mul", [x, weight], [bias])
        if (
            product.shape == known.shape
            and product.tobytes() == known.tobytes()
            and made.ByteSize() < constants[bias].ByteSize()
        ):
            graph.initializer.remove(constants.pop(bias))
            products.append(made)
    nodes = [*products, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def shorten(graph: Any) -> None:
    """Give every value but inputs and outputs a short name: in a sparse file the quantiser's take more than weights."""
    names: dict[str, str] = {"": ""} | {one.name: one.name for one in (*graph.input, *graph.output)}

    def short(name: str) -> str:
        if name not in names:
            names[name] = _word(len(names))
        return names[name]

    for node in graph.node:
        node.name = ""
        for place, value in enumerate(node.input):
            node.input[place] = short(value)
        for place, value in enumerate(node.output):
            node.output[place] = short(value)
    for tensor in graph.initializer:
        tensor.name = short(tensor.name)
    del graph.value_info[:]


def _word(number: int) -> str:
    """Letters for a number, and a mark that no input or output ends with."""
    word = ""
    while True:
        number, letter = divmod(number, len(_LETTERS))
        word += _LETTERS[letter]
        if not number:
            return word + "_"
