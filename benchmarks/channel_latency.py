"""How much faster a network is without half, and without three quarters, of its channels: ResNet-18 at 224, one thread.

    python -m benchmarks.channel_latency [--out benchmarks/results]

Random weights under magnitude channel masks (only the shapes count here), made compact, run by ONNX Runtime: CPU time,
the shortest of turns. *rounded to* is the multiple that widths are rounded up to with idle channels, which changes no
output; `classprune-export --for latency` chooses it by such a measurement. Writes channel_latency.md.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torchvision.models import resnet18

from benchmarks.support import command_line, draw_statistics, markdown, one_thread, write
from lightning_classprune import compact, export_onnx
from lightning_classprune.export.latency import interleaved
from lightning_classprune.export.onnx_session import OnnxFile
from lightning_classprune.pruning.channel_units import ChannelUnits
from lightning_classprune.pruning.channels import find_channels
from lightning_classprune.pruning.masks import full_masks

SHARES = (0.5, 0.25)
MULTIPLES = (1, 4, 8, 16)
BATCHES = {1: 25, 32: 5}  # size: turns


def network() -> nn.Module:
    torch.manual_seed(0)
    model = resnet18(num_classes=2).eval()
    draw_statistics(model)
    return model


def main() -> None:
    out = command_line(__doc__).parse_args().out
    one_thread()
    model, example = network(), torch.randn(2, 3, 224, 224)
    parameters, groups = dict(model.named_parameters()), find_channels(model, example).groups
    nets, differences = {"dense": model}, {}
    for scope in ("layer", "global"):
        units = ChannelUnits(groups, parameters, scope)
        for share in SHARES:
            pruned = units.total - round(units.total * share)
            masks = units.shrink(full_masks(units.parameters), lambda n: parameters[n].detach().abs(), pruned)
            for multiple in MULTIPLES:
                found = compact(model, example, masks, multiple=multiple)
                name = f"{share:.0%} kept, scope {scope}, rounded to {multiple}"
                nets[name], differences[name] = found.model, found.report["difference"]
    with tempfile.TemporaryDirectory() as folder:
        sessions = {}
        for number, (name, net) in enumerate(nets.items()):
            path = Path(folder) / f"{number}.onnx"
            export_onnx(net, path, example, thresholds={}, packed=False)
            sessions[name] = OnnxFile(path)
    times = {}
    for size, turns in BATCHES.items():
        batch = torch.randn(size, 3, 224, 224)
        times[size] = interleaved(
            {n: partial(run, batch) for n, run in sessions.items()}, rounds=turns, seconds=240
        )
    lines = [
        "# Latency without channels",
        "",
        "`python -m benchmarks.channel_latency`: ResNet-18 at 224, ONNX Runtime, CPU time of one thread, the shortest",
        "of turns. Rounding up keeps idle channels and changes no output.",
        "",
    ]
    rows = []
    for name, net in nets.items():
        row = {"network": name, "parameters": f"{sum(p.numel() for p in net.parameters()):,}"}
        row |= {"largest relative difference": f"{differences.get(name, 0.0):.1e}"}
        for size, taken in times.items():
            row |= {f"batch {size} ms": f"{taken[name]:.1f}"}
            row |= {f"batch {size} faster": f"{taken['dense'] / taken[name]:.1f}x"}
        rows.append(row)
    write(out / "channel_latency.md", [*lines, markdown(rows)])


if __name__ == "__main__":
    main()
