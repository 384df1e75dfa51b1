"""What a run keeps in files of its own, beside the trainer's checkpoints."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

#: Files that can be candidates of their own.
Judged = Literal["int8", "fp16", "folded"]
_JUDGED = ("int8", "fp16", "folded")


@dataclass(frozen=True, kw_only=True)
class Files:
    """What a run keeps in files of its own.

    Attributes:
        ladder: Keep the ticket of every accepted round, packed, in this folder, from which `load_ticket` picks; None
            keeps none. One folder a run.
        rewind_file: Keep the rewind point in this file, written once, instead of in every checkpoint; checkpoints
            then hold its SHA-256. One file a run.
        judged: ONNX files that are made of each kept candidate before the guard is opened, each a candidate of its
            own: `"int8"`, calibrated on training data, `"fp16"`, and `"folded"`, in which similar channels are merged
            until three quarters are left. They lie in the ladder's folder, else beside the checkpoints. Needs
            `Guard(judging="end")`.
        nested: The tickets of the ladder share one set of weights: one more round, as long as the others, trains the
            kept candidates' nested masks together, and its networks are judged in the candidates' place. Needs a
            `ladder` and `Guard(judging="end")`.

    Raises:
        ValueError: An argument is no path, no kind of file or no truth value; the message names it.
    """

    ladder: str | os.PathLike[str] | None = None
    rewind_file: str | os.PathLike[str] | None = None
    judged: Sequence[Judged] = ()
    nested: bool = False

    def __post_init__(self) -> None:
        for name, what in (("ladder", "folder"), ("rewind_file", "file")):
            value = getattr(self, name)
            if value is None:
                continue
            if not isinstance(value, str | os.PathLike) or not os.fspath(value):
                raise ValueError(f"Files.{name}={value!r} is not a {what}: a path, or None")
            object.__setattr__(self, name, os.fspath(value))
        listed = isinstance(self.judged, Sequence) and not isinstance(self.judged, str)
        if not listed or len(set(self.judged)) < len(self.judged) or not set(self.judged) <= set(_JUDGED):
            raise ValueError(
                f"Files.judged={self.judged!r} must be a list of 'int8', 'fp16', 'folded', or empty"
            )
        if not isinstance(self.nested, bool):
            raise ValueError(f"Files.nested={self.nested!r} must be True or False")
        if self.nested and self.ladder is None:
            raise ValueError(
                "Files.nested=True shares weights among the tickets of a ladder, and none is kept; give "
                "Files(ladder=FOLDER)"
            )
        # In one order, for candidates of a run that is resumed must be the same.
        object.__setattr__(self, "judged", tuple(kind for kind in _JUDGED if kind in self.judged))
