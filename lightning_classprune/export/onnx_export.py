"""A network as an ONNX file that holds its pruned weights packed and runs in any stock runtime."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from lightning_classprune.export.checks import TOLERANCES
from lightning_classprune.export.deployed import Deployed, Normalization
from lightning_classprune.export.environment import installed_version
from lightning_classprune.export.onnx_packing import pack_weights
from lightning_classprune.export.onnx_translation import translate
from lightning_classprune.files import replacing
from lightning_classprune.pruning.masks import Masks, apply_masks, sparsity
from lightning_classprune.trainer.eval_mode import in_eval_mode
from lightning_classprune.trainer.names import named_parameters

FORMAT = "1"
_CHUNK = 64


@dataclass(frozen=True)
class OnnxReport:
    """What was written, and how far it is from the module on the example.

    Attributes:
        bytes: Size of the file.
        dense_bytes: Size of the same graph with dense fp32 weights.
        max_difference: Largest absolute difference of a score, ONNX Runtime against the module.
        tolerance: What was allowed.
        opset: Version of the standard operators that a runtime must know.
        samples: Number of example samples compared.
        changed_decisions: How many of them are decided otherwise; always 0 with fp32 values.
    """

    bytes: int
    dense_bytes: int
    max_difference: float
    tolerance: float
    opset: int
    samples: int
    changed_decisions: int


def export_onnx(
    model: nn.Module,
    path: str | os.PathLike[str],
    example: Tensor,
    *,
    masks: Masks | None = None,
    values: Literal["fp32", "fp16"] = "fp32",
    normalization: Normalization | None = None,
    thresholds: Mapping[int, float] | None = None,
    offset: nn.Module | None = None,
    metadata: Mapping[str, str] | None = None,
    packed: bool = True,
) -> OnnxReport:
    """Write `model` in eval mode to `path`, compare it with the module on `example`, and keep it only if they agree.

    The graph has the input `input` `(batch, ...)`, the output `scores` and, with thresholds, the output `decision`
    `(batch,)`. The batch is free. Scores may differ by 1e-4 (fp16 values: 1e-2) of the largest score, or of 1 where
    all are smaller; with fp32 no decision may. An existing file is replaced whole, or left as it is after an error.

    Args:
        model: Any module, also a LightningModule, whose forward takes one tensor and returns one tensor of scores.
            Unchanged afterwards, as are its train and eval flags.
        path: The file.
        example: Real inputs `(n, ...)`, n >= 1, of the kind that the file will get: raw ones with `normalization`.
        masks: Parameter name -> bool tensor, True = kept; what is not kept counts as zero.
        values: Type in which the weights are stored; they are computed with in fp32 either way.
        normalization: `(mean, std)` of the input, put into the graph; uint8 input is first divided by 255.
        thresholds: At most one protected class -> its threshold, put into the graph as in `Deployed`; `{}` for the
            plain decision; None for scores only. A threshold that equals a sample's own margin may round to either
            side: put it between two samples.
        offset: A module behind the network, such as `DecisionOffset`, put into the graph as well.
        metadata: Further texts for the file, by key: class names as a JSON list under `class_names`, a verdict, ....
        packed: False writes dense weights: the ordinary file, to compare with.

    Raises:
        ModuleNotFoundError: The packages of the extra `onnx` are missing.
        ValueError: An example, mask, threshold, normalisation or metadata key that does not fit; an operator that
            ONNX cannot express; a file whose outputs differ from the module's.
    """
    if values not in TOLERANCES:
        raise ValueError(f"values={values!r} must be 'fp32' or 'fp16'")
    # Dynamo's wrapper shares the weights of the module that it wraps.
    network = getattr(model, "_orig_mod", model)
    deployed = Deployed(network, normalization, thresholds, offset)
    told = texts(deployed, masks, values, metadata)
    with _masked(network, masks or {}):
        graph = make_graph(deployed, example)
    return write_graph(graph, path, values=values, metadata=told, packed=packed)


@dataclass(frozen=True)
class Graph:
    """What decides, as a graph with dense weights, and what the module makes of the example.

    Attributes:
        proto: The `onnx.ModelProto`; nobody changes it.
        deployed: The module.
        example: Real inputs.
        scores: The module's, of the example.
    """

    proto: Any
    deployed: Deployed
    example: Tensor
    scores: Tensor


def make_graph(deployed: Deployed, example: Tensor) -> Graph:
    """Return a module in eval mode as a graph; its flags are as they were afterwards.

    Raises:
        ModuleNotFoundError: The packages of the extra `onnx` are missing.
        ValueError: It is not in fp32 on the CPU, the example does not fit, or ONNX cannot express it.
    """
    _require_onnx()
    for name, tensor in (*deployed.network.named_parameters(), *deployed.network.named_buffers()):
        if tensor.device.type != "cpu" or (tensor.is_floating_point() and tensor.dtype != torch.float32):
            # A GPU's own rounding (TF32) would be taken for an error of the file.
            raise ValueError(
                f"model: {name!r} is on {tensor.device}, {tensor.dtype}; give a model in fp32 on the CPU: "
                "model.cpu().float()"
            )
    with in_eval_mode(deployed), torch.no_grad():
        scores = _expected(deployed, example)
        return Graph(translate(deployed, example), deployed, example, scores)


def write_graph(
    graph: Graph,
    path: str | os.PathLike[str],
    *,
    values: Literal["fp32", "fp16"] = "fp32",
    metadata: Mapping[str, str],
    packed: bool = True,
) -> OnnxReport:
    """Write a graph as a file, and keep it only if ONNX Runtime decides with it as the module does.

    Args:
        graph: What `make_graph` returned.
        path: The file.
        values: Type in which packed weights are stored.
        metadata: Texts for the file, by key.
        packed: False writes dense weights in fp32.

    Raises:
        ValueError: The file's outputs differ from the module's; what stood at `path` is left as it was.
    """
    import onnx

    proto = onnx.ModelProto()
    proto.CopyFrom(graph.proto)
    dense_bytes = int(proto.ByteSize())
    if packed:
        pack_weights(proto, half=values == "fp16")
    onnx.helper.set_model_props(proto, dict(metadata))
    tolerance = TOLERANCES[values] * max(1.0, float(graph.scores.abs().max()))
    with replacing(path) as part:
        part.write_bytes(proto.SerializeToString())
        onnx.checker.check_model(part, full_check=True)
        difference, changed = _compare(part, graph)
        if not difference <= tolerance:
            raise ValueError(
                f"the ONNX file's scores differ from the module's by {difference:.3g}, more than {tolerance:.3g}; "
                "nothing was written" + (": try values='fp32'" if values == "fp16" else "")
            )
        if changed and values == "fp32":
            raise ValueError(
                f"{changed} of {len(graph.example)} example samples are decided otherwise, though scores differ by at "
                f"most {difference:.3g}: they lie on the border; move the threshold by more than that, between two "
                "samples"
            )
        size = part.stat().st_size
    opset = next(int(entry.version) for entry in proto.opset_import if not entry.domain)
    return OnnxReport(size, dense_bytes, difference, tolerance, opset, len(graph.example), changed)


def _require_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401  (torch's exporter needs the next, the comparison this one)
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        hint = f"ONNX export needs the package {error.name}: pip install 'lightning-classprune[onnx]'"
        raise ModuleNotFoundError(hint, name=error.name) from error


def texts(
    deployed: Deployed, masks: Masks | None, values: str, metadata: Mapping[str, str] | None
) -> dict[str, str]:
    """Return what a file says of itself, by key.

    Raises:
        ValueError: A key of `metadata` that is one of ours, or a value that is no text.
    """
    ours = {
        "format": FORMAT,
        "lightning_classprune": str(installed_version("lightning-classprune")),
        "values": values,
    }
    if masks is not None:
        ours["sparsity"] = str(sparsity(masks))
    if deployed.normalization is not None:
        mean, std = (value.tolist() for value in deployed.normalization)
        ours["normalization"] = json.dumps({"mean": mean, "std": std})
    if deployed.decides:
        ours["thresholds"] = json.dumps(deployed.thresholds)
    for key, text in (metadata or {}).items():
        if key in ours or not isinstance(text, str):
            raise ValueError(
                f"metadata[{key!r}]={text!r}: texts are allowed, under keys other than {sorted(ours)}"
            )
    return {**ours, **(metadata or {})}


@contextmanager
def _masked(network: nn.Module, masks: Masks) -> Iterator[None]:
    """The masks on the network's weights, and then its own weights again."""
    parameters = named_parameters(network)
    for name, mask in masks.items():
        if name not in parameters or parameters[name].shape != mask.shape:
            found = f"has shape {tuple(parameters[name].shape)}" if name in parameters else "does not exist"
            raise ValueError(f"masks[{name!r}] has shape {tuple(mask.shape)}, but that parameter {found}")
    before = {name: parameters[name].detach().clone() for name in masks}
    try:
        apply_masks(masks, parameters)
        yield
    finally:
        with torch.no_grad():
            for name, weight in before.items():
                parameters[name].copy_(weight)


def _chunks(example: Tensor) -> Iterator[Tensor]:
    # A single sample too: a batch that is not free shows as soon as its size changes.
    yield example[:1]
    yield from torch.split(example[1:], _CHUNK) if len(example) > 1 else ()


def _expected(deployed: Deployed, example: Tensor) -> Tensor:
    """The module's scores of all samples."""
    if not isinstance(example, Tensor) or not example.numel() or example.ndim < 2:
        found = tuple(example.shape) if isinstance(example, Tensor) else type(example).__name__
        raise ValueError(f"example: a tensor of at least one input, (n, ...), is needed, got {found}")
    scores = []
    for chunk in _chunks(example):
        try:
            output = deployed(chunk)
        except (RuntimeError, IndexError, TypeError) as error:
            raise ValueError(
                f"example of shape {tuple(example.shape)}, {example.dtype}, does not fit the model: {error}"
            ) from error
        score = output[0] if deployed.decides else output
        if not isinstance(score, Tensor) or len(score) != len(chunk):
            raise ValueError(
                f"the model must return one tensor of scores, (n, ...), got {type(score).__name__}; "
                "wrap it in a module whose forward does"
            )
        scores.append(score)
    return torch.cat(scores)


def _compare(file: Path, graph: Graph) -> tuple[float, int]:
    """Largest difference of a score, and how many samples are decided otherwise."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    scores, decisions, decide = [], [], graph.deployed.decide
    for chunk in _chunks(graph.example):
        try:
            outputs = session.run(None, {"input": chunk.detach().numpy()})
        except Exception as error:  # onnxruntime's exceptions have no common base of their own
            raise ValueError(
                f"ONNX Runtime cannot run the model on a batch of {len(chunk)}; does its forward fix the batch size? "
                f"{error}"
            ) from error
        scores.append(outputs[0])
        decisions.append(
            outputs[1] if graph.deployed.decides else decide(torch.from_numpy(outputs[0])).numpy()
        )
    difference = float(np.abs(np.concatenate(scores) - graph.scores.numpy()).max())
    changed = int((np.concatenate(decisions) != decide(graph.scores).numpy()).sum())
    return difference, changed
