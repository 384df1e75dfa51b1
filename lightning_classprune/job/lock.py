"""One process a folder: a lock that ends with the process that holds it, however that ends."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

from lightning_utilities.core.rank_zero import rank_zero_only

from lightning_classprune import files

try:
    import fcntl
except ImportError:  # not on POSIX, where files cannot be locked in this way
    fcntl = None  # type: ignore[assignment]

#: Seconds: so long do the data-loading processes of a killed process go on, which hold what it held.
PATIENCE = 15.0


class FolderInUse(RuntimeError):
    """Another process works in this folder."""


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lock of a file, in the first process of a job; the system gives it back when that process is gone.

    On network file systems that do not know `flock` (NFS before Linux 2.6.12, or mounted with `nolock`) it holds on
    one machine only.

    Args:
        path: The file, in the folder that is held. It stays there, and says who held the folder last.

    Raises:
        FolderInUse: Another process holds it; says which.
    """
    if getattr(rank_zero_only, "rank", 0) != 0 or fcntl is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        _take(file, path)
        file.truncate(0)
        file.write(_this_process())
        file.flush()
        try:
            yield
        finally:
            # Said aloud: a forked process that loads data still has the file open.
            fcntl.flock(file, fcntl.LOCK_UN)


def _this_process() -> str:
    """Who this process is, in a line."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return f"process {os.getpid()} on {socket.gethostname()} since {now}\n"


def _take(file: IO[Any], path: Path) -> None:
    until = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            file.seek(0)
            holder = file.read(300).strip() or "another process"
        words = holder.split()
        killed = (
            words[2:4] == ["on", socket.gethostname()]
            and words[1].isdigit()
            and not files.runs(int(words[1]))
        )
        if not killed or time.monotonic() > until:
            raise FolderInUse(
                f"{path.parent} is in use by {holder}; wait until that has ended, or end it, or give another folder"
            )
        time.sleep(0.1)
