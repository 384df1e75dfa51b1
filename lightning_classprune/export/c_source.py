"""Steps of a network as freestanding C99: weights as constants, static buffers, no library, no malloc.

A weight is stored dense, or as the gaps between its values in one byte each with a count a row, whichever takes fewer
bytes. Both are walked value by value: one is multiplied with all the places that it meets before the next is read, so
that a sparse layer costs as many multiplications as it has values times places.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_classprune.export.c_network import Layer, Step
from lightning_classprune.export.onnx_packing import encode_gaps

_U8 = np.dtype(np.uint8)
_TYPES = {
    "int8": "int8_t",
    "uint8": "uint8_t",
    "uint16": "uint16_t",
    "int32": "int32_t",
    "float32": "float",
}
_A_LINE = 12


@dataclass(frozen=True)
class Decision:
    """What stands before and behind the steps.

    Attributes:
        pixels: Whether the input is uint8, which is divided by 255 first; else it is float.
        mean, std: One number a value of the input, or one a channel; None without normalisation.
        offset: Added to the scores, one each.
        threshold: (class, margin) of the protected class, or of class 1 where there is one score; None for the
            largest score.
    """

    pixels: bool
    mean: NDArray[np.float32] | None
    std: NDArray[np.float32] | None
    offset: NDArray[np.float32]
    threshold: tuple[int, float] | None


@dataclass(frozen=True)
class Source:
    """A network in C.

    Attributes:
        code: Of the C file.
        header: Of the header that it includes.
        flash: Bytes of all constants; the code comes on top.
        ram: Bytes of static buffers; scores and input are the caller's.
        multiplications: By weights, for one sample.
    """

    code: str
    header: str
    flash: int
    ram: int
    multiplications: int


def write_source(steps: Sequence[Step], decision: Decision, about: Sequence[str]) -> Source:
    """Return a network as C.

    Args:
        steps: Of the network, one after the other.
        decision: What stands around them.
        about: Lines for the head of both files; whatever could end a comment is left out.
    """
    constants: list[str] = []
    flash = 0

    def constant(name: str, values: NDArray[Any]) -> str:
        nonlocal flash
        flash += values.nbytes
        constants.append(array(name, values))
        return name

    calls, kernels = [], set()
    for number, step in enumerate(steps):
        if isinstance(step, Layer):
            forms = stored(step.weight)
            arrays = [constant(f"{kind}_{number}", values) for kind, values in forms.items()]
            bias = constant(f"bias_{number}", step.bias)
            kernel = ("linear" if step.weight.shape[2:] == step.reads[1:] == (1, 1) else "conv") + (
                "_sparse" if "gaps" in forms else "_dense"
            )
            kernels |= {kernel, *(["spread"] if kernel.startswith("conv") else [])}
            arguments = [*arrays, bias, *_numbers(step, kernel)]
        else:
            kernel = f"{step.kind}_pool"
            kernels.add(kernel)
            padding = step.padding if step.kind == "max" else ()
            numbers = (*step.reads, *step.writes[1:], *step.kernel, *step.stride, *padding)
            arguments = [str(n) for n in numbers]
        calls.append((comment(step.name), kernel, arguments, step))
    for name, values in (("mean", decision.mean), ("std", decision.std)):
        if values is not None:
            constant(name, values)
    scores = int(np.prod(steps[-1].writes))
    if decision.offset.any():
        constant("offset", decision.offset)
    arena = arena_of(steps)
    inputs = int(np.prod(steps[0].reads))
    facts = [
        *map(comment, about),
        f"Constants: {flash} bytes; the code comes on top. Static buffers: {4 * arena} bytes.",
        f"Multiplications by weights, one sample: {sum(map(multiplications, steps))}.",
    ]
    head = "".join(f" * {line}\n" for line in facts)
    kind = "uint8_t" if decision.pixels else "float"
    names = {"head": head, "kind": kind, "inputs": inputs, "scores": scores}
    body = _body(calls, decision, arena, inputs, scores)
    kernel_code = kernels_of(kernels)
    code = template(
        "model.c", names | {"constants": "\n".join(constants), "kernels": kernel_code, "body": body}
    )
    return Source(
        code, template("model.h", names), flash, 4 * arena, sum(multiplications(step) for step in steps)
    )


def arena_of(steps: Sequence[Step]) -> int:
    """Return how many numbers the buffer holds: of each step what it reads and what it writes."""
    return max(int(np.prod(step.reads)) + int(np.prod(step.writes)) for step in steps)


def multiplications(step: Step) -> int:
    """Return how many products with a weight that is not zero a step computes for one sample."""
    if not isinstance(step, Layer):
        return 0
    rows, columns = (
        [
            sum(
                0 <= place * step.stride[d] + k * step.dilation[d] - step.padding[d] < step.reads[1 + d]
                for place in range(step.writes[1 + d])
            )
            for k in range(step.weight.shape[2 + d])
        ]
        for d in (0, 1)
    )
    return int(((step.weight != 0).sum((0, 1)) * np.outer(rows, columns)).sum())


def stored(weight: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Return the arrays of a weight, in the form of fewer bytes."""
    dense = {"weights": weight.reshape(-1)}
    packed = [encode_gaps(row, _U8) for row in weight.reshape(len(weight), -1)]
    counts = [len(gaps) for gaps, _ in packed]
    if max(counts) > np.iinfo(np.uint16).max:
        return dense
    sparse = {
        "counts": np.array(counts, np.uint16),
        "gaps": np.concatenate([gaps for gaps, _ in packed]),
        "values": np.concatenate([values for _, values in packed]),
    }
    if not len(sparse["gaps"]):  # C has no empty arrays
        sparse |= {"gaps": np.zeros(1, np.uint8), "values": np.zeros(1, weight.dtype)}
    return min((dense, sparse), key=lambda form: sum(values.nbytes for values in form.values()))


def _numbers(step: Layer, kernel: str) -> list[str]:
    outputs, inputs = step.weight.shape[:2]
    if kernel.startswith("linear"):
        read = [inputs] if kernel.endswith("dense") else []
        return [str(n) for n in (*read, outputs, int(step.relu))]
    return sizes(step)


def sizes(step: Layer) -> list[str]:
    """Return what a convolution's kernel is told of it."""
    outputs, inputs, height, width = step.weight.shape
    numbers = (*step.reads[1:], *step.writes, inputs, outputs // step.groups, height, width)
    return [str(n) for n in (*numbers, *step.stride, *step.padding, *step.dilation, int(step.relu))]


def _body(
    calls: Sequence[tuple[str, str, list[str], Step]],
    decision: Decision,
    arena: int,
    inputs: int,
    scores: int,
) -> str:
    """What the function does, with the static buffer: layers write to its two ends in turns."""
    lines = [
        f"static float arena[{arena}];",
        "int32_t i;",
        "int decided = 0;",
        f"for (i = 0; i < {inputs}; ++i) {{",
        f"    arena[i] = {number_in(decision, inputs)};",
        "}",
    ]
    at = 0
    for name, kernel, arguments, step in calls:
        size = int(np.prod(step.writes))
        to = arena - size if at == 0 else 0
        lines += [f"/* {name} */", f"{kernel}(arena + {at}, arena + {to}, {', '.join(arguments)});"]
        if step.relu and not isinstance(step, Layer):
            lines += [
                f"for (i = {to}; i < {to + size}; ++i) {{",
                "    arena[i] = arena[i] > 0.0f ? arena[i] : 0.0f;",
                "}",
            ]
        at = to
    added = " + offset[i]" if decision.offset.any() else ""
    lines += [f"for (i = 0; i < {scores}; ++i) {{", f"    scores[i] = arena[{at} + i]{added};", "}"]
    lines += rule(decision, scores)
    return "\n".join(f"    {line}" for line in lines)


def number_in(decision: Decision, inputs: int) -> str:
    """Return the expression of an input as the network takes it, at place `i`."""
    number = "(float)input[i] / 255.0f" if decision.pixels else "input[i]"
    if decision.mean is None:
        return number
    plane = inputs // len(decision.mean)
    place = "i" if plane == 1 else f"i / {plane}"
    return f"({number} - mean[{place}]) / std[{place}]"


def rule(decision: Decision, scores: int) -> list[str]:
    """Return what leads from scores to the decided class, as `Deployed.decide`: the first of equal scores wins."""
    if scores == 1:
        threshold = 0.0 if decision.threshold is None else decision.threshold[1]
        return [f"decided = scores[0] >= {number_of(threshold)};", "return decided;"]
    if decision.threshold is None:
        return [
            f"for (i = 1; i < {scores}; ++i) {{",
            "    decided = scores[i] > scores[decided] ? (int)i : decided;",
            "}",
            "return decided;",
        ]
    protected, threshold = decision.threshold
    first = 1 if protected == 0 else 0
    return [
        f"decided = {first};",
        f"for (i = {first + 1}; i < {scores}; ++i) {{",
        f"    decided = i != {protected} && scores[i] > scores[decided] ? (int)i : decided;",
        "}",
        f"return scores[{protected}] - scores[decided] >= {number_of(threshold)} ? {protected} : decided;",
    ]


def array(name: str, values: NDArray[Any]) -> str:
    """Return a constant."""
    kind = _TYPES[values.dtype.name]
    texts = [number_of(v) if kind == "float" else str(v) for v in values.tolist()]
    rows = [", ".join(texts[i : i + _A_LINE]) for i in range(0, len(texts), _A_LINE)]
    content = ",\n    ".join(rows)
    return f"static const {kind} {name}[{len(texts)}] = {{\n    {content}\n}};\n"


def number_of(value: float) -> str:
    """Return a float that C reads back to the last bit."""
    text = f"{np.float32(value):.9g}"
    return text + ("f" if "." in text or "e" in text else ".0f")


def kernels_of(used: set[str]) -> str:
    """Return the functions that are called: a compiler warns of others."""
    text = resources.files("lightning_classprune.export").joinpath("templates/kernels.c").read_text("utf-8")
    parts = dict(re.findall(r"/\* kernel: (\w+) \*/\n(.*?)(?=/\* kernel: |\Z)", text, re.DOTALL))
    return "".join(code for name, code in parts.items() if name in used).rstrip() + "\n"


def template(name: str, values: Mapping[str, Any]) -> str:
    """Return the text of one of the two files."""
    text = resources.files("lightning_classprune.export").joinpath(f"templates/{name}").read_text("utf-8")
    for key, value in values.items():
        text = text.replace(f"@{key}@", str(value))
    return text


def comment(text: str) -> str:
    """Return text that ends no comment, and starts no trigraph."""
    return re.sub(r"[^\x20-\x7e]|[*?\\@]", "_", text)
