"""Files of compact networks: safetensors, without pickle; the network's own class is filled in smaller."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from lightning_classprune.export.compact import Compacted
from lightning_classprune.files import replacing
from lightning_classprune.pruning.slicing import fit_layer

_FORMAT = "lightning-classprune compact 1"


def save_compact(path: str | os.PathLike[str], compacted: Compacted, card: Mapping[str, Any]) -> None:
    """Write weights and buffers of the smaller network, its report and a card, whole or not at all.

    Args:
        path: The file, usually `*.safetensors`.
        compacted: What `compact` returned.
        card: What the reader is to know; JSON values.

    Raises:
        ValueError: The card is not made of JSON values.
    """
    try:
        told = json.dumps({"card": dict(card), "report": compacted.report}, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"card: {error}; only JSON values can be stored") from error
    # Cloned, because tensors that share memory are refused.
    state = {name: t.detach().cpu().contiguous().clone() for name, t in compacted.model.state_dict().items()}
    with replacing(path) as part:
        save_file(state, part, metadata={"format": _FORMAT, "classprune": told})


def load_compact(path: str | os.PathLike[str], model: nn.Module) -> tuple[nn.Module, dict[str, Any]]:
    """Fill a new network of the full size from a file: its layers shrink to what is stored.

    Args:
        path: A file of `save_compact`.
        model: A network of the class and arguments of the one that was made compact; it is changed.

    Returns:
        The same network in eval mode, and `{"card": ..., "report": ...}`.

    Raises:
        ValueError: The file is not whole or of another kind, or the network does not fit: the message names the first
            difference. The network is not changed then.
    """
    try:
        with safe_open(path, framework="pt") as file:
            told = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{os.fspath(path)} is not a whole safetensors file: {error}") from error
    if told.get("format") != _FORMAT:
        raise ValueError(
            f"{os.fspath(path)} is no compact network (its format is {told.get('format')!r}, not {_FORMAT!r}); "
            "write it with save_compact"
        )
    _check_fits(state, model)
    for layer, module in model.named_modules():
        for name, tensor in (*module.named_parameters(layer, False), *module.named_buffers(layer, False)):
            if name in state and state[name].shape != tensor.shape:
                value = torch.empty(state[name].shape, dtype=tensor.dtype, device=tensor.device)
                fresh = (
                    nn.Parameter(value, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else value
                )
                setattr(module, name.rpartition(".")[2], fresh)
        fit_layer(module)
    model.load_state_dict(state)
    told_parts: dict[str, Any] = json.loads(told["classprune"])
    return model.eval(), told_parts


def _check_fits(state: Mapping[str, Tensor], model: nn.Module) -> None:
    own = model.state_dict()
    for name in sorted(own.keys() ^ state.keys()):
        has, lacks = ("the model", "the file") if name in own else ("the file", "the model")
        raise ValueError(f"`{name}` is in {has} and not in {lacks}; build the model with the same arguments")
    sliced = {
        f"{name}.{field}" if name else field
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | _ConvNd | _BatchNorm)
        for field in ("weight", "bias", "running_mean", "running_var")
    }
    for name, tensor in own.items():
        stored = state[name]
        fits = stored.ndim == tensor.ndim and all(
            a <= b for a, b in zip(stored.shape, tensor.shape, strict=True)
        )
        if stored.shape[2:] != tensor.shape[2:] or not (
            fits if name in sliced else stored.shape == tensor.shape
        ):
            raise ValueError(
                f"`{name}` has shape {tuple(stored.shape)} in the file and {tuple(tensor.shape)} in the model, which "
                "cannot shrink to it; build the model with the same arguments"
            )
