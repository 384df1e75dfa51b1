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
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_classprune.pruning.masks import Masks

Blobs = dict[str, bytes]

#: How values may be stored; fp32 changes nothing.
VALUES: dict[str, torch.dtype | None] = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}

_ESCAPE = 255


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
    stored: dict[str, list[NDArray[np.uint8]]] = {}
    for name, tensor in state.items():
        mask = masks.get(name)
        chosen = _flat(tensor)
        if mask is not None:
            flat = _flat(mask)
            kept.append(flat.numpy())
            chosen = chosen[flat]
        chosen = _cast(name, chosen, _stored_as(tensor, values))
        dtype = _name(chosen.dtype)
        table.append([name, _name(tensor.dtype), list(tensor.shape), dtype, mask is not None])
        stored.setdefault(dtype, []).append(_bytes_of(chosen))
    positions = np.flatnonzero(np.concatenate(kept)) if kept else np.empty(0, np.int64)
    blobs = {"tensors": zlib.compress(json.dumps(table).encode(), 9), "index": _squeeze(_gaps(positions))}
    for dtype, parts in stored.items():
        planes = np.concatenate(parts).reshape(-1, _dtype(dtype).itemsize).T
        blobs[f"values.{dtype}"] = _squeeze(np.ascontiguousarray(planes))
    return blobs


def unpack_network(blobs: Mapping[str, bytes]) -> tuple[dict[str, Tensor], Masks]:
    """The network and the masks that `pack_network` packed, on the CPU.

    Raises:
        ValueError: The blobs contradict each other.
    """
    table = json.loads(zlib.decompress(blobs["tensors"]))
    sizes = [int(np.prod(shape, dtype=np.int64)) for _, _, shape, _, _ in table]
    kept = np.zeros(sum(size for size, row in zip(sizes, table, strict=True) if row[4]), dtype=bool)
    positions = _positions(np.frombuffer(zlib.decompress(blobs["index"]), dtype=np.uint8))
    if len(positions) and positions[-1] >= len(kept):
        raise ValueError(f"its index has a kept weight {positions[-1]} of {len(kept)}")
    kept[positions] = True
    values = {
        key.removeprefix("values."): _values(zlib.decompress(blob), key.removeprefix("values."))
        for key, blob in blobs.items()
        if key.startswith("values.")
    }
    state: dict[str, Tensor] = {}
    masks: Masks = {}
    start, used = 0, dict.fromkeys(values, 0)
    for (name, dtype, shape, stored, masked), size in zip(table, sizes, strict=True):
        mask = None
        if masked:
            mask = torch.from_numpy(kept[start : start + size])
            masks[name] = mask.reshape(shape)
            start += size
        count = size if mask is None else int(mask.sum())
        chosen = values[stored][used[stored] : used[stored] + count]
        if len(chosen) != count:
            raise ValueError(f"it holds {len(chosen)} values of {name} and should hold {count}")
        used[stored] += count
        tensor = chosen.to(_dtype(dtype), copy=True)
        if mask is not None:
            tensor = torch.zeros(size, dtype=tensor.dtype).masked_scatter_(mask, tensor)
        state[name] = tensor.reshape(shape)
    if left := {stored: len(v) - used[stored] for stored, v in values.items() if len(v) != used[stored]}:
        raise ValueError(f"it holds more values than its tensors have: {left}")
    return state, masks


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
            f"state[{name!r}] has values beyond the range of {_name(dtype)}; use values='bf16' or 'fp32'"
        )
    return cast


def _gaps(positions: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Pruned places before each kept one, in bytes with an escape; what follows the last is not said."""
    gaps = np.diff(positions, prepend=-1) - 1
    escapes = gaps // _ESCAPE
    stream = np.full(int(escapes.sum()) + len(gaps), _ESCAPE, dtype=np.uint8)
    stream[np.cumsum(escapes + 1) - 1] = gaps % _ESCAPE
    return stream


def _positions(stream: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The positions that `_gaps` turned into bytes."""
    ends = np.flatnonzero(stream != _ESCAPE)
    return np.cumsum(stream, dtype=np.int64)[ends] + np.arange(len(ends))


def _values(raw: bytes, dtype: str) -> Tensor:
    """All values of one dtype, from their byte planes."""
    planes = np.frombuffer(raw, dtype=np.uint8).reshape(_dtype(dtype).itemsize, -1)
    return torch.from_numpy(planes.T.copy().reshape(-1)).view(_dtype(dtype))


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


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"it holds values of an unknown dtype {name!r}")
    return dtype
