"""Snapshots: capture and restore everything that training mutates.

A snapshot is plain dicts of CPU tensors and primitives. It never aliases live state: what `state_dict()` of an
optimizer or a scheduler returns is live, so everything is copied when captured and again when restored.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor, nn

from lightning_classprune.trainer.names import canonical
from lightning_classprune.trainer.sharding import copied, laid_out, local, reshard

Tensors = dict[str, Tensor]
TrainingState = dict[str, Any]


def copy_state(state: Any) -> Any:
    """A copy without aliases, tensors on the CPU, containers as the plain ones that `weights_only` loads."""
    if isinstance(state, Tensor):
        return copied(state)
    if isinstance(state, Counter):
        return Counter(state)
    if isinstance(state, dict):
        return {k: copy_state(v) for k, v in state.items()}
    if isinstance(state, list | deque):
        return [copy_state(v) for v in state]
    if isinstance(state, set | frozenset):
        return set(state)
    if isinstance(state, tuple):
        return tuple(copy_state(v) for v in state)
    return state


def capture_tensors(module: nn.Module) -> Tensors:
    """All parameters and buffers by canonical name, copied to the CPU; shards stay shards."""
    return {name: local(t).to("cpu", copy=True) for name, t in _named_tensors(module)}


def capture_buffers(module: nn.Module) -> Tensors:
    """All buffers by canonical name, copied to the CPU."""
    return {canonical(name): b.detach().to("cpu", copy=True) for name, b in module.named_buffers()}


def restore_buffers(module: nn.Module, buffers: Tensors) -> None:
    """Write captured buffers back, as `restore_tensors` does."""
    for name, buffer in list(module.named_buffers()):
        _write_back(module, buffer, buffers[canonical(name)])


@torch.no_grad()
def restore_tensors(module: nn.Module, tensors: Tensors) -> None:
    """Write a capture back into the same storage; a buffer whose shape is another by now gets one of its own.

    A buffer that came later (code that makes it when it sees the first batch) stays as it is, and a warning says so.

    Raises:
        RuntimeError: The module has other parameters than when it was captured, or lacks a buffer; nothing is written
            then.
    """
    live = dict(_named_tensors(module))
    buffers = {canonical(name) for name, _ in module.named_buffers()}
    reshaped = {n for n in live.keys() & tensors.keys() if local(live[n]).shape != tensors[n].shape}
    later = (live.keys() - tensors.keys()) & buffers
    differing = sorted((live.keys() ^ tensors.keys()) - later) or sorted(reshaped - buffers)
    if differing:
        raise RuntimeError(
            f"cannot rewind: the module's tensors changed during training: {', '.join(differing)}; let the module have "
            "all its parameters and buffers before the first batch (in __init__ or configure_model)"
        )
    if later:
        rank_zero_warn(
            f"buffers that came during training are not rewound: {', '.join(sorted(later))}; a round begins with what "
            "the one before left in them, unless the module has them before the first batch (in __init__)"
        )
    for name, tensor in tensors.items():
        _write_back(module, live[name], tensor)


def _write_back(module: nn.Module, live: Tensor, captured: Tensor) -> None:
    """Into the same storage; a buffer of another shape is replaced wherever the module has it."""
    if local(live).shape == captured.shape:
        local(live).copy_(captured)
        return
    new = captured.to(live.device, copy=True)
    for part in module.modules():
        for name in [name for name, one in part.named_buffers(recurse=False) if one is live]:
            setattr(part, name, new)


def _named_tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    reshard(module)
    return [(canonical(n), t) for n, t in (*module.named_parameters(), *module.named_buffers())]


def capture_trainable(module: nn.Module) -> dict[str, bool]:
    """Which parameters train and which BatchNorms keep statistics: a fine-tuning callback freezes both."""
    parameters = {canonical(n): p.requires_grad for n, p in module.named_parameters()}
    norms = {canonical(n): m.track_running_stats for n, m in module.named_modules() if _has_statistics(m)}
    return parameters | norms


def restore_trainable(module: nn.Module, trainable: dict[str, bool]) -> None:
    """Freeze and unfreeze as captured."""
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(trainable[canonical(name)])
    for name, submodule in module.named_modules():
        if _has_statistics(submodule):
            submodule.track_running_stats = trainable[canonical(name)]


def _has_statistics(module: nn.Module) -> bool:
    return isinstance(getattr(module, "track_running_stats", None), bool)


def capture_training(trainer: Any) -> TrainingState:
    """Optimizers, learning-rate schedulers, precision (grad scaler) and what is frozen."""
    return {
        "optimizers": [copy_state(o.state_dict()) for o in trainer.optimizers],
        "schedulers": [copy_state(c.scheduler.state_dict()) for c in trainer.lr_scheduler_configs],
        "precision": copy_state(trainer.precision_plugin.state_dict()),
        "trainable": capture_trainable(trainer.lightning_module),
    }


def restore_training(trainer: Any, state: TrainingState) -> None:
    """Put captured training state back into the live objects.

    Where parameter groups were added since (a fine-tuning callback unfroze a layer), the optimizers are made anew by
    the module's own `configure_optimizers`, with the layers frozen as they were.
    """
    restore_trainable(trainer.lightning_module, state["trainable"])
    if [_layout(o.state_dict()) for o in trainer.optimizers] != [_layout(o) for o in state["optimizers"]]:
        trainer.strategy.setup_optimizers(trainer)
    for optimizer, optimizer_state in zip(trainer.optimizers, state["optimizers"], strict=True):
        _load(optimizer, laid_out(copy_state(optimizer_state), trainer.lightning_module))
    for config, scheduler_state in zip(trainer.lr_scheduler_configs, state["schedulers"], strict=True):
        config.scheduler.load_state_dict(copy_state(scheduler_state))
    if state["precision"]:
        trainer.precision_plugin.load_state_dict(copy_state(state["precision"]))


def _load(optimizer: Any, state: dict[str, Any]) -> None:
    """Load a state; rates that are tensors stay the same ones, on their device, where a captured graph reads them."""
    before = [{k: v for k, v in group.items() if isinstance(v, Tensor)} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, tensors in zip(optimizer.param_groups, before, strict=True):
        for key, tensor in tensors.items():
            group[key] = tensor.copy_(torch.as_tensor(group[key]))


def _layout(optimizer_state: dict[str, Any]) -> list[int]:
    return [len(group["params"]) for group in optimizer_state["param_groups"]]
