"""Comparisons bit for bit, of weights, training states and ledgers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from lightning_classprune.trainer.snapshots import copy_state


def weights(module: nn.Module) -> dict[str, Tensor]:
    """A copy of all parameters and buffers."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def optimizer_states(made: pl.Trainer) -> list[Any]:
    return [copy_state(o.state_dict()) for o in made.optimizers]


def scheduler_states(made: pl.Trainer) -> list[Any]:
    return [copy_state(c.scheduler.state_dict()) for c in made.lr_scheduler_configs]


def without_seconds(ledger: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in ledger]


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equal in dtype, shape and every bit, the sign of a zero included."""
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(_bits(a), _bits(b))


def differences(a: Any, b: Any, path: str = "") -> list[str]:
    """Where two nested structures of tensors and primitives differ; tensors must be equal bit for bit."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return [] if same_bits(a, b) else [f"{path}: {a} != {b}"]
    if isinstance(a, dict) and isinstance(b, dict):
        if a.keys() != b.keys():
            return [f"{path}: keys {sorted(map(str, a))} != {sorted(map(str, b))}"]
        return [d for key in a for d in differences(a[key], b[key], f"{path}/{key}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        if len(a) != len(b):
            return [f"{path}: {len(a)} items != {len(b)}"]
        return [
            d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in differences(x, y, f"{path}/{i}")
        ]
    return [] if a == b or (a != a and b != b) else [f"{path}: {a!r} != {b!r}"]


def assert_same(a: Any, b: Any) -> None:
    found = differences(a, b)
    assert not found, "\n".join(found[:10])


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)


def checkpoints(folder: Path) -> list[str]:
    """Names of the checkpoints in a folder, each of which has its hash beside it, and nothing else is there."""
    names = sorted(path.name for path in folder.glob("*.ckpt"))
    assert {path.name for path in folder.iterdir()} == {*names, *(f"{name}.sha256" for name in names)}
    return names
