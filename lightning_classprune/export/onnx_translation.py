"""A module as an ONNX graph, by torch's exporter, with a free batch size and without the exporter's notes."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from lightning_classprune.export.deployed import Deployed
from lightning_classprune.trainer.versions import check_onnx_exporter


def translate(deployed: Deployed, example: Tensor) -> Any:
    """Return the graph of a module in eval mode, with dense weights, as an `onnx.ModelProto`.

    The input is `input` `(batch, ...)`, in the shape and type of `example` `(n, ...)`; the outputs are `scores` and,
    if the module decides, `decision`.

    Raises:
        ValueError: The module does something that ONNX cannot express; names the operator. Torch is too old.
    """
    check_onnx_exporter()
    # torch.export takes a batch of one for a constant, so trace with two.
    traced = example[:1].expand(2, *example.shape[1:]).contiguous()
    try:
        program = torch.onnx.export(
            deployed,
            (traced,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=["input"],
            output_names=["scores", "decision"] if deployed.decides else ["scores"],
            verbose=False,
        )
    except Exception as error:
        raise ValueError(f"the model cannot be written as ONNX: {_reason(error)}") from error
    assert program is not None
    proto = program.model_proto
    _strip(proto.graph)
    return proto


def _reason(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    operator = re.search(r"op='([\w.:]+)'", str(error))
    if operator:
        return f"it has no operator for {operator[1]}"
    return str(error).strip().split("\n")[0]


def _strip(graph: Any) -> None:
    """Drop what the exporter notes for debugging: stack traces with the author's paths, tens of kilobytes."""
    del graph.value_info[:], graph.metadata_props[:]
    for part in (*graph.input, *graph.output, *graph.initializer, *graph.node):
        part.doc_string = ""
        del part.metadata_props[:]
