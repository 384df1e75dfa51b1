"""Ladder files: all accepted tickets of a run in one file.

It holds byte tensors, as a ticket file does:

| blob | what |
|---|---|
| `tensors` | zlib of a JSON list: what all tickets are made of (`packing`) |
| `members` | zlib of a JSON list: what is known of each ticket, and in `parts` a number for each of its tensors |
| `index.N`, `values.N.<dtype>` | kept places and own values of ticket N (`packing`) |

The number of a tensor is 1 if it has a mask, plus 2 if it has its own values, plus 4 times the place, from 1, of the
ticket of whose kept weights its mask tells, and whose values it has if not its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_classprune import files
from lightning_classprune.tickets.joint import (
    MOST_MEMBERS,
    JointLadder,
    Member,
    Part,
    check_card,
    of_folder,
)
from lightning_classprune.tickets.ladder import LIST, is_count
from lightning_classprune.tickets.packing import (
    Blobs,
    TensorInfo,
    dtype_name,
    inflate,
    pack_index,
    pack_values,
    read_table,
    unpack_index,
    unpack_values,
)
from lightning_classprune.tickets.ticket_file import (
    LARGEST_UNKNOWN,
    MOST_EXPANDED,
    check_size,
    damaged,
    digest,
    inside,
    open_blobs,
    write_blobs,
)
from lightning_classprune.trainer.names import canonical

FORMAT = "classprune-ladder"
VERSION = "1"

#: Whether a tensor has a mask, whether it has values of its own, and the ticket by whose places it is told.
Plan = tuple[bool, bool, int | None]


def read_ladder(path: str | os.PathLike[str], model: nn.Module | None = None) -> JointLadder:
    """Read all tickets of a ladder and verify their hashes.

    Args:
        path: The folder that a run wrote (`Files(ladder=...)`), or a file of `save_ladder`.
        model: Of the architecture of the tickets. Without it tickets are refused that are more than a thousand times
            as large as the file, and more than 64 MiB.

    Raises:
        FileNotFoundError: There is no such path, or a ticket that the folder lists is gone.
        ValueError: It is no ladder, or of another version, damaged or changed, or does not fit the model.
    """
    path = Path(path)
    like = None if model is None else {n: t for n, t in model.state_dict().items() if isinstance(t, Tensor)}
    return of_folder(path, like) if path.is_dir() else _of_file(path, like)


def save_ladder(path: str | os.PathLike[str], ladder: JointLadder) -> int:
    """Write a ladder to one file and return its size in bytes; what stood there stays if that fails.

    Milliseconds are of the machine that measured them and are not written; the same tickets make the same bytes.

    Args:
        path: The file to write, by custom `*.safetensors`; its folder is made.
        ladder: What `read_ladder` or `measure_ladder` returned.
    """
    blobs: Blobs = {"tensors": _squeezed([_row(info) for info in ladder.tensors])}
    members = []
    for number, member in enumerate(ladder.members):
        parts, index, values = _told(ladder, number)
        blobs[f"index.{number}"] = pack_index(index)
        blobs |= {f"values.{number}.{dtype}": pack_values(own) for dtype, own in values.items()}
        known = {"round": member.round, "bytes": member.bytes, "sha256": member.sha256}
        known |= {"multiplications": member.multiplications, "card": member.card, "parts": parts}
        members.append(known)
    blobs["members"] = _squeezed(members)
    metadata = {"format": FORMAT, "version": VERSION, "members_sha256": _sha256(blobs["members"])}
    with files.replacing(path) as part:
        write_blobs(part, blobs, metadata)
    return Path(path).stat().st_size


def _of_file(path: Path, like: Mapping[str, Tensor] | None) -> JointLadder:
    blobs, metadata = open_blobs(path)
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path} is no ladder: a run's folder with a {LIST}, or a file of save_ladder")
    if metadata.get("version") != VERSION:
        raise ValueError(
            f"{path} is a ladder of version {metadata.get('version')}; this package reads {VERSION}"
        )
    with damaged(path):
        tensors = tuple(read_table(blobs))
        if metadata.get("members_sha256") != _sha256(blobs["members"]):
            raise ValueError("what it says of its tickets was changed")
        rows = files.parse_json(inflate(blobs["members"], files.LARGEST_JSON))
        members = [_member(row) for row in rows]
        if not 0 < len(members) <= MOST_MEMBERS:
            raise ValueError(f"it has {len(members)} tickets, 1 to {MOST_MEMBERS} are read")
        if sorted({one.round for one in members}) != [one.round for one in members]:
            raise ValueError("its rounds are not in order")
        size = path.stat().st_size
        if like is None:
            check_size(tensors, size)
    if like is not None:
        JointLadder(path, tuple(members), tensors, ()).fitting(like)
        with damaged(path):
            mine = inside({canonical(one.name): one for one in tensors}, {canonical(name) for name in like})
            fitting = {id(one) for one in mine.values()}
            check_size([one for one in tensors if id(one) not in fitting], size)
    with damaged(path):
        ladder = JointLadder(path, tuple(members), tensors, _unpacked(blobs, tensors, rows, size))
        changed = [
            one.round for number, one in enumerate(members) if digest(*ladder.network(number)) != one.sha256
        ]
    if changed:
        raise ValueError(
            f"{path} was changed or damaged: the SHA-256 of round {changed[0]} is not the one that it names; "
            "copy or write it again"
        )
    return ladder


def _unpacked(
    blobs: Blobs, tensors: Sequence[TensorInfo], rows: Sequence[Mapping[str, Any]], size: int
) -> tuple[tuple[Part, ...], ...]:
    parts: list[tuple[Part, ...]] = []
    rest = {name: blob for name, blob in blobs.items() if name not in ("tensors", "members")}
    most = max(LARGEST_UNKNOWN, MOST_EXPANDED * size)
    for number, row in enumerate(rows):
        plans = _plans(row["parts"], number, len(tensors))
        bases = [None if base is None else parts[base][place] for place, (_, _, base) in enumerate(plans)]
        masks = _masks(rest.pop(f"index.{number}"), tensors, plans, bases)
        counts: dict[torch.dtype, int] = {}
        for info, mask, (_, is_own, _) in zip(tensors, masks, plans, strict=True):
            if is_own:
                count = info.size if mask is None else int(mask.sum())
                counts[info.dtype] = counts.get(info.dtype, 0) + count
        most -= sum(dtype.itemsize * count for dtype, count in counts.items())
        if most < 0:
            raise ValueError(f"it claims more values than a file of {size:,} bytes holds")
        values = {
            dtype: unpack_values(rest.pop(f"values.{number}.{dtype_name(dtype)}"), dtype, count)
            for dtype, count in counts.items()
        }
        made: list[Part] = []
        for info, mask, base in zip(tensors, masks, bases, strict=True):
            bits = None if mask is None else np.packbits(mask)
            if plans[len(made)][1]:
                count = info.size if mask is None else int(mask.sum())
                own, values[info.dtype] = values[info.dtype][:count], values[info.dtype][count:]
                made.append(Part(bits, own, number))
            elif base is None or (base.kept is not None and bits is None):
                raise ValueError(f"{info.name[:80]} of ticket {number} has no values")
            else:
                made.append(Part(bits, base.values, base.of))
        parts.append(tuple(made))
    if rest:
        raise ValueError(f"it holds parts of no ticket: {', '.join(sorted(rest))[:200]}")
    return tuple(parts)


def _masks(
    blob: bytes, tensors: Sequence[TensorInfo], plans: Sequence[Plan], bases: Sequence[Part | None]
) -> list[NDArray[np.bool_] | None]:
    """The masks of one ticket; each tells of the weights that its base keeps, or of all."""
    wholes = [
        None if base is None or base.kept is None else np.unpackbits(base.kept, count=info.size).view(bool)
        for info, base in zip(tensors, bases, strict=True)
    ]
    told = [
        0 if not masked else info.size if whole is None else int(whole.sum())
        for info, whole, (masked, _, _) in zip(tensors, wholes, plans, strict=True)
    ]
    index = unpack_index(blob, sum(told))
    masks: list[NDArray[np.bool_] | None] = []
    start = 0
    for info, whole, size, (masked, _, _) in zip(tensors, wholes, told, plans, strict=True):
        mask = index[start : start + size]
        start += size
        if whole is not None:
            wide = np.zeros(info.size, dtype=bool)
            wide[whole] = mask
            mask = wide
        masks.append(mask if masked else None)
    return masks


def _told(
    ladder: JointLadder, number: int
) -> tuple[list[int], list[NDArray[np.bool_]], dict[str, list[Tensor]]]:
    """What a file says of the parts of a member: codes, kept places, own values by dtype."""
    codes, index = [], []
    values: dict[str, list[Tensor]] = {}
    for place, part in enumerate(ladder.parts[number]):
        is_own, mask = part.of == number, part.mask(ladder.tensors[place].size)
        base = _base(ladder, number, place)
        if mask is not None:
            whole = None if base is None else ladder.parts[base][place].mask(len(mask))
            index.append((mask if whole is None else mask[whole]).numpy())
        if is_own:
            values.setdefault(dtype_name(part.values.dtype), []).append(part.values)
        codes.append((mask is not None) + 2 * is_own + 4 * (0 if base is None else base + 1))
    return codes, index, values


def _base(ladder: JointLadder, number: int, place: int) -> int | None:
    """The nearest ticket before by whose kept weights a tensor is told; of its values, where it has none of its own."""
    part, size = ladder.parts[number][place], ladder.tensors[place].size
    mask = part.mask(size)
    for earlier in reversed(range(number)):
        theirs = ladder.parts[earlier][place]
        whole = theirs.mask(size)
        shares = theirs.of == part.of
        narrows = mask is not None and whole is not None and not bool((mask & ~whole).any())
        if (shares and (whole is None or narrows)) or (part.of == number and narrows):
            return earlier
    return None


def _plans(codes: Any, number: int, tensors: int) -> list[Plan]:
    """For each tensor of a member whether it has a mask, whether it has values, and by whose places it is told."""
    if not isinstance(codes, list) or len(codes) != tensors:
        raise ValueError(f"ticket {number} does not have {tensors} tensors")
    plans: list[Plan] = []
    for code in codes:
        if not is_count(code) or code // 4 > number or (code < 4 and not code & 2):
            raise ValueError(f"ticket {number} has a tensor that is told by {str(code)[:20]}")
        plans.append((bool(code & 1), bool(code & 2), code // 4 - 1 if code >= 4 else None))
    return plans


def _member(row: Any) -> Member:
    if not isinstance(row, dict) or not all(is_count(row.get(name)) for name in ("round", "bytes")):
        raise ValueError("it has a ticket without a round or a size")
    count = row.get("multiplications")
    if not isinstance(row.get("sha256"), str) or not (count is None or is_count(count)):
        raise ValueError(f"what it says of round {row['round']} is not what a ladder says")
    check_card(row.get("card"), row["round"])
    return Member(row["round"], row["bytes"], row["sha256"], row["card"], count)


def _row(info: TensorInfo) -> list[Any]:
    return [info.name, dtype_name(info.dtype), list(info.shape), dtype_name(info.stored), info.masked]


def _squeezed(content: Any) -> bytes:
    return zlib.compress(json.dumps(content, sort_keys=True, allow_nan=False).encode(), 9)


def _sha256(blob: bytes) -> str:
    return hashlib.sha256(inflate(blob, files.LARGEST_JSON)).hexdigest()
