"""Files that a reader finds whole, the old content or the new, never a part of it; and files of strangers."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: Of JSON, in bytes and in values: a hundred bytes of memory a value are then still few.
LARGEST_JSON, MOST_VALUES = 16_000_000, 1_000_000
#: Of an archive of arrays, in bytes: more must not be more than so many times the file.
LARGEST_SQUEEZED, MOST_SQUEEZED = 64_000_000, 100
_PART = re.compile(r"\..+\.(\d+)-\w+\.part")


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; it takes the place of `path` when the block ends well.

    The folder is made if need be. When the block raises, `path` is as it was and nothing is left beside it; what a
    killed process leaves there `sweep` removes.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=_prefix(target), suffix=".part")
    os.close(handle)
    part = Path(name)
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.chmod(0o644)  # mkstemp makes it private; a result is to be read
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextmanager
def filling(path: str | os.PathLike[str], last: Collection[str] = ()) -> Iterator[Path]:
    """Give a temporary folder whose files go to the folder `path` when the block ends well.

    A new folder appears as a whole. In one that is there already files are replaced one by one: those named in `last`
    go first and come last, so that they never speak of files that are not there. When the block raises, nothing is
    left.

    Args:
        path: The folder; its parents are made if need be.
        last: Names of files that describe the others.
    """
    folder = Path(path)
    home = folder if folder.is_dir() else folder.parent
    home.mkdir(parents=True, exist_ok=True)
    sweep(home)
    part = Path(tempfile.mkdtemp(dir=home, prefix=_prefix(folder), suffix=".part"))
    try:
        yield part
        if home is not folder:
            part.chmod(0o755)
            part.rename(folder)
            return
        for name in last:
            (folder / name).unlink(missing_ok=True)
        for file in sorted(part.iterdir(), key=lambda file: (file.name in last, file.name)):
            file.replace(folder / file.name)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def sweep(folder: str | os.PathLike[str]) -> None:
    """Remove what processes that were killed while they wrote into a folder have left there."""
    for path in Path(folder).glob(".*.part"):
        made = _PART.fullmatch(path.name)
        if made is None or runs(int(made[1])):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` in UTF-8, whole or not at all."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def sha256(path: str | os.PathLike[str]) -> str:
    """Of a file's content, in hexadecimal."""
    found = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def read_json(path: str | os.PathLike[str]) -> Any:
    """The JSON of a file that anyone may have made.

    Raises:
        ValueError: It is none, or it would take far more memory than a file of ours.
    """
    if os.stat(path).st_size > LARGEST_JSON:
        raise ValueError(f"it has more than {LARGEST_JSON:,} bytes")
    return parse_json(Path(path).read_bytes())


def parse_json(text: bytes) -> Any:
    """As `read_json`, of its content."""
    if len(text) > LARGEST_JSON or sum(map(text.count, (b",", b"[", b"{"))) > MOST_VALUES:
        raise ValueError(f"it is JSON of more than {LARGEST_JSON:,} bytes or {MOST_VALUES:,} values")
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is JSON that is nested too deeply") from error


def check_archive(path: str | os.PathLike[str]) -> None:
    """Of an `.npz` file that anyone may have made, before its arrays are read.

    Raises:
        ValueError: Its arrays would take far more memory than those of a file of ours.
        zipfile.BadZipFile: It is no such file.
    """
    with zipfile.ZipFile(path) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > max(LARGEST_SQUEEZED, MOST_SQUEEZED * os.stat(path).st_size):
        raise ValueError(f"its arrays would take {size:,} bytes, more than {MOST_SQUEEZED} times the file")


def _prefix(path: Path) -> str:
    return f".{path.name}.{os.getpid()}-"


def runs(process: int) -> bool:
    """Whether there is such a process on this machine; elsewhere than on POSIX that is not asked."""
    if os.name != "posix" or process in (0, os.getpid()):
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
