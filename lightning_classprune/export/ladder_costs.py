"""Ladder costs: what a forward costs with each ticket of a ladder, by count and on this machine."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils.flop_counter import FlopCounterMode

from lightning_classprune.export.latency import interleaved
from lightning_classprune.pruning.slicing import Example, moved, run, tensors
from lightning_classprune.tickets.joint import JointLadder
from lightning_classprune.tickets.switching import put_in

_TURNS = 9


def measure_ladder(ladder: JointLadder, model: nn.Module, example: Example) -> JointLadder:
    """Count multiplications and measure milliseconds for every ticket of a ladder; the model is not changed.

    Args:
        ladder: What `read_ladder` returned.
        model: Of the architecture of the tickets; a copy of it in eval mode, on its device, is measured.
        example: Input for one forward. Milliseconds are for all of it, on one thread of the CPU, the shortest of
            turns in which the tickets alternate; multiplications are for one of its samples.

    Returns:
        The same ladder, whose members know both. PyTorch multiplies by zeros as by other numbers, so tickets of one
        architecture take alike unless the model computes with their zeros in another way.

    Raises:
        ValueError: The model is another, or its forward fails on the example.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    twin, example = copy.deepcopy(model).eval(), moved(example, device)
    layers = {m: n for n, m in twin.named_modules() if isinstance(m, nn.Linear | _ConvNd)}
    times = [float("inf")] * len(ladder.members)
    counts = []

    def forward() -> None:
        run(twin, example)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    clock = time.thread_time if device.type == "cpu" else time.perf_counter
    with torch.no_grad(), _one_thread():
        try:
            dense, places = _dense(twin, list(layers), example)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise ValueError(f"the forward fails on the example: {type(error).__name__}: {error}") from error
        for turn in range(_TURNS):
            for number in range(len(ladder.members)):
                put_in(ladder, number, twin)
                took = interleaved({"forward": forward}, rounds=3, clock=clock)["forward"]
                times[number] = min(times[number], took)
                if turn == 0:
                    zeros = sum(int((m.weight == 0).sum()) * places[m] for m in layers)
                    counts.append(round(dense - zeros))
    members = [
        dataclasses.replace(member, multiplications=count, ms=took)
        for member, count, took in zip(ladder.members, counts, times, strict=True)
    ]
    return dataclasses.replace(ladder, members=tuple(members))


def _dense(
    model: nn.Module, layers: list[nn.Module], example: Example
) -> tuple[float, dict[nn.Module, float]]:
    """Multiplications for one sample if no weight were zero, and at how many places each weight of a layer is used."""
    places = dict.fromkeys(layers, 0.0)

    def note(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(layer, nn.Linear):
            places[layer] += output.numel() / layer.out_features
        elif layer.transposed:  # each weight is used once for every place of the input
            places[layer] += inputs[0].numel() / layer.in_channels
        else:
            places[layer] += output.numel() / layer.out_channels

    hooks = [layer.register_forward_hook(note) for layer in layers]
    with FlopCounterMode(display=False) as counter:
        output = run(model, example)
    for hook in hooks:
        hook.remove()
    samples = len(tensors(output)[0])
    return counter.get_total_flops() / 2 / samples, {layer: n / samples for layer, n in places.items()}


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
