"""Packing: a network and its masks as a few small byte strings, and back, bit for bit.

| blob | what |
|---|---|
| `tensors` | zlib of a JSON list: name, dtype, shape, dtype as stored, whether it has a mask; in the network's order |
| `index` | zlib of the gaps between kept weights: of all masks, flattened and laid end to end in that order |
| `values.<dtype>` | zlib of the byte planes of all values that are stored in this dtype, end to end in that order |

A gap is one byte; 255 means "add 255 and read on". Of a tensor with a mask only the kept values are stored, of any
other one all. Byte planes: first the lowest byte of every value, then the next, as signs and exponents repeat and
mantissas do not. One blob a kind, not one a layer, as headers would outweigh a small network.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_classprune.files import parse_json
from lightning_classprune.pruning.masks import Masks

Blobs = dict[str, bytes]

#: How values may be stored; fp32 changes nothing.
VALUES: dict[str, torch.dtype | None] = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}

#: Of a table, in bytes; ten thousand tensors have less than one million.
LARGEST_TABLE = 2_000_000
MOST_DIMENSIONS = 25  # what torch can flatten on every device

_ESCAPE = 255
_PIECE = 1 << 20


def pack_network(state: Mapping[str, Tensor], masks: Masks, values: str = "fp32") -> Blobs:
    """The blobs of a network.

    Args:
        state: Parameters and buffers by name, of any dtype and shape, pruned weights at zero. Kept weights keep
            every bit; a pruned -0.0 comes back as +0.0.
        masks: True = kept, for some of the names.
        values: `"fp32"`: every tensor as it is, whatever its dtype. `"fp16"` or `"bf16"`: weights (floating tensors of
            two and more dimensions) that are wider are rounded to this.

    Raises:
        ValueError: A mask without its tensor or of another shape, a pruned weight that is not zero, a value that
            the cast cannot hold, an unknown `values`.
    """
    _check(state, masks, values)
    table: list[Any] = []
    kept: list[NDArray[np.bool_]] = []
    stored: dict[str, list[Tensor]] = {}
    for name, tensor in state.items():
        mask = masks.get(name)
        chosen = _flat(tensor)
        if mask is not None:
            flat = _flat(mask)
            kept.append(flat.numpy())
            chosen = chosen[flat]
        chosen = _cast(name, chosen, _stored_as(tensor, values))
        dtype = dtype_name(chosen.dtype)
        table.append([name, dtype_name(tensor.dtype), list(tensor.shape), dtype, mask is not None])
        stored.setdefault(dtype, []).append(chosen)
    blobs = {"tensors": zlib.compress(json.dumps(table).encode(), 9), "index": pack_index(kept)}
    for dtype, parts in stored.items():
        blobs[f"values.{dtype}"] = pack_values(parts)
    return blobs


@dataclass(frozen=True)
class TensorInfo:
    """What the table says of one tensor.

    Attributes:
        name: In the network.
        dtype: Of the tensor.
        shape: Of the tensor.
        stored: Dtype of its values in the file.
        masked: Whether it has a mask.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    stored: torch.dtype
    masked: bool

    @property
    def size(self) -> int:
        """Number of its values, pruned ones too."""
        return math.prod(self.shape)


def read_table(blobs: Mapping[str, bytes]) -> list[TensorInfo]:
    """What a packed network is made of; nothing of it is allocated.

    Raises:
        ValueError: It is no table.
    """
    rows = parse_json(inflate(blobs["tensors"], LARGEST_TABLE))
    if not isinstance(rows, list):
        raise ValueError("it has no table of tensors")
    table = [_info(row) for row in rows]
    if len({one.name for one in table}) < len(table):
        raise ValueError("its table names a tensor twice")
    return table


def unpack_network(
    blobs: Mapping[str, bytes], table: Sequence[TensorInfo] | None = None
) -> tuple[dict[str, Tensor], Masks]:
    """The network and the masks that `pack_network` packed, on the CPU.

    Allocates what the table says and no more, whatever the other blobs expand to.

    Args:
        blobs: Of the network.
        table: What `read_table` says of them, where the caller has looked at it already.

    Raises:
        ValueError: The blobs contradict each other.
    """
    table = read_table(blobs) if table is None else table
    kept = unpack_index(blobs["index"], sum(one.size for one in table if one.masked))
    masks: Masks = {}
    counts: dict[torch.dtype, int] = {}
    start = 0
    for one in table:
        count = one.size
        if one.masked:
            mask = torch.from_numpy(kept[start : start + one.size])
            masks[one.name] = mask.reshape(one.shape)
            count, start = int(mask.sum()), start + one.size
        counts[one.stored] = counts.get(one.stored, 0) + count
    expected = {f"values.{dtype_name(dtype)}" for dtype in counts}
    if strange := sorted(blobs.keys() - expected - {"tensors", "index"}):
        raise ValueError(f"it holds values that no tensor has: {', '.join(strange)[:200]}")
    values = {
        dtype: unpack_values(blobs[f"values.{dtype_name(dtype)}"], dtype, count)
        for dtype, count in counts.items()
    }
    state: dict[str, Tensor] = {}
    used = dict.fromkeys(counts, 0)
    for one in table:
        flat = masks[one.name].reshape(-1) if one.masked else None
        count = one.size if flat is None else int(flat.sum())
        chosen = values[one.stored][used[one.stored] : used[one.stored] + count]
        used[one.stored] += count
        tensor = chosen.to(one.dtype, copy=True)
        if flat is not None:
            tensor = torch.zeros(one.size, dtype=tensor.dtype).masked_scatter_(flat, tensor)
        state[one.name] = tensor.reshape(one.shape)
    return state, masks


def inflate(blob: bytes, most: int) -> bytes:
    """What a zlib stream holds, if that is no more than `most` bytes; no more is ever expanded.

    Raises:
        ValueError: It is more, or less than a whole stream.
    """
    stream = zlib.decompressobj()
    data = stream.decompress(blob, most + 1)
    if len(data) > most:
        raise ValueError(f"a part of it expands to more than the {most:,} bytes that it should have")
    if not stream.eof or stream.unused_data:
        raise ValueError("a part of it is cut short")
    return data


def _info(row: Any) -> TensorInfo:
    if not isinstance(row, list) or len(row) != 5:
        raise ValueError("its table has a row that is none")
    name, dtype, shape, stored, masked = row
    if not isinstance(name, str) or not isinstance(masked, bool) or not isinstance(shape, list):
        raise ValueError("its table has a row that is none")
    if len(shape) > MOST_DIMENSIONS or not all(type(n) is int and 0 <= n < 2**48 for n in shape):
        raise ValueError(f"its table gives {name[:80]!r} a shape that no tensor has")
    return TensorInfo(name, _dtype(dtype), tuple(shape), _dtype(stored), masked)


def _check(state: Mapping[str, Tensor], masks: Masks, values: str) -> None:
    if values not in VALUES:
        raise ValueError(f"values={values!r} is unknown: {' or '.join(map(repr, VALUES))}")
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"state[{name!r}] is a {type(tensor).__name__}; only tensors can be packed")
    for name, mask in masks.items():
        if name not in state:
            raise ValueError(f"masks[{name!r}] has no tensor of that name in state")
        if mask.dtype != torch.bool or mask.shape != state[name].shape:
            raise ValueError(
                f"masks[{name!r}] is {mask.dtype} {tuple(mask.shape)}; "
                f"torch.bool {tuple(state[name].shape)} is needed"
            )
        lost = int(torch.count_nonzero(_flat(state[name])[~_flat(mask)]))
        if lost:
            raise ValueError(
                f"state[{name!r}] has {lost} weights that its mask prunes and that are not zero; "
                "give the weights and the masks of the same ticket"
            )


def _stored_as(tensor: Tensor, values: str) -> torch.dtype:
    """Biases and BatchNorm statistics stay as they are: they are few, and variances leave the range of fp16."""
    narrow = VALUES[values]
    wide = tensor.is_floating_point() and tensor.dtype.itemsize > 2 and tensor.ndim >= 2
    return narrow if narrow is not None and wide else tensor.dtype


def _cast(name: str, values: Tensor, dtype: torch.dtype) -> Tensor:
    cast = values.to(dtype)
    if dtype != values.dtype and not torch.equal(cast.isfinite(), values.isfinite()):
        raise ValueError(
            f"state[{name!r}] has values beyond the range of {dtype_name(dtype)}; use values='bf16' or 'fp32'"
        )
    return cast


def pack_index(kept: Sequence[NDArray[np.bool_]]) -> bytes:
    """The blob that says which weights are kept, of masks laid end to end."""
    return _squeeze(_gaps(np.flatnonzero(np.concatenate(kept)) if kept else np.empty(0, np.int64)))


def pack_values(parts: Sequence[Tensor]) -> bytes:
    """The byte planes of flat tensors of one dtype on the CPU, laid end to end."""
    planes = np.concatenate([_bytes_of(part) for part in parts]).reshape(-1, parts[0].dtype.itemsize).T
    return _squeeze(np.ascontiguousarray(planes))


def _gaps(positions: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Pruned places before each kept one, in bytes with an escape; what follows the last is not said."""
    gaps = np.diff(positions, prepend=-1) - 1
    escapes = gaps // _ESCAPE
    stream = np.full(int(escapes.sum()) + len(gaps), _ESCAPE, dtype=np.uint8)
    stream[np.cumsum(escapes + 1) - 1] = gaps % _ESCAPE
    return stream


def unpack_index(blob: bytes, size: int) -> NDArray[np.bool_]:
    """Which of `size` weights are kept, from what `pack_index` made.

    Raises:
        ValueError: It says something of more weights.
    """
    # In pieces: positions are eight times as long.
    kept = np.zeros(size, dtype=bool)
    stream = np.frombuffer(inflate(blob, size), dtype=np.uint8)
    place = 0  # of the next weight
    for start in range(0, len(stream), _PIECE):
        piece = stream[start : start + _PIECE]
        steps = piece + (piece != _ESCAPE).astype(np.int64)
        ends = place + np.cumsum(steps)
        place = int(ends[-1])
        if place > size:
            raise ValueError(f"its index has a kept weight {place - 1} of {size}")
        kept[ends[piece != _ESCAPE] - 1] = True
    return kept


def unpack_values(blob: bytes, dtype: torch.dtype, count: int) -> Tensor:
    """The values that `pack_values` packed.

    Raises:
        ValueError: They are not `count`.
    """
    raw = inflate(blob, count * dtype.itemsize)
    if len(raw) != count * dtype.itemsize:
        raise ValueError(
            f"it holds {len(raw):,} bytes of {dtype_name(dtype)} and should hold {count * dtype.itemsize:,}"
        )
    planes = np.frombuffer(raw, dtype=np.uint8).reshape(dtype.itemsize, -1)
    return torch.from_numpy(planes.T.copy().reshape(-1)).view(dtype)


def _squeeze(data: NDArray[np.uint8]) -> bytes:
    """A zlib stream by run lengths and Huffman codes only.

    Neither gaps nor weights repeat in sequences: to search for these takes up to a hundred times as long and makes
    the stream no smaller.
    """
    packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_RLE)
    return packer.compress(data.data) + packer.flush()


def _flat(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().reshape(-1)


def _bytes_of(values: Tensor) -> NDArray[np.uint8]:
    data: NDArray[np.uint8] = values.view(torch.uint8).numpy()
    return data


def dtype_name(dtype: torch.dtype) -> str:
    """What a table calls a dtype."""
    return str(dtype).removeprefix("torch.")


def _dtype(name: Any) -> torch.dtype:
    dtype = getattr(torch, name, None) if isinstance(name, str) else None
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"it holds values of an unknown dtype {name!r}")
    return dtype
