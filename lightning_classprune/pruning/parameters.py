"""Which parameters may be pruned, and under which name they are known; and which are not, in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TypeAlias

from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import ParametrizationList

from lightning_classprune.trainer.names import named_parameters

#: Patterns narrow the default selection; a predicate `(name, parameter) -> bool` replaces it.
Prunable: TypeAlias = (
    str | Sequence[str] | Mapping[str, Sequence[str]] | Callable[[str, nn.Parameter], bool] | None
)

#: What is pruned by default: the class of a layer, whose subclasses count -> patterns on the names of its parameters,
#: of which those of two or more dimensions are meant -> gates: equal parts along the first dimension that compute
#: different things, so that each is to stay alive. Classes by their import path, for not all are installed everywhere.
LAYERS: dict[str, dict[str, int]] = {
    "torch.nn.modules.linear.Linear": {"weight": 1},
    "torch.nn.modules.linear.Bilinear": {"weight": 1},
    "torch.nn.modules.conv._ConvNd": {"weight": 1},
    "torch.nn.modules.rnn.LSTM": {"weight_hr_*": 1, "weight_*": 4},
    "torch.nn.modules.rnn.GRU": {"weight_*": 3},
    "torch.nn.modules.rnn.RNN": {"weight_*": 1},
    "torch.nn.modules.rnn.LSTMCell": {"weight_*": 4},
    "torch.nn.modules.rnn.GRUCell": {"weight_*": 3},
    "torch.nn.modules.rnn.RNNCell": {"weight_*": 1},
    "torch.nn.modules.activation.MultiheadAttention": {"in_proj_weight": 3, "[qkv]_proj_weight": 1},
    "transformers.pytorch_utils.Conv1D": {"weight": 1},
}

_NAMED = 4  # tensors that stay dense and are told by name


def select_parameters(
    module: nn.Module, prunable: Prunable = None, *, frozen: bool = False
) -> dict[str, nn.Parameter]:
    """Parameters to prune, by canonical name, in the order of the module.

    By default the trainable weights of the layers in `LAYERS`: convolutions, linear, recurrent and attention layers. A
    weight that is tied to a module of another kind (an embedding, say) is left out.

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
            "unfreeze a convolution, linear, recurrent or attention layer, or name other parameters with `prunable`"
        )
    for name, parameter in chosen.items():
        if is_lazy(parameter):
            raise ValueError(
                f"prunable: `{name}` is not initialized; run one batch through the lazy module first"
            )
        if not parameter.is_floating_point():
            raise ValueError(
                f"prunable: `{name}` has dtype {parameter.dtype}; only real floating-point weights can be pruned, "
                f"so exclude it, for example prunable=['!{name}']"
            )
    return chosen


def gates_of(module: nn.Module, parameters: Mapping[str, nn.Parameter]) -> dict[str, int]:
    """How many equal parts along the first dimension of each parameter are to stay alive, by its name."""
    known = {
        id(p): gates
        for layer in module.modules()
        for name, p in layer.named_parameters(recurse=False)
        if (gates := _gates(layer, name, p)) is not None
    }
    found = {name: known.get(id(parameter), 1) for name, parameter in parameters.items()}
    return {
        name: count if count > 1 and parameters[name].shape[0] % count == 0 else 1
        for name, count in found.items()
    }


def _gates(layer: nn.Module, name: str, parameter: nn.Parameter) -> int | None:
    """The gates of a layer's parameter; None if it is not pruned by default."""
    flat = not is_lazy(parameter) and parameter.ndim < 2
    if flat or _stands_for_another(layer, name):
        return None
    for kind in type(layer).__mro__:
        patterns = LAYERS.get(f"{kind.__module__}.{kind.__qualname__}")
        if patterns is not None:
            return next((gates for pattern, gates in patterns.items() if fnmatchcase(name, pattern)), None)
    return None


def _stands_for_another(layer: nn.Module, name: str) -> bool:
    """Whether the layer makes a weight of it: with `weight_norm` and `spectral_norm` of old, `nn.utils.prune`."""
    made, _, suffix = name.rpartition("_")
    return suffix in ("g", "v", "orig") and hasattr(layer, made)


def _default(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    owned = [
        (layer, name, p) for layer in module.modules() for name, p in layer.named_parameters(recurse=False)
    ]
    weights = {id(p) for layer, name, p in owned if _gates(layer, name, p) is not None}
    elsewhere = {id(p) for layer, name, p in owned if _gates(layer, name, p) is None}
    for name, parameter in named_parameters(module).items():
        if id(parameter) in weights - elsewhere:
            yield name, parameter


def tell_coverage(module: nn.Module, prunable: Mapping[str, nn.Parameter]) -> None:
    """Say how much of a network can be pruned, and what stays dense; a warning where that is most of it.

    Args:
        module: The network.
        prunable: What can be pruned, by name.
    """
    whole = {n: p for n, p in named_parameters(module).items() if not is_lazy(p)}
    can, every = sum(p.numel() for p in prunable.values()), sum(p.numel() for p in whole.values())
    dense = {name: p for name, p in whole.items() if name not in prunable}
    told = f"{can:,} of {every:,} weights ({can / every:.1%}) are prunable"
    if dense:
        told += f"; dense stay {_listed_dense(module, dense)}"
    if 2 * can >= every:
        rank_zero_info(told)
        return
    rank_zero_warn(
        f"{told}. Sparsity counts prunable weights only, so most of the network stays as large as it is; a predicate "
        "names others: Cut(prunable=lambda name, parameter: ...)"
    )


def _listed_dense(module: nn.Module, dense: Mapping[str, nn.Parameter]) -> str:
    wide = sorted((n for n, p in dense.items() if p.ndim > 1), key=lambda name: -dense[name].numel())
    shown = [f"{name} ({dense[name].numel():,}, {_why(module, dense[name])})" for name in wide[:_NAMED]]
    if rest := wide[_NAMED:]:
        shown.append(f"{len(rest)} other tensors ({sum(dense[name].numel() for name in rest):,})")
    if flat := [p for p in dense.values() if p.ndim < 2]:
        shown.append(f"biases and other vectors ({sum(p.numel() for p in flat):,})")
    return ", ".join(shown)


def _why(module: nn.Module, parameter: nn.Parameter) -> str:
    """Why a weight stays dense: where it stands, or what keeps it from being pruned there."""
    owners = [
        (layer, name)
        for layer in module.modules()
        for name, p in layer.named_parameters(recurse=False)
        if p is parameter
    ]
    others = [(layer, name) for layer, name in owners if _gates(layer, name, parameter) is None]
    if not others:
        return "not chosen" if parameter.requires_grad else "frozen"
    layer, name = others[0]
    if isinstance(layer, ParametrizationList) or _stands_for_another(layer, name):
        return "parametrized: remove the parametrization to prune it"
    tied = "tied to " if len(others) < len(owners) else ""
    return f"{tied}{type(layer).__name__}"


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
