"""An exported ONNX file as stock ONNX Runtime runs it, on one CPU thread."""

from __future__ import annotations

import os

import torch
from torch import Tensor

RUNTIME = "ONNX Runtime"


class OnnxFile:
    """A session of ONNX Runtime.

    Args:
        file: One that `export_onnx` wrote, with the outputs `scores` and `decision`, or its content.
    """

    def __init__(self, file: str | os.PathLike[str] | bytes) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    @property
    def metadata(self) -> dict[str, str]:
        """What the file says of itself."""
        told: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        return told

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores and decided classes `(N,)` of inputs `(N, ...)`."""
        scores, decision = self._session.run(["scores", "decision"], {"input": x.cpu().numpy()})
        return torch.from_numpy(scores), torch.from_numpy(decision)
