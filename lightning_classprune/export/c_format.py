"""C99 as files to deploy on a microcontroller."""

from __future__ import annotations

from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_classprune.export.artefact import NOT_DECLARED, Artefact, Spec
from lightning_classprune.export.c_bytes import write_bytes
from lightning_classprune.export.c_integers import read_integers
from lightning_classprune.export.c_library import CLibrary
from lightning_classprune.export.c_network import read_steps
from lightning_classprune.export.c_source import Decision, write_source
from lightning_classprune.export.checks import TOLERANCES
from lightning_classprune.export.deployed import Deployed, one_logit
from lightning_classprune.export.onnx_export import make_graph
from lightning_classprune.export.quantization import calibration_facts, quantized
from lightning_classprune.files import write_text
from lightning_classprune.trainer.eval_mode import in_eval_mode


class CFormat:
    """`model.c` and `model.h`, of the compact network; compiled and run here before they are kept.

    In eight bits where there are inputs to calibrate on: it then decides as `int8.onnx` does, and has no verdict.
    """

    name = "c"
    extra = "compact"

    def write(self, rule: Deployed, folder: Path, spec: Spec) -> list[Artefact]:
        """Write both files.

        Raises:
            ValueError: The network is not sequential, or has a layer that C is not written for; the message names it.
        """
        if spec.values != "fp32":
            raise ValueError(f"values={spec.values!r}: the C file stores weights as float; use values='fp32'")
        network = spec.compacted(1).model
        with in_eval_mode(network):
            steps = read_steps(network, rule.normalize(spec.example[:1]))
        with in_eval_mode(rule), torch.no_grad():
            scores = rule.around(network)(spec.example[:1])[0]
        decision, claim = _decision(rule, spec.example, scores), spec.claim
        if spec.int8 is None:
            source = write_source(steps, decision, [claim, _classes(spec)])
        else:
            proto = quantized(make_graph(rule.around(network), spec.example).proto, spec.int8)
            about = [spec.undeclared().claim, _classes(spec)]
            source = write_bytes(steps, read_integers(proto, steps), decision, about)
        code, header = folder / "model.c", folder / "model.h"
        write_text(code, source.code)
        write_text(header, source.header)
        library = CLibrary(code, scores.reshape(1, -1).shape[1])

        def reader(x: Tensor) -> tuple[Tensor, Tensor]:
            found, decided = library(x)
            return found.reshape(-1, *scores.shape[1:]), decided

        facts: dict[str, Any] = {
            "flash": source.flash,
            "ram": source.ram,
            "multiplications": source.multiplications,
        }
        if spec.int8 is None:
            tolerance = TOLERANCES["fp32"]
            return [
                Artefact(code, reader, tolerance, "C99", facts),
                Artefact(header, reader, tolerance, keeps_name=True),
            ]
        facts["calibration"] = calibration_facts(spec.int8)
        return [
            Artefact(code, reader, inf, "C99", facts, NOT_DECLARED),
            Artefact(header, reader, inf, verdict=NOT_DECLARED, keeps_name=True),
        ]


def _classes(spec: Spec) -> str:
    return "Classes: " + ", ".join(f"{i} {name}" for i, name in enumerate(spec.told["class_names"]))


def _decision(rule: Deployed, example: Tensor, scores: Tensor) -> Decision:
    """What stands around the network.

    Raises:
        ValueError: Samples are neither uint8 nor float32.
    """
    if example.dtype not in (torch.uint8, torch.float32):
        raise ValueError(f"example: {example.dtype} has no C input; give uint8 or float32")
    mean, std = (
        (None, None) if rule.normalization is None else (_per_place(v, example) for v in rule.normalization)
    )
    if mean is not None and std is not None and len(mean) != len(std):
        size = example[0].numel()
        mean, std = (np.repeat(v, size // len(v)) for v in (mean, std))
    with torch.no_grad():
        offset = rule.offset(torch.zeros_like(scores)).reshape(-1).numpy()
    threshold = next(iter(rule.thresholds.items()), None)
    if threshold is None and one_logit(scores):
        threshold = (1, 0.0)
    return Decision(example.dtype == torch.uint8, mean, std, offset, threshold)


def _per_place(value: Tensor, example: Tensor) -> np.ndarray:
    """One number a channel where that says all, else one a value of a sample."""
    sample = value.reshape(-1, *[1] * (example.ndim - 2)) if value.ndim == 1 else value
    whole = torch.broadcast_to(sample, example.shape[1:]).reshape(example.shape[1], -1)
    same = bool((whole == whole[:, :1]).all())
    return (whole[:, 0] if same else whole.reshape(-1)).contiguous().numpy()
