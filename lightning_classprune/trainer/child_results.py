"""Child results: how results reach the process that called `fit` when a launcher trains copies in child processes.

With `ddp_spawn` and in notebooks Lightning brings only weights and metrics back from the children. So the callback is
made with the name of a file that its copies in the children share: one of them leaves its results there at the end of
`fit`, and the process in which the callback was made takes them out when somebody asks.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import uuid
import weakref
from typing import Any

import torch


class ChildResults:
    """One file that exists only between the end of a `fit` in children and the first look at its results."""

    def __init__(self) -> None:
        self._path = os.path.join(tempfile.gettempdir(), f"classprune-{uuid.uuid4().hex}.pt")
        self._home = os.getpid()
        weakref.finalize(self, _discard, self._path, self._home)

    def post(self, results: dict[str, Any]) -> None:
        """Leave results (tensors and primitives) for the launching process; nothing happens where there is none."""
        parent = multiprocessing.parent_process()
        if parent is not None and parent.pid == self._home:
            torch.save(results, f"{self._path}.part")
            os.replace(f"{self._path}.part", self._path)

    def collect(self) -> dict[str, Any] | None:
        """Take out what a child left, once, in the process in which this was made; None if there is nothing."""
        if os.getpid() != self._home or not os.path.exists(self._path):
            return None
        results: dict[str, Any] = torch.load(self._path, weights_only=True)
        os.remove(self._path)
        return results

    def __deepcopy__(self, memo: dict[int, Any]) -> ChildResults:
        # Copies within a process are other callbacks; only copies sent to another process share the file.
        return ChildResults()


def _discard(path: str, home: int) -> None:
    if os.getpid() == home and os.path.exists(path):
        os.remove(path)
