"""A sequential network as plain steps that C can compute: what is read from a module, and what is refused.

BatchNorm goes into the layer before it, ReLU becomes a mark of the step before it, and what changes nothing in eval
mode (Dropout, Identity, Flatten) goes. A linear layer is a convolution of one place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

Shape: TypeAlias = tuple[int, int, int]
Pair: TypeAlias = tuple[int, int]

#: What may be in a network, for messages.
ALLOWED = "Conv2d, Linear, BatchNorm, ReLU, max and average pooling, Flatten, Dropout and Identity, one after the other"


@dataclass(frozen=True)
class Layer:
    """A convolution, depthwise or not, or a linear layer.

    Attributes:
        name: In the module.
        weight: `(outputs, inputs of a group, height, width)`, float32, with BatchNorm in it.
        bias: `(outputs,)`, float32.
        stride, padding, dilation: Rows and columns; padding is what lies above and to the left.
        groups: Of channels.
        reads, writes: Shape `(channels, height, width)` of one sample.
        relu: Whether negative outputs become 0.
    """

    name: str
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int
    reads: Shape
    writes: Shape
    relu: bool = False


@dataclass(frozen=True)
class Pool:
    """Max or average pooling over windows that end at the border.

    Attributes:
        name: In the module.
        kind: What is taken of a window.
        kernel, stride, padding: Rows and columns.
        reads, writes: Shape `(channels, height, width)` of one sample.
        relu: Whether negative outputs become 0.
    """

    name: str
    kind: Literal["max", "average"]
    kernel: Pair
    stride: Pair
    padding: Pair
    reads: Shape
    writes: Shape
    relu: bool = False


Step: TypeAlias = Layer | Pool


def read_steps(network: nn.Module, example: Tensor) -> list[Step]:
    """Return the steps of a network in eval mode; it is not changed.

    Args:
        network: In float32 on the CPU.
        example: What it gets, `(n, ...)`, n >= 1.

    Raises:
        ValueError: It is not sequential, or has a layer that is not known; the message names it.
    """
    try:
        traced = fx.symbolic_trace(network)
    except Exception as error:  # whatever the forward does with a tracer
        raise ValueError(
            f"the network cannot be written as C: its forward cannot be followed ({_first_line(error)}); it may have "
            f"{ALLOWED}"
        ) from error
    shapes = _Shapes(traced)
    with torch.no_grad():
        shapes.run(example[:1])
    steps: list[Step] = []
    before: fx.Node | None = None
    for node in traced.graph.nodes:
        if node.op == "output":
            if node.args[0] is not before:
                raise _refusal("its output", "is not one tensor")
            break
        if node.op == "placeholder":
            if before is not None:
                raise _refusal(f"input {node.target!r}", "is a second input")
        else:
            _extend(steps, node, before, traced, shapes.found)
        before = node
    if not any(isinstance(step, Layer) for step in steps):
        raise _refusal("the network", "has no convolution and no linear layer")
    return steps


class _Shapes(fx.Interpreter):
    """The shape of one sample behind every node."""

    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__(traced)
        self.found: dict[fx.Node, Shape] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor) and 2 <= result.ndim <= 4:
            shape = [*result.shape[1:], 1, 1][:3]
            self.found[n] = (int(shape[0]), int(shape[1]), int(shape[2]))
        return result


def _extend(
    steps: list[Step],
    node: fx.Node,
    before: fx.Node | None,
    traced: fx.GraphModule,
    shapes: dict[fx.Node, Shape],
) -> None:
    """Add what a node does to the steps.

    Raises:
        ValueError: It does what C is not written for.
    """
    name = str(node.target)
    if node.all_input_nodes != [before] or node.args[:1] != (before,):
        raise _refusal(_called(node), "does not follow on what comes before it alone")
    if before not in shapes or node not in shapes:
        raise _refusal(_called(node), "does not make numbers of a sample")
    reads, writes = shapes[before], shapes[node]
    if node.op == "call_module":
        module = traced.get_submodule(name)
        read = next((read for kind, read in _MODULES.items() if isinstance(module, kind)), None)
        if read is None:
            raise _refusal(f"layer {name!r}", f"is a {type(module).__name__}")
        read(steps, name, module, reads, writes)
        return
    plain = name if node.op == "call_method" else getattr(node.target, "__name__", name)
    if node.op == "get_attr" or plain not in _FUNCTIONS:
        raise _refusal(_called(node), "is not known")
    _FUNCTIONS[plain](steps, node, reads, writes)


def _convolution(steps: list[Step], name: str, module: nn.Conv2d, reads: Shape, writes: Shape) -> None:
    if module.padding_mode != "zeros":
        raise _refusal(f"layer {name!r}", f"pads with padding_mode={module.padding_mode!r}")
    # Left, right, top, bottom, also for padding="same" and "valid".
    left, _, top, _ = module._reversed_padding_repeated_twice
    steps.append(
        Layer(
            name,
            _array(module.weight),
            _bias(module),
            _pair(module.stride),
            (int(top), int(left)),
            _pair(module.dilation),
            module.groups,
            reads,
            writes,
        )
    )


def _linear(steps: list[Step], name: str, module: nn.Linear, reads: Shape, writes: Shape) -> None:
    if reads[1:] != (1, 1) or reads[0] != module.in_features:
        raise _refusal(f"layer {name!r}", f"is a Linear on {reads}, which must be flattened first")
    weight = _array(module.weight)[:, :, None, None]
    steps.append(Layer(name, weight, _bias(module), (1, 1), (0, 0), (1, 1), 1, reads, writes))


def _norm(steps: list[Step], name: str, module: _BatchNorm, reads: Shape, writes: Shape) -> None:
    layer = steps[-1] if steps else None
    if not isinstance(layer, Layer) or layer.relu or module.running_mean is None:
        raise _refusal(
            f"layer {name!r}", "is a BatchNorm without its own statistics, or not right behind a layer"
        )
    assert module.running_var is not None
    scale = (module.running_var.double() + module.eps).rsqrt()
    if module.affine:
        scale = scale * module.weight.detach().double()
    shift = -module.running_mean.double() * scale
    if module.affine:
        shift = shift + module.bias.detach().double()
    scales = scale.numpy()
    steps[-1] = replace(
        layer,
        weight=(layer.weight * scales[:, None, None, None]).astype(np.float32),
        bias=(layer.bias * scales + shift.numpy()).astype(np.float32),
    )


def _relu(steps: list[Step], *_: Any) -> None:
    if not steps:
        raise _refusal("a ReLU", "is before the first layer")
    steps[-1] = replace(steps[-1], relu=True)


def _nothing(*_: Any) -> None:
    """What changes no number in eval mode."""


def _flatten(steps: list[Step], name: str, module: nn.Flatten, reads: Shape, writes: Shape) -> None:
    _check_flat(f"layer {name!r}", reads, writes)


def _pool(kind: Literal["max", "average"]) -> Callable[..., None]:
    def read(steps: list[Step], name: str, module: Any, reads: Shape, writes: Shape) -> None:
        kernel, stride, padding = (_pair(p) for p in (module.kernel_size, module.stride, module.padding))
        average = kind == "average"
        if _pair(getattr(module, "dilation", 1)) != (1, 1) or getattr(module, "divisor_override", None):
            raise _refusal(f"layer {name!r}", "is a pooling with dilation or a divisor of its own")
        if average and (padding != (0, 0) or module.ceil_mode):
            raise _refusal(f"layer {name!r}", "is an average over windows that reach beyond the border")
        steps.append(Pool(name, kind, kernel, stride, padding, reads, writes))

    return read


def _adaptive(kind: Literal["max", "average"]) -> Callable[..., None]:
    def read(steps: list[Step], name: str, module: Any, reads: Shape, writes: Shape) -> None:
        _windows(steps, f"layer {name!r}", name, kind, reads, writes)

    return read


def _windows(
    steps: list[Step],
    called: str,
    name: str,
    kind: Literal["max", "average"],
    reads: Shape,
    writes: Shape,
) -> None:
    if reads[1] % writes[1] or reads[2] % writes[2]:
        raise _refusal(called, f"pools {reads} to {writes}, in windows of several sizes")
    kernel = (reads[1] // writes[1], reads[2] // writes[2])
    steps.append(Pool(name, kind, kernel, kernel, (0, 0), reads, writes))


def _reduction(kind: Literal["max", "average"]) -> Callable[..., None]:
    def read(steps: list[Step], node: fx.Node, reads: Shape, writes: Shape) -> None:
        dims: Any = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
        if (
            not isinstance(dims, tuple | list)
            or sorted(d % 4 for d in dims) != [2, 3]
            or writes != (reads[0], 1, 1)
        ):
            raise _refusal(_called(node), "is over other dimensions than height and width")
        _windows(steps, _called(node), str(node.name), kind, reads, writes)

    return read


def _flatten_call(steps: list[Step], node: fx.Node, reads: Shape, writes: Shape) -> None:
    _check_flat(_called(node), reads, writes)


def _check_flat(called: str, reads: Shape, writes: Shape) -> None:
    if writes != (reads[0] * reads[1] * reads[2], 1, 1):
        raise _refusal(called, f"makes {writes} of {reads}; a sample must be flattened whole")


_MODULES: dict[type[nn.Module], Callable[..., None]] = {
    nn.Conv2d: _convolution,
    nn.Linear: _linear,
    _BatchNorm: _norm,
    nn.ReLU: _relu,
    nn.MaxPool2d: _pool("max"),
    nn.AvgPool2d: _pool("average"),
    nn.AdaptiveMaxPool2d: _adaptive("max"),
    nn.AdaptiveAvgPool2d: _adaptive("average"),
    nn.Flatten: _flatten,
    nn.Dropout: _nothing,
    nn.Dropout2d: _nothing,
    nn.Identity: _nothing,
}
_FUNCTIONS: dict[str, Callable[..., None]] = {
    "relu": _relu,
    "relu_": _relu,
    "flatten": _flatten_call,
    "dropout": _nothing,
    "amax": _reduction("max"),
    "mean": _reduction("average"),
}


def _refusal(called: str, why: str) -> ValueError:
    return ValueError(f"the network cannot be written as C: {called} {why}; it may have {ALLOWED}")


def _called(node: fx.Node) -> str:
    return f"layer {node.target!r}" if node.op == "call_module" else f"the operation {node.name!r}"


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(tensor.detach().numpy(), np.float32)


def _bias(module: nn.Conv2d | nn.Linear) -> NDArray[np.float32]:
    return np.zeros(len(module.weight), np.float32) if module.bias is None else _array(module.bias)


def _pair(value: Any) -> Pair:
    first, second = value if isinstance(value, tuple | list) else (value, value)
    return int(first), int(second)
