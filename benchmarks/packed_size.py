"""Packed tickets: bytes beside the information-theoretic limit, and the time to load one.

    python benchmarks/packed_size.py

Untrained networks under global magnitude masks, with random BatchNorm statistics, as constant ones would pack to
nothing. `measure` takes any ticket: trained ones are in the benchmark of what is deployed.
"""

from __future__ import annotations

import copy
import math
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import resnet18, resnet50

from lightning_classprune import load_ticket, save_ticket
from lightning_classprune.job.models import paper_alexnet
from lightning_classprune.pruning.criteria import magnitude
from lightning_classprune.pruning.masks import Masks, apply_masks, count_kept, count_weights, full_masks
from lightning_classprune.pruning.parameters import select_parameters
from lightning_classprune.pruning.selection import shrink_masks

COLUMNS = (
    "kept",
    "dense MB",
    "limit MB",
    "packed MB",
    "of limit",
    "times smaller",
    "fp16 MB",
    "save s",
    "load s",
)


def limit_bytes(state: dict[str, Tensor], masks: Masks) -> float:
    """What masks of these densities, drawn at random in each layer, and values without any pattern need at least."""
    total = 0.0
    for name, tensor in state.items():
        n, k = tensor.numel(), tensor.numel()
        if name in masks:
            k = int(masks[name].sum())
            total += (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)) / math.log(2) / 8
        total += k * tensor.element_size()
    return total


def magnitude_masks(model: nn.Module, sparsity: float) -> Masks:
    """Global magnitude masks, which are applied."""
    parameters = select_parameters(model)
    masks = full_masks(parameters)
    pruned = math.ceil(sparsity * count_weights(masks))
    masks = shrink_masks(
        masks, lambda name: magnitude(parameters[name].detach(), parameters[name].detach()), pruned, "global"
    )
    apply_masks(masks, parameters)
    return masks


def measure(model: nn.Module, masks: Masks, repeats: int = 5) -> dict[str, Any]:
    """Bytes of the dense, the packed and the packed fp16 file, and seconds (median) to save and to load."""
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    target = copy.deepcopy(model)
    saving, loading = [], []
    with tempfile.TemporaryDirectory() as folder:
        dense, packed = Path(folder, "dense.safetensors"), Path(folder, "packed.safetensors")
        save_file(state, dense)
        half = save_ticket(packed, state, masks, values="fp16")
        for _ in range(repeats):
            start = time.perf_counter()
            size = save_ticket(packed, state, masks)
            saving.append(time.perf_counter() - start)
            start = time.perf_counter()
            load_ticket(packed, target)
            loading.append(time.perf_counter() - start)
        dense_size = dense.stat().st_size
    assert all(torch.equal(a, b) for a, b in zip(target.state_dict().values(), state.values(), strict=True))
    limit = limit_bytes(state, masks)
    return {
        "kept": count_kept(masks),
        "dense MB": dense_size / 1e6,
        "limit MB": limit / 1e6,
        "packed MB": size / 1e6,
        "of limit": size / limit,
        "times smaller": dense_size / size,
        "fp16 MB": half / 1e6,
        "save s": sorted(saving)[repeats // 2],
        "load s": sorted(loading)[repeats // 2],
    }


def untrained(name: str) -> nn.Module:
    torch.manual_seed(0)
    makers: dict[str, Any] = {"paper's AlexNet": paper_alexnet, "ResNet-18": resnet18, "ResNet-50": resnet50}
    model: nn.Module = makers[name]()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.5, 1.5)
            for tensor in (module.bias.data, module.running_mean):
                tensor.normal_()
    return model


def main() -> None:
    print(f"| network | sparsity | {' | '.join(COLUMNS)} |\n|---|---|{'---:|' * len(COLUMNS)}")
    for name in ("paper's AlexNet", "ResNet-18", "ResNet-50"):
        for sparsity in (0.9, 0.95, 0.99):
            model = untrained(name)
            found = measure(model, magnitude_masks(model, sparsity))
            cells = [f"{found['kept']}", *(f"{found[column]:.3f}" for column in COLUMNS[1:])]
            print(f"| {name} | {sparsity:.0%} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
