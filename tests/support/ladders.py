"""Ladders without a training: rounds of a small network, nested or each with values of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_classprune.pruning.masks import Masks
from lightning_classprune.tickets.ladder import Ladder

DENSITIES = (1.0, 0.5, 0.1)
RECALLS = (0.9, 0.8, 0.7)


def network(seed: int = 99) -> nn.Sequential:
    """In training mode."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(40, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 2))


def rounds(nested: bool, densities: Sequence[float] = DENSITIES) -> list[tuple[dict[str, Tensor], Masks]]:
    """State and masks of each round; nested: one set of weights under nested masks, else each with its own."""
    order = torch.rand(20, 40, generator=torch.Generator().manual_seed(1))
    made = []
    for number, density in enumerate(densities):
        net = network(0 if nested else number)
        with torch.no_grad():
            net[1].running_mean += number  # measured anew for each
        masks = {"0.weight": order < density, "3.weight": torch.ones(2, 20, dtype=torch.bool)}
        state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        state["0.weight"].masked_fill_(~masks["0.weight"], 0)
        made.append((state, masks))
    return made


def card(number: int, recall: float, **more: Any) -> dict[str, Any]:
    """What a run writes of a round, as far as a ladder reads it."""
    row = {
        "round": number,
        "sparsity": 0.5,
        "verdict": "accepted",
        "classes": {"crack": {"recall": recall, "fn": 1, "support": 10}},
    }
    return {"class_names": ["good", "crack"], "verdict": row, "ledger": [row] * (number + 1), **more}


def written(
    folder: Path, nested: bool = True, recalls: Sequence[float] = RECALLS, **more: Any
) -> list[tuple[dict[str, Tensor], Masks]]:
    """Write a ladder of three rounds to a folder; what it holds."""
    made = rounds(nested)
    for number, (state, masks) in enumerate(made):
        told = card(number, recalls[number], **more)
        Ladder(folder).add(told["verdict"], state, masks, told)
    return made
