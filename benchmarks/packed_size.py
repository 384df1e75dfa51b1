"""Packed tickets: bytes beside the information-theoretic limit, and the time to load one.

    python -m benchmarks.packed_size

Untrained networks under global magnitude masks, with random BatchNorm statistics, as constant ones would pack to
nothing. `measure` takes any ticket: trained ones are in the benchmark of what is deployed.
"""

from __future__ import annotations

import copy
import math
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import resnet18, resnet50

from benchmarks.support import command_line, draw_statistics, markdown, one_thread
from lightning_classprune import load_ticket, save_ticket
from lightning_classprune.export.latency import interleaved
from lightning_classprune.job.models import paper_alexnet
from lightning_classprune.pruning.criteria import magnitude
from lightning_classprune.pruning.masks import Masks, apply_masks, count_kept, count_weights, full_masks
from lightning_classprune.pruning.parameters import select_parameters
from lightning_classprune.pruning.selection import shrink_masks


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
    """Bytes of the dense, the packed and the packed fp16 file, and CPU seconds to save and to load."""
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    target = copy.deepcopy(model)
    with tempfile.TemporaryDirectory() as folder:
        dense, packed = Path(folder, "dense.safetensors"), Path(folder, "packed.safetensors")
        save_file(state, dense)
        half = save_ticket(packed, state, masks, values="fp16")
        turns = {
            "save": partial(save_ticket, packed, state, masks),
            "load": partial(load_ticket, packed, target),
        }
        times = interleaved(turns, rounds=repeats, seconds=math.inf)
        dense_size, size = dense.stat().st_size, packed.stat().st_size
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
        "save s": times["save"] / 1000,
        "load s": times["load"] / 1000,
    }


def untrained(name: str) -> nn.Module:
    torch.manual_seed(0)
    makers: dict[str, Any] = {"paper's AlexNet": paper_alexnet, "ResNet-18": resnet18, "ResNet-50": resnet50}
    model: nn.Module = makers[name]()
    draw_statistics(model)
    return model


def main() -> None:
    command_line(__doc__, None).parse_args()
    one_thread()
    rows = []
    for name in ("paper's AlexNet", "ResNet-18", "ResNet-50"):
        for sparsity in (0.9, 0.95, 0.99):
            model = untrained(name)
            found = measure(model, magnitude_masks(model, sparsity))
            rows.append({"network": name, "sparsity": f"{sparsity:.0%}"} | found)
    print(markdown(rows))


if __name__ == "__main__":
    main()
