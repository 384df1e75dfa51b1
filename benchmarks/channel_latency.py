"""How much faster a network is without half, and without three quarters, of its channels: ResNet-18 at 224, one thread.

    python benchmarks/channel_latency.py

Random weights under magnitude channel masks (only the shapes count here), made compact, run by ONNX Runtime in turns.
Writes benchmarks/results/channel_latency.md.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torchvision.models import resnet18

from lightning_classprune import compact, export_onnx
from lightning_classprune.export.latency import interleaved
from lightning_classprune.export.onnx_session import OnnxFile
from lightning_classprune.pruning.channel_units import ChannelUnits
from lightning_classprune.pruning.channels import find_channels
from lightning_classprune.pruning.masks import full_masks

RESULT = Path(__file__).parent / "results" / "channel_latency.md"
SHARES = (0.5, 0.25)
BATCHES = {1: 25, 32: 5}  # size: turns


def network() -> nn.Module:
    torch.manual_seed(0)
    model = resnet18(num_classes=2).eval()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):  # as drawn, they would make channels look alike
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.2)
            part.running_mean.normal_(std=0.2)
            part.running_var.uniform_(0.5, 1.5)
    return model


def main() -> None:
    torch.set_num_threads(1)
    model, example = network(), torch.randn(2, 3, 224, 224)
    parameters, groups = dict(model.named_parameters()), find_channels(model, example).groups
    nets, differences = {"dense": model}, {}
    for scope in ("layer", "global"):
        units = ChannelUnits(groups, parameters, scope)
        for share in SHARES:
            pruned = units.total - round(units.total * share)
            masks = units.shrink(full_masks(units.parameters), lambda n: parameters[n].detach().abs(), pruned)
            found = compact(model, example, masks)
            name = f"{share:.0%} kept, scope {scope}"
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
            {n: partial(run, batch) for n, run in sessions.items()}, rounds=turns, seconds=90
        )
    lines = [
        "# Latency without channels",
        "",
        "`python benchmarks/channel_latency.py`: ResNet-18 at 224, ONNX Runtime, one thread, medians of turns.",
        "",
        "| network | parameters | largest relative difference | batch 1 ms | faster | batch 32 ms | faster |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, net in nets.items():
        count = sum(p.numel() for p in net.parameters())
        cells = [f"{times[s][name]:.1f} | {times[s]['dense'] / times[s][name]:.1f}x" for s in BATCHES]
        lines.append(f"| {name} | {count:,} | {differences.get(name, 0.0):.1e} | {' | '.join(cells)} |")
    RESULT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
