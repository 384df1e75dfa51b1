"""Names of parameters, whatever has wrapped the module."""

from __future__ import annotations

from torch import nn

# Wrappers insert these into the names; masks must survive wrapping, so that a resumed run need not be compiled alike.
_WRAPPER_PREFIXES = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")


def canonical(name: str) -> str:
    """The name of a parameter without what compile, FSDP and activation checkpointing insert."""
    for prefix in _WRAPPER_PREFIXES:
        name = name.replace(prefix, "")
    return name


def named_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """All parameters by canonical name; one that two modules share appears once, under its first name."""
    return {canonical(name): parameter for name, parameter in module.named_parameters()}
