"""Ticket files: one network, its masks and what is known of it, in a safetensors file without pickle.

The file holds the blobs of `packing` and `card` (JSON, packed by zlib) as byte tensors. Its metadata are `format`,
`version`, `sha256` of the decoded network and `card_sha256`. Two files of the same network have the same `sha256`,
whatever made their bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from lightning_classprune.files import replacing
from lightning_classprune.pruning.masks import Masks
from lightning_classprune.tickets.packing import Blobs, pack_network, unpack_network

FORMAT = "classprune-ticket"
VERSION = "1"


@dataclass(frozen=True)
class TicketFile:
    """What a ticket file holds.

    Attributes:
        path: The file.
        state: Parameters and buffers by name, dense, on the CPU.
        masks: True = kept, for the pruned ones.
        card: What the writer knew of the network: class names, threshold, verdict, ledger.
        sha256: Over names, dtypes, shapes, masks and values, in hexadecimal.
    """

    path: Path
    state: dict[str, Tensor]
    masks: Masks
    card: dict[str, Any]
    sha256: str


def save_ticket(
    path: str | os.PathLike[str],
    state: Mapping[str, Tensor],
    masks: Masks,
    *,
    card: Mapping[str, Any] | None = None,
    values: str = "fp32",
) -> int:
    """Write a network to a ticket file and return its size in bytes; what stood there stays if that fails.

    Args:
        path: The file to write, by custom `*.safetensors`; its folder is made.
        state: `module.state_dict()` of the pruned network, with its pruned weights at zero.
        masks: Parameter name -> bool tensor, True = kept, such as the callback's `masks`.
        card: What is to be known of the network; anything that JSON can hold.
        values: `"fp32"` keeps every value as it is, of whatever dtype; `"fp16"` and `"bf16"` round weights of two and
            more dimensions, which can change decisions: judge the network that `read_ticket` returns.

    Raises:
        ValueError: `state`, `masks` or `values` do not go together (see `pack_network`), or `card` is not JSON.
    """
    try:
        text = json.dumps({} if card is None else dict(card), allow_nan=False, sort_keys=True).encode()
    except (TypeError, ValueError) as error:
        raise ValueError(f"card must be JSON (strings, finite numbers, lists, dicts): {error}") from error
    blobs = pack_network(state, masks, values)
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "sha256": digest(*(unpack_network(blobs) if values != "fp32" else (state, masks))),
        "card_sha256": hashlib.sha256(text).hexdigest(),
    }
    # Packed as well: beside a small network the rows of a ledger would be most of the file.
    contents = blobs | {"card": zlib.compress(text, 9)}
    arrays = {name: np.frombuffer(blob, dtype=np.uint8) for name, blob in contents.items()}
    with replacing(path) as part:
        save_file(arrays, part, metadata)
    return Path(path).stat().st_size


def read_ticket(path: str | os.PathLike[str]) -> TicketFile:
    """Read a ticket file and verify its hashes.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no ticket file, or of another version, cut short, damaged or changed.
    """
    path = Path(path)
    blobs, metadata = _open(path)
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path} is not a ticket file: save_ticket did not write it")
    if metadata.get("version") != VERSION:
        raise ValueError(
            f"{path} is a ticket file of version {metadata.get('version')}; this package reads {VERSION}"
        )
    try:
        text = zlib.decompress(blobs.pop("card"))
        card, card_sha256 = json.loads(text), hashlib.sha256(text).hexdigest()
        state, masks = unpack_network(blobs)
        sha256 = digest(state, masks)
    except (ValueError, KeyError, TypeError, IndexError, OverflowError, RuntimeError, zlib.error) as error:
        raise ValueError(f"{path} is damaged: {error}; copy or export it again") from error
    except MemoryError as error:
        raise ValueError(f"{path} is damaged: it claims shapes that do not fit into memory") from error
    if sha256 != metadata.get("sha256") or card_sha256 != metadata.get("card_sha256"):
        what = "card" if sha256 == metadata.get("sha256") else "network"
        raise ValueError(
            f"{path} was changed or damaged: the SHA-256 of its {what} is not the one that it names; copy or export it "
            "again"
        )
    return TicketFile(path, state, masks, card, sha256)


def digest(state: Mapping[str, Tensor], masks: Masks) -> str:
    """SHA-256 over names, dtypes, shapes, masks and values, in the order of the names; pruned weights are not read."""
    sha = hashlib.sha256()
    for name in sorted(state):
        tensor, mask = state[name], masks.get(name)
        sha.update(json.dumps([name, str(tensor.dtype), list(tensor.shape), mask is not None]).encode())
        values = tensor.detach().cpu().contiguous().reshape(-1)
        if mask is not None:
            flat = mask.cpu().contiguous().reshape(-1)
            sha.update(np.packbits(flat.numpy()).data)
            values = values[flat]
        if len(values):
            sha.update(values.view(torch.uint8).numpy().data)
    return sha.hexdigest()


def _open(path: Path) -> tuple[Blobs, dict[str, str]]:
    try:
        with safe_open(path, framework="np") as file:
            metadata: dict[str, str] = file.metadata() or {}
            return {name: file.get_tensor(name).tobytes() for name in file.keys()}, metadata  # noqa: SIM118
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path} is not a whole safetensors file: {error}; copy or export it again"
        ) from error
