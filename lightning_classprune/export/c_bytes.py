"""Steps of a network in eight bits as freestanding C99: as `c_source`, with bytes between the layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_classprune.export.c_integers import Integers, Rounding
from lightning_classprune.export.c_network import Layer, Pool, Step
from lightning_classprune.export.c_source import (
    Decision,
    Source,
    arena_of,
    array,
    comment,
    kernels_of,
    multiplications,
    number_in,
    number_of,
    rule,
    sizes,
    stored,
    template,
)


def write_bytes(
    steps: Sequence[Step], integers: Sequence[Integers], decision: Decision, about: Sequence[str]
) -> Source:
    """Return a network as C that computes with bytes.

    Args:
        steps: Of the network, one after the other; the first and the last are layers.
        integers: Of its layers.
        decision: What stands around them.
        about: Lines for the head of both files; whatever could end a comment is left out.
    """
    text = _Text()
    arena, scores = arena_of(steps), int(np.prod(steps[-1].writes))
    plane = max(int(np.prod(step.writes[1:])) for step in steps if isinstance(step, Layer))
    inputs, first = int(np.prod(steps[0].reads)), integers[0].reads
    for name, values in (("mean", decision.mean), ("std", decision.std)):
        if values is not None:
            text.constant(name, values)
    if decision.offset.any():
        text.constant("offset", decision.offset)
    text.lines = [
        f"static uint8_t arena[{arena}];",
        f"static int32_t sums[{plane}];",
        "int32_t i;",
        "int decided = 0;",
        f"for (i = 0; i < {inputs}; ++i) {{",
        f"    arena[i] = as_byte(({number_in(decision, inputs)}) / {number_of(float(first.scale))}, {first.zero});",
        "}",
    ]
    text.kernels.add("as_byte")
    layers = iter(integers)
    present, following, at = first, next(layers), 0
    for number, step in enumerate(steps):
        size = int(np.prod(step.writes))
        to = arena - size if at == 0 else 0
        text.lines.append(f"/* {comment(step.name)} */")
        if isinstance(step, Layer):
            if present != following.reads:
                text.again(at, int(np.prod(step.reads)), present, following.reads)
            text.layer(number, step, following, at, to)
            present = following.writes or present
            following = next(layers, following)
        else:
            present = text.pool(step, present, following.reads, at, to)
        at = to
    if decision.offset.any():
        text.lines += [f"for (i = 0; i < {scores}; ++i) {{", "    scores[i] += offset[i];", "}"]
    text.lines += rule(decision, scores)
    ram, products = arena + 4 * plane, sum(map(multiplications, steps))
    facts = [
        *map(comment, about),
        "In eight bits, of which weights have seven; scores are floats.",
        f"Constants: {text.flash} bytes; the code comes on top. Static buffers: {ram} bytes.",
        f"Multiplications by weights, one sample: {products}.",
    ]
    kind = "uint8_t" if decision.pixels else "float"
    names = {
        "head": "".join(f" * {line}\n" for line in facts),
        "kind": kind,
        "inputs": inputs,
        "scores": scores,
    }
    parts = {
        "constants": "\n".join(text.constants),
        "kernels": kernels_of(text.kernels),
        "body": "\n".join(f"    {line}" for line in text.lines),
    }
    return Source(template("model.c", names | parts), template("model.h", names), text.flash, ram, products)


class _Text:
    """The parts of the file so far."""

    def __init__(self) -> None:
        self.flash = 0
        self.constants: list[str] = []
        self.kernels: set[str] = set()
        self.lines: list[str] = []

    def constant(self, name: str, values: NDArray[Any]) -> str:
        self.flash += values.nbytes
        self.constants.append(array(name, values))
        return name

    def again(self, at: int, count: int, now: Rounding, then: Rounding) -> None:
        self.kernels.add("again")
        ratio = number_of(float(now.scale / then.scale))
        self.lines.append(f"again(arena + {at}, {count}, {now.zero}, {ratio}, {then.zero});")

    def layer(self, number: int, step: Layer, own: Integers, at: int, to: int) -> None:
        forms = stored(own.weight)
        arrays = [self.constant(f"{kind}_{number}", values) for kind, values in forms.items()]
        arrays.append(self.constant(f"bias_{number}", own.bias))
        arrays.append(self.constant(f"multiplier_{number}", own.multiplier))
        kernel = "bytes_sparse" if "gaps" in forms else "bytes_dense"
        self.kernels |= {kernel, "spread_bytes", "give"}
        scores, zero = ("scores", 0) if own.writes is None else ("(float *)0", own.writes.zero)
        places = [f"arena + {at}", f"arena + {to}", scores, "sums", str(own.reads.zero), str(zero)]
        self.lines.append(f"{kernel}({', '.join([*places, *arrays, *sizes(step)])});")

    def pool(self, step: Pool, now: Rounding, then: Rounding, at: int, to: int) -> Rounding:
        """Return how what comes out is rounded."""
        kernel = f"{step.kind}_pool_bytes"
        self.kernels.add(kernel)
        numbers = [*step.reads, *step.writes[1:], *step.kernel, *step.stride]
        if step.kind == "max":
            first, numbers, left = [str(now.zero if step.relu else 0)], [*numbers, *step.padding], now
        else:
            ratio = number_of(float(now.scale / then.scale))
            first, left = [str(now.zero), ratio, str(then.zero), str(int(step.relu))], then
        told = ", ".join([*first, *map(str, numbers)])
        self.lines.append(f"{kernel}(arena + {at}, arena + {to}, {told});")
        return left
