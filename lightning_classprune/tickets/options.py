"""What a run keeps in files of its own, beside the trainer's checkpoints."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Files:
    """What a run keeps in files of its own.

    Attributes:
        ladder: Keep the ticket of every accepted round, packed, in this folder, from which `load_ticket` picks; None
            keeps none. One folder a run.
        rewind_file: Keep the rewind point in this file, written once, instead of in every checkpoint; checkpoints
            then hold its SHA-256. One file a run.

    Raises:
        ValueError: An argument is no path; the message names it.
    """

    ladder: str | os.PathLike[str] | None = None
    rewind_file: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        for name, what in (("ladder", "folder"), ("rewind_file", "file")):
            value = getattr(self, name)
            if value is None:
                continue
            if not isinstance(value, str | os.PathLike) or not os.fspath(value):
                raise ValueError(f"Files.{name}={value!r} is not a {what}: a path, or None")
            object.__setattr__(self, name, os.fspath(value))
