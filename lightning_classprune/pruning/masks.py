"""Masks: which weights are kept. Pure functions over `dict[parameter name, bool tensor]`, True = kept."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_classprune.trainer.sharding import local

Masks = dict[str, Tensor]


def full_masks(parameters: Mapping[str, Tensor]) -> Masks:
    """Masks that keep every weight, in the shape of each parameter and on its device; of a sharded one, on the CPU.

    Contiguous even where the weight is channels_last, so that flat indices mean the same place everywhere.
    """
    return {
        name: torch.ones(p.shape, dtype=torch.bool, device="cpu" if hasattr(p, "to_local") else p.device)
        for name, p in parameters.items()
    }


def count_kept(masks: Masks) -> int:
    """Number of kept weights."""
    return sum(int(m.count_nonzero()) for m in masks.values())


def count_weights(masks: Masks) -> int:
    """Number of prunable weights, kept or not."""
    return sum(m.numel() for m in masks.values())


def sparsity(masks: Masks) -> float:
    """Pruned share of the prunable weights, in [0, 1]; 0 for no masks."""
    total = count_weights(masks)
    return (total - count_kept(masks)) / total if total else 0.0


def layer_counts(masks: Masks) -> list[dict[str, Any]]:
    """Name, shape, kept and total weights of each parameter, in primitives."""
    return [
        {"name": name, "shape": list(m.shape), "kept": int(m.sum()), "total": m.numel()}
        for name, m in masks.items()
    ]


def at(tensor: Tensor, places: Tensor) -> Tensor:
    """Some elements of a tensor, by their flat indices."""
    return tensor.detach().reshape(-1).index_select(0, places.to(tensor.device))


def places_of(mask: Tensor) -> Tensor:
    """Flat indices of what a mask keeps, ascending."""
    return mask.reshape(-1).nonzero().view(-1)


@torch.no_grad()
def apply_masks(masks: Masks, parameters: Mapping[str, Tensor]) -> None:
    """Set the pruned weights to +0.0, in place; kept weights are not touched."""
    for name, mask in masks.items():
        weight = local(parameters[name])
        weight.masked_fill_(~mask.to(weight.device), 0)


def pack(mask: Tensor) -> dict[str, Any]:
    """A mask as bits, ready for `torch.save` and `weights_only=True`: eight weights a byte."""
    bits = np.packbits(mask.cpu().numpy().reshape(-1))
    return {"shape": list(mask.shape), "bits": torch.from_numpy(bits)}


def unpack(packed: Mapping[str, Any]) -> Tensor:
    """The mask that `pack` stored."""
    size = int(np.prod(packed["shape"], dtype=np.int64))
    bits = np.unpackbits(packed["bits"].numpy(), count=size)
    return torch.from_numpy(bits.astype(bool)).reshape(packed["shape"])


def pack_all(masks: Masks) -> dict[str, dict[str, Any]]:
    """All masks as bits on the CPU, which keep no memory of a device."""
    return {name: pack(mask) for name, mask in masks.items()}


def unpack_all(packed: Mapping[str, Mapping[str, Any]]) -> Masks:
    """The masks that `pack_all` stored, on the CPU."""
    return {name: unpack(mask) for name, mask in packed.items()}


class HeldMasks:
    """The masks of a run: as they are, or as bits where each process holds but a piece of the weights.

    Args:
        masks: The first ones.
        as_bits: An eighth of a byte a weight instead of one, for masks that are asked for a few times a round.
    """

    def __init__(self, masks: Masks, *, as_bits: bool) -> None:
        self._as_bits = as_bits
        self.put(masks)

    def put(self, masks: Masks) -> None:
        """Hold these from now on."""
        self._packed = pack_all(masks) if self._as_bits else {}
        self._masks = {} if self._as_bits else masks

    def get(self) -> Masks:
        """What is held; made of bits, on the CPU, each time."""
        return unpack_all(self._packed) if self._as_bits else self._masks


def digest(masks: Masks) -> str:
    """SHA-256 over names, shapes and bits: equal on two processes if and only if the masks are."""
    sha = hashlib.sha256()
    for name in sorted(masks):
        packed = pack(masks[name])
        sha.update(f"{name}{packed['shape']}".encode())
        sha.update(packed["bits"].numpy().tobytes())
    return sha.hexdigest()
