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
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lightning_classprune import files
from lightning_classprune.pruning.masks import Masks
from lightning_classprune.tickets.packing import (
    Blobs,
    TensorInfo,
    inflate,
    pack_network,
    read_table,
    unpack_network,
)
from lightning_classprune.trainer.names import canonical

T = TypeVar("T")

FORMAT = "classprune-ticket"
VERSION = "1"
#: Bytes that a network may have of which nothing is known but its file, and how often those of its file beyond.
LARGEST_UNKNOWN, MOST_EXPANDED = 64 * 2**20, 1000
_NAMED = 5
#: Before the names of tensors that are not the network's, but were fitted to it.
BESIDE = "classprune_probe."


@dataclass(frozen=True)
class TicketFile:
    """What a ticket file holds.

    Attributes:
        path: The file.
        state: Parameters and buffers by name, dense, on the CPU, and after `BESIDE` what was fitted to them.
        masks: True = kept, for the pruned ones.
        card: What the writer knew of the network: class names, threshold, verdict, ledger.
        sha256: Over names, dtypes, shapes, masks and values, in hexadecimal.
    """

    path: Path
    state: dict[str, Tensor]
    masks: Masks
    card: dict[str, Any]
    sha256: str

    @property
    def beside(self) -> dict[str, Tensor]:
        """What a probe was fitted to the network, for its `head`; empty without one."""
        return {name.removeprefix(BESIDE): one for name, one in self.state.items() if name.startswith(BESIDE)}


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
        ValueError: `state`, `masks` or `values` do not go together (see `pack_network`), or `card` is not JSON, or far
            more of it than a run has to say.
    """
    try:
        text = json.dumps({} if card is None else dict(card), allow_nan=False, sort_keys=True).encode()
        files.parse_json(text)
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
    with files.replacing(path) as part:
        write_blobs(part, contents, metadata)
    return Path(path).stat().st_size


def read_ticket(path: str | os.PathLike[str], like: Mapping[str, Tensor] | None = None) -> TicketFile:
    """Read a ticket file and verify its hashes.

    Nothing is expanded or allocated before the file's own table was looked at: a small file may claim a huge network.

    Args:
        path: The file.
        like: Names, dtypes and shapes that the network must have, such as a model's `state_dict()`. Without it a
            network is refused that is more than a thousand times as large as its file, and more than 64 MiB.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no ticket file, or of another version, cut short, damaged or changed, or not like `like`.
    """
    path = Path(path)
    blobs, metadata = open_blobs(path)
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path} is not a ticket file: save_ticket did not write it")
    if metadata.get("version") != VERSION:
        raise ValueError(
            f"{path} is a ticket file of version {metadata.get('version')}; this package reads {VERSION}"
        )
    with damaged(path):
        table = read_table(blobs)
    known: Mapping[str, TensorInfo] = {}
    if like is not None:
        named = {canonical(one.name): one for one in table if not one.name.startswith(BESIDE)}
        known = inside(named, {canonical(name) for name in like})
        check_fit(path, {name: (one.dtype, one.shape) for name, one in known.items()}, like)
    with damaged(path):
        fitting = {id(one) for one in known.values()}
        check_size([one for one in table if id(one) not in fitting], path.stat().st_size)
        text = inflate(blobs.pop("card"), files.LARGEST_JSON)
        card, card_sha256 = files.parse_json(text), hashlib.sha256(text).hexdigest()
        if not isinstance(card, dict):
            raise ValueError("its card is none")
        state, masks = unpack_network(blobs, table)
        sha256 = digest(state, masks)
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


def inside(theirs: Mapping[str, T], mine: Collection[str]) -> Mapping[str, T]:
    """What a file holds of the only module in it that has the model's names; all where there is no such module."""
    if not mine or set(mine) & theirs.keys():
        return theirs
    first = next(iter(mine))
    parts = []
    there = (name.removesuffix(first) for name in theirs if name.endswith(f".{first}"))
    for prefix in islice(there, 20):  # a stranger's table could hold thousands
        part = {n.removeprefix(prefix): one for n, one in theirs.items() if n.startswith(prefix)}
        parts += [part] if part.keys() == set(mine) else []
    return parts[0] if len(parts) == 1 else theirs


@contextmanager
def damaged(path: Path) -> Iterator[None]:
    """Say of a file what goes wrong inside while its blobs are expanded.

    Raises:
        ValueError: Something does.
    """
    try:
        yield
    except (ValueError, KeyError, TypeError, IndexError, OverflowError, RuntimeError, zlib.error) as error:
        raise ValueError(f"{path} is damaged: {error}; copy or export it again") from error
    except MemoryError as error:
        raise ValueError(f"{path} is damaged: it claims shapes that do not fit into memory") from error


def check_size(table: Sequence[TensorInfo], size: int) -> None:
    """Refuse a file of `size` bytes that claims tensors far larger than it could hold.

    Raises:
        ValueError: It does.
    """
    # The values are at most eight bytes wider than stored, and a mask has one byte a value.
    claimed = sum(one.size * (one.dtype.itemsize + one.masked) for one in table)
    if claimed > max(LARGEST_UNKNOWN, MOST_EXPANDED * size):
        raise ValueError(
            f"it claims a network of {claimed:,} bytes in a file of {size:,}; if that is right, give the model that "
            "it is of (load_ticket, or read_ticket(path, like=model.state_dict()))"
        )


def check_fit(
    path: Path, theirs: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], like: Mapping[str, Tensor]
) -> None:
    """Refuse a file whose tensors, by name, are not those of a network.

    Raises:
        ValueError: They are not; names the first differences.
    """
    mine = {canonical(name): (tensor.dtype, tuple(tensor.shape)) for name, tensor in like.items()}
    found = [f"{name} is missing in the file" for name in mine if name not in theirs]
    found += [f"{name} is missing in the model" for name in theirs if name not in mine]
    found += [
        f"{name} is {_kind(*theirs[name])} in the file and {_kind(*mine[name])} in the model"
        for name in mine
        if name in theirs and theirs[name] != mine[name]
    ]
    if found:
        more = f"; and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        raise ValueError(f"{path} does not fit the model: {'; '.join(found[:_NAMED])}{more}")


def _kind(dtype: torch.dtype, shape: tuple[int, ...]) -> str:
    return f"{str(dtype).removeprefix('torch.')} {list(shape)}"


def write_blobs(path: Path, blobs: Blobs, metadata: Mapping[str, str]) -> None:
    """Write a safetensors file of byte tensors.

    Its own writer orders the metadata at random, so that no two files are equal.
    """
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    start = 0
    for name, blob in sorted(blobs.items()):
        header[name] = {"dtype": "U8", "shape": [len(blob)], "data_offsets": [start, start + len(blob)]}
        start += len(blob)
    text = json.dumps(header, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.writelines(blob for _, blob in sorted(blobs.items()))


def open_blobs(path: Path) -> tuple[Blobs, dict[str, str]]:
    """The byte tensors and the metadata of a safetensors file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no whole one.
    """
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
