"""A network's C file as this machine's compiler makes it: compiled strictly, loaded, and called sample by sample."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-O2")


class CLibrary:
    """A reader of raw inputs `(N, ...)`, which runs on one CPU thread.

    Args:
        path: The C file; its header lies beside it.
        scores: How many there are of a sample.

    Raises:
        ValueError: There is no C compiler, or it refuses the file.
    """

    def __init__(self, path: Path, scores: int) -> None:
        self._scores = scores
        command = os.environ.get("CC") or next(
            (name for name in ("cc", "gcc", "clang") if shutil.which(name)), None
        )
        if command is None:
            raise ValueError(
                "the C file is checked by compiling it, and there is no C compiler here: install cc, or name one in "
                "the variable CC"
            )
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "model.so"
            done = subprocess.run(
                [*command.split(), *STRICT, "-shared", "-fPIC", str(path), "-o", str(made)],
                capture_output=True,
                text=True,
            )
            if done.returncode:
                raise ValueError(f"{command} refuses {path.name}: {done.stderr.strip()[:500]}")
            self._decide: Any = ctypes.CDLL(str(made)).model_decide
        self._decide.argtypes, self._decide.restype = [ctypes.c_void_p, ctypes.c_void_p], ctypes.c_int

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores `(N, scores)` and decided classes `(N,)`."""
        x = x.cpu().contiguous()
        scores = torch.empty(len(x), self._scores)
        places = zip(x, scores, strict=True)
        decided = [self._decide(sample.data_ptr(), into.data_ptr()) for sample, into in places]
        return scores, torch.tensor(decided)
