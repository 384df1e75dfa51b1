"""A closed pipe: `classprune ... | head` ends what is read of a job, and not the job."""

from __future__ import annotations

import io
import os
import sys
from typing import Any, TextIO


def outlive_readers() -> None:
    """Let standard output and error go on in silence once nobody reads them, where they are the process' own."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and stream is getattr(sys, f"__{name}__"):
            setattr(sys, name, lasting(stream))


def lasting(stream: TextIO) -> TextIO:
    """A stream like one that writes to a file descriptor, whose writes do not fail when its reader is gone."""
    try:
        number = stream.fileno()
    except (OSError, ValueError):
        return stream  # of an environment that has none, such as a notebook
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Lasting(number, "w", closefd=False)),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=getattr(stream, "line_buffering", False),
        write_through=getattr(stream, "write_through", False),
    )


class _Lasting(io.FileIO):
    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            # The descriptor itself, for what other libraries and child processes write to.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return memoryview(data).nbytes
