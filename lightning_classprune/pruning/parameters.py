"""Which parameters may be pruned, and under which name they are known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TypeAlias

from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import UninitializedParameter

from lightning_classprune.trainer.names import named_parameters

#: Patterns narrow the default selection; a predicate `(name, parameter) -> bool` replaces it.
Prunable: TypeAlias = (
    str | Sequence[str] | Mapping[str, Sequence[str]] | Callable[[str, nn.Parameter], bool] | None
)

_PRUNED_MODULES = (nn.Linear, _ConvNd)


def select_parameters(
    module: nn.Module, prunable: Prunable = None, *, frozen: bool = False
) -> dict[str, nn.Parameter]:
    """Parameters to prune, by canonical name, in the order of the module.

    By default the trainable weights of convolutions and linear layers. A weight that is tied to a module of another
    kind (an embedding, say) is left out.

    Args:
        module: The network.
        prunable: Glob patterns on names that narrow the default: one pattern, a sequence in which a leading `!`
            excludes, or a mapping with `include` and/or `exclude`. Or a predicate over all parameters.
        frozen: Include weights that are frozen now, because a fine-tuning callback will unfreeze them.

    Raises:
        ValueError: A pattern matches nothing, or nothing is left, or what is left cannot be pruned (integer,
            complex or uninitialized).
    """
    if callable(prunable):
        chosen = {name: p for name, p in named_parameters(module).items() if prunable(name, p)}
    else:
        chosen = _narrow(dict(_default(module)), prunable)
        # A frozen weight is not trained to make up for what is cut, so only a predicate may ask for it.
        chosen = {n: p for n, p in chosen.items() if frozen or p.requires_grad or not p.is_floating_point()}
    if not chosen:
        raise ValueError(
            f"prunable={prunable!r} leaves no trainable parameter to prune in {type(module).__name__}; "
            "unfreeze a convolution or linear layer, or name other parameters with `prunable`"
        )
    for name, parameter in chosen.items():
        if isinstance(parameter, UninitializedParameter):
            raise ValueError(
                f"prunable: `{name}` is not initialized; run one batch through the lazy module first"
            )
        if not parameter.is_floating_point():
            raise ValueError(
                f"prunable: `{name}` has dtype {parameter.dtype}; only real floating-point weights can be pruned, "
                f"so exclude it, for example prunable=['!{name}']"
            )
    return chosen


def _default(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    elsewhere = {
        id(p)
        for m in module.modules()
        if not isinstance(m, _PRUNED_MODULES)
        for p in m.parameters(recurse=False)
    }
    weights = {
        id(m.weight)
        for m in module.modules()
        if isinstance(m, _PRUNED_MODULES) and isinstance(m.weight, nn.Parameter)
    }
    for name, parameter in named_parameters(module).items():
        if id(parameter) in weights - elsewhere:
            yield name, parameter


def _narrow(default: dict[str, nn.Parameter], patterns: Prunable) -> dict[str, nn.Parameter]:
    if patterns is None:
        return default
    if isinstance(patterns, str):
        patterns = [patterns]
    if isinstance(patterns, Mapping):
        unknown = set(patterns) - {"include", "exclude"}
        if unknown:
            raise ValueError(f"prunable: unknown key {sorted(unknown)}; allowed are 'include' and 'exclude'")
        include, exclude = _listed(patterns.get("include")) or ["*"], _listed(patterns.get("exclude"))
    elif isinstance(patterns, Sequence):
        patterns = _listed(patterns)
        include = [p for p in patterns if not p.startswith("!")] or ["*"]
        exclude = [p[1:] for p in patterns if p.startswith("!")]
    else:
        raise ValueError(
            f"prunable={patterns!r} is neither patterns nor a predicate (name, parameter) -> bool"
        )
    for pattern in include + exclude:
        if not any(fnmatchcase(name, pattern) for name in default):
            raise ValueError(
                f"prunable: pattern {pattern!r} matches no prunable parameter; there are {', '.join(default)}"
            )
    return {
        name: parameter
        for name, parameter in default.items()
        if any(fnmatchcase(name, p) for p in include) and not any(fnmatchcase(name, p) for p in exclude)
    }


def _listed(patterns: str | Sequence[str] | None) -> list[str]:
    listed = [patterns] if isinstance(patterns, str) else list(patterns or [])
    if not all(isinstance(pattern, str) for pattern in listed):
        raise ValueError(f"prunable: patterns must be strings, got {listed}")
    return listed
