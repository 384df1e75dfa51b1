"""An exported ONNX file as stock ONNX Runtime runs it, on one CPU thread."""

from __future__ import annotations

import os

import torch
from torch import Tensor

RUNTIME = "ONNX Runtime"


class OnnxFile:
    """A session of ONNX Runtime.

    Args:
        path: A file that `export_onnx` wrote, with the outputs `scores` and `decision`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores and decided classes `(N,)` of inputs `(N, ...)`."""
        scores, decision = self._session.run(["scores", "decision"], {"input": x.cpu().numpy()})
        return torch.from_numpy(scores), torch.from_numpy(decision)
