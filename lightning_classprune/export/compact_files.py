"""Files of compact networks: packed like tickets, without pickle; the network's own class is filled in smaller."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from lightning_classprune.export.compact import Compacted
from lightning_classprune.pruning.slicing import fit_layer
from lightning_classprune.tickets.loading import warn_of_offsets
from lightning_classprune.tickets.ticket_file import read_ticket, save_ticket

_FORMAT = "lightning-classprune compact 1"


def save_compact(path: str | os.PathLike[str], compacted: Compacted, card: Mapping[str, Any]) -> None:
    """Write weights and buffers of the smaller network, its report and a card, packed, whole or not at all.

    Args:
        path: The file, usually `*.safetensors`.
        compacted: What `compact` returned.
        card: What the reader is to know; JSON values.

    Raises:
        ValueError: The card is not made of JSON values.
    """
    state = compacted.model.state_dict()
    masks = {name: t.detach() != 0 for name, t in state.items() if t.is_floating_point() and t.ndim > 1}
    save_ticket(path, state, masks, card={"format": _FORMAT, "card": dict(card), "report": compacted.report})


def load_compact(path: str | os.PathLike[str], model: nn.Module) -> tuple[nn.Module, dict[str, Any]]:
    """Fill a new network of the full size from a file: its layers shrink to what is stored.

    Args:
        path: A file of `save_compact`.
        model: A network of the class and arguments of the one that was made compact; it is changed.

    Returns:
        The same network in eval mode, and `{"card": ..., "report": ...}`; a warning says which decision offsets it
        was judged with.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not whole or of another kind, or the network does not fit: the message names the first
            difference. The network is not changed then.
    """
    told = fill_from_compact(path, model)
    warn_of_offsets(path, told["card"])
    return model, told


def fill_from_compact(path: str | os.PathLike[str], model: nn.Module) -> dict[str, Any]:
    """As `load_compact`, for a caller that looks after the offsets itself; the card and the report."""
    ticket = read_ticket(path)
    state, told = ticket.state, ticket.card
    if told.get("format") != _FORMAT:
        raise ValueError(
            f"{os.fspath(path)} is no compact network; write it with save_compact, and load a ticket with load_ticket"
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
    model.eval()
    return {"card": told["card"], "report": told["report"]}


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
