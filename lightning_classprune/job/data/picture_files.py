"""Files of images: read as 8 bits a channel and upright, and all looked at before anything is trained on them."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_only, rank_zero_warn
from PIL import Image, ImageOps
from rich.console import Console
from rich.progress import track

from lightning_classprune import files
from lightning_classprune.job.data.checks import warn_of_flat

#: Changes with what `look_at` looks for, so that what an older version saw is not believed.
_VERSION = 1
_SHOWN = 5
_AT_ONCE = 512
_WORTH_SAYING = 2000
_MOST_PIXELS = 100_000_000  # 300 MB in RGB, and several are read at once


@dataclass(frozen=True)
class Look:
    """What was seen of one file.

    Attributes:
        spread: Largest less smallest value of a channel, the most of all channels, of 255.
        brightest: Largest value.
        frames: Pictures in the file, of which the first is used.
    """

    spread: int
    brightest: int
    frames: int


def read_picture(path: Path, channels: int) -> Image.Image:
    """Read a file as a picture of 8 bits a channel, turned as its EXIF tag says.

    Args:
        path: Of the file.
        channels: 1 for grey, 3 for RGB.

    Raises:
        ValueError: It cannot be decoded, or its numbers have no range that is known; names the file.
    """
    return _read(path, channels)[0]


def look_at(path: Path, channels: int) -> Look:
    """Read a file and say what it holds.

    Raises:
        ValueError: As `read_picture`.
    """
    picture, frames = _read(path, channels)
    ranges = np.array(picture.getextrema()).reshape(-1, 2)
    return Look(int((ranges[:, 1] - ranges[:, 0]).max()), int(ranges.max()), frames)


def _read(path: Path, channels: int) -> tuple[Image.Image, int]:
    try:
        with Image.open(path) as file:
            if file.width * file.height > _MOST_PIXELS:
                raise ValueError(
                    f"{file.width} x {file.height} pixels are more than {_MOST_PIXELS:,}; shrink it"
                )
            file.load()
            frames = int(getattr(file, "n_frames", 1))
            picture = _eight_bits(ImageOps.exif_transpose(file), file.format)
            return picture.convert("L" if channels == 1 else "RGB"), frames
    except Exception as error:  # decoders raise anything over damaged files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: {reason}") from error


def _eight_bits(picture: Image.Image, form: str | None) -> Image.Image:
    """Scale 16 bits to 8; refuse numbers of which nobody knows what white is."""
    if picture.mode.startswith("I;16") or (picture.mode == "I" and form in ("PNG", "PPM")):
        values = np.asarray(picture).astype(np.int64).clip(0, 65535)
        return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    if picture.mode in ("I", "F"):
        kind = "float" if picture.mode == "F" else "32-bit"
        raise ValueError(f"{kind} pixels have no known range; write it with 8 or 16 bits a channel")
    return picture


def verify(paths: Sequence[Path], root: Path, channels: int) -> None:
    """Read every file once, and warn of what looks wrong; files that were read before and did not change are believed.

    Args:
        paths: Of the files.
        root: Folder that they lie in, for their names.
        channels: As of `read_picture`.

    Raises:
        ValueError: Some cannot be read; names them.
    """
    names = [path.relative_to(root).as_posix() for path in paths]
    cache = _cache_file(root, channels)
    known = _known(cache)
    stamps = [_stamp(path) for path in paths]
    old = {name for name, stamp in zip(names, stamps, strict=True) if known.get(name, [None])[:2] == stamp}
    new = [(name, path) for name, path in zip(names, paths, strict=True) if name not in old]
    seen = {name: Look(*known[name][2:]) for name in old}
    wrong = []
    for (name, path), look in zip(new, _looks([path for _, path in new], channels), strict=True):
        if isinstance(look, Look):
            seen[name] = look
        else:
            wrong.append(str(look).replace(str(path), name))
    if wrong:
        more = f", and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        told = f"{len(wrong)} of {len(paths)} images cannot be used: {'; '.join(wrong[:_SHOWN])}{more}"
        raise ValueError(f"root={str(root)!r}: {told}; mend or remove them")
    if new:
        entries = {
            name: [*stamp, *vars(seen[name]).values()] for name, stamp in zip(names, stamps, strict=True)
        }
        _remember(cache, entries)
    looks = [seen[name] for name in names]
    warn_of_flat([look.spread for look in looks], max(look.brightest for look in looks), names)
    stacks = [name for name in names if seen[name].frames > 1]
    if stacks:
        rank_zero_warn(
            f"{len(stacks)} files hold several pictures, such as {stacks[0]!r}; the first of each is used"
        )


def _looks(paths: Sequence[Path], channels: int) -> Iterator[Look | ValueError]:
    """What is seen of each file, or why it cannot be read."""

    def look(path: Path) -> Look | ValueError:
        try:
            return look_at(path, channels)
        except ValueError as error:
            return error

    shows = getattr(rank_zero_only, "rank", 0) == 0 and sys.stderr.isatty()
    if len(paths) >= _WORTH_SAYING and not shows:
        rank_zero_info(f"reading {len(paths):,} images once, to find those that cannot be used")
    pieces = [paths[start : start + _AT_ONCE] for start in range(0, len(paths), _AT_ONCE)]
    # Decoders release Python's lock, so threads do; pieces, because a million waiting tasks are gigabytes.
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow, about files that it can read
        bar = track(pieces, "reading images", console=Console(stderr=True), transient=True, disable=not shows)
        for piece in bar:
            yield from pool.map(look, piece)


# -- what was seen before --


def _stamp(path: Path) -> list[int]:
    """Changes when the file does: its size and time."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _cache_file(root: Path, channels: int) -> Path:
    """In the user's cache, since data may be read-only."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    name = hashlib.sha256(f"{_VERSION}/{channels}/{root.resolve()}".encode()).hexdigest()[:24]
    return Path(home) / "lightning_classprune" / f"{name}.json"


def _known(cache: Path) -> dict[str, list[int]]:
    """Name -> stamp and look; nothing where that cannot be read."""
    try:
        stored = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    entries = stored.items() if isinstance(stored, dict) else []
    return {
        name: one
        for name, one in entries
        if isinstance(one, list) and len(one) == 5 and all(type(value) is int for value in one)
    }


@rank_zero_only
def _remember(cache: Path, entries: dict[str, list[int]]) -> None:
    with suppress(OSError):  # it is only time
        files.write_text(cache, json.dumps(entries))
