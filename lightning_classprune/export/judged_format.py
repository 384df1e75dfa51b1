"""The files that the guard judged of a run, bit for bit, each with its own verdict."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_warn

from lightning_classprune import files
from lightning_classprune.export.artefact import Artefact, Spec
from lightning_classprune.export.deployed import Deployed
from lightning_classprune.export.onnx_session import RUNTIME, OnnxFile
from lightning_classprune.ledger.rows import FileVerdict, Row


class JudgedFormat:
    """`int8.onnx`, `fp16.onnx` and `folded.onnx`, where `Files(judged=...)` had the guard judge them.

    Args:
        folder: Where the run keeps them; None finds none.
        row: Of the network that is exported.
        thresholds: By which it is to decide; a file that decides by others is not it.

    Attributes:
        there: Kind -> what the row says of its file, where the file is the one that was judged.
    """

    name = "judged"
    extra = "onnx"

    def __init__(
        self, folder: str | os.PathLike[str] | None, row: Row | None, thresholds: Mapping[int, float]
    ) -> None:
        self._folder = Path(folder) if folder is not None else None
        said = row.get("files", {}) if row is not None else {}
        self._thresholds = json.dumps(dict(thresholds))
        self.there = {kind: one for kind, one in said.items() if self._is_there(one)}
        for kind in sorted(said.keys() - self.there.keys()):
            rank_zero_warn(
                f"the {kind} file that the guard judged, {said[kind]['file']}, is not in {self._folder}, was "
                "changed, or decides by another threshold: it is not exported, and another one would have no verdict"
            )

    def _is_there(self, one: FileVerdict) -> bool:
        if self._folder is None or not one["file"] or Path(one["file"]).name != one["file"]:
            return False
        path = self._folder / one["file"]
        if not path.is_file() or files.sha256(path) != one["sha256"]:
            return False
        return OnnxFile(path).metadata.get("thresholds") == self._thresholds

    def write(self, rule: Deployed, folder: Path, spec: Spec) -> list[Artefact]:
        """Copy them.

        Raises:
            ValueError: A file does not take the example.
        """
        written = []
        for kind, one in self.there.items():
            assert self._folder is not None
            path = folder / f"{kind}.onnx"
            shutil.copyfile(self._folder / one["file"], path)
            reader = OnnxFile(path)
            try:
                reader(spec.example[:1])
            except Exception as error:  # onnxruntime's exceptions have no common base of their own
                raise ValueError(
                    f"{one['file']} does not take the example {tuple(spec.example.shape)}, {spec.example.dtype}; give "
                    f"inputs as the judged file takes them: {str(error).splitlines()[0]}"
                ) from error
            facts: dict[str, Any] = {
                "declared": True,
                "reason": one["reason"],
                "counts": dict(one["classes"]),
            }
            facts |= {"calibration": one["calibration"]} if one["calibration"] else {}
            written.append(Artefact(path, reader, inf, RUNTIME, facts, one["verdict"]))
        return written
