"""Channel graph: what a traced forward couples, read from Torch-Pruning's dependency graph.

Torch-Pruning (Fang et al. 2023, arXiv 2301.12900) takes every operation that it does not know for an elementwise one.
So only operations that are known to keep channels apart are let through here.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from dataclasses import replace
from types import ModuleType
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from lightning_classprune.pruning.slicing import ChannelGroup, Example, mapped, run, tensors
from lightning_classprune.trainer.names import canonical

# Autograd's names of what treats every channel (dimension 1) alone, and of what moves none.
_CHANNELWISE = re.compile(
    r"(Leaky)?Relu|Elu|Gelu|Silu|Mish|Hard(swish|sigmoid|tanh)|Clamp(Min|Max)?|Softplus|Sigmoid|Tanh|Threshold|"
    r"Add|Sub|Mul|Div|Neg|Abs|Pow|Sqrt|Exp|Maximum|Minimum|NativeDropout|"
    r"(MkldnnAdaptive|Adaptive)?(Avg|Max)Pool[23]D(WithIndices)?|Upsample\w+|(Constant|Reflection|Replication)Pad\w+|"
    r"Clone|Alias|ToCopy|Squeeze|Unsqueeze|(Unsafe)?View|ReshapeAlias"
)

#: Autograd's names of what makes one value of many, which keeps channels apart where it stays inside each.
_REDUCTIONS = {"Mean": "a mean", "Sum": "a sum", "Amax": "a maximum", "Amin": "a minimum"}

#: One channel of one layer.
Atom: TypeAlias = tuple[str, int]


class _ModelInput(torch.autograd.Function):
    """Marks the model's input in the graph: what is coupled with it cannot shrink."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return tensor.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


class ChannelGraph:
    """Torch-Pruning's dependency graph of a model that may be changed.

    Args:
        pruning: The package `torch_pruning`.
        model: All of its parameters with gradients.
        example: Input for one forward.

    Raises:
        ValueError: The forward fails on the example.
    """

    def __init__(self, pruning: ModuleType, model: nn.Module, example: Example) -> None:
        self.pruning, self.model = pruning, model
        self.names = {module: name for name, module in model.named_modules()}
        self.written = {name: m for m, name in self.names.items() if _writes(m)}
        self.layers = {name: m for name, m in self.written.items() if not isinstance(m, _BatchNorm)}
        owners = Counter(id(p) for m in self.names for p in m.parameters(recurse=False))
        self.shared = {id(p) for p in model.parameters() if owners[id(p)] > 1}
        self.outputs: list[Tensor] = []
        marked = mapped(example, lambda t: _ModelInput.apply(t.requires_grad_(True)))
        self.graph = pruning.DependencyGraph()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.graph.build_dependency(model, marked, forward_fn=self._forward, verbose=False)
        except Exception as error:
            recurrent = [
                canonical(n) for m, n in self.names.items() if isinstance(m, nn.RNNBase | nn.RNNCellBase)
            ]
            raise ValueError(
                f"channels cannot be followed through recurrent layers ({', '.join(recurrent)}); their single weights "
                "can be pruned: granularity='weight'"
                if recurrent
                else f"the network could not be traced on the example input: {type(error).__name__}: {error}"
            ) from error

    def _forward(self, model: nn.Module, example: Example) -> list[Tensor]:
        output = run(model, example)
        self.outputs = [t for t in tensors(output) if t.grad_fn is not None]
        if not self.outputs:
            raise ValueError("the output does not depend on any parameter")
        return self.outputs

    def groups(self, stays: dict[str, str]) -> list[ChannelGroup]:
        """All groups, before they are tried; why a layer is in none goes into `stays`."""
        ends = {t.grad_fn for t in self.outputs}
        for layer, module in list(self.layers.items()):
            if module not in self.graph.module2node:
                stays[layer] = "the forward does not reach it"
                del self.layers[layer]
        coupled = _Coupled()
        refused: dict[Atom, str] = {}
        read: list[tuple[str, int, Atom]] = []  # layer, column, channel
        for layer, module in self.layers.items():
            size = _width(module)
            if all((layer, i) in coupled.seen for i in range(size)):
                continue
            prune = self.graph.get_pruner_of_module(module).prune_out_channels
            # One channel is followed quickly; all of them can take minutes through a network that must stay anyway.
            for indices in ([0], list(range(size))):
                found = self.graph.get_pruning_group(module, prune, indices)
                reasons = [self._follow(item, layer, coupled, read, ends) for item in found]
                refused |= {(layer, i): why for why in reasons if why for i in range(size)}
                if (layer, 0) in refused:
                    break
        whys = {coupled.find(atom): why for atom, why in refused.items()}
        return self._plain(coupled, whys, read, stays)

    def _follow(
        self, item: Any, layer: str, coupled: _Coupled, read: list[tuple[str, int, Atom]], ends: set[Any]
    ) -> str | None:
        """Note what one node does to the channels of a layer; why they must stay, or None."""
        dep, indices = item
        node, module = dep.target, dep.target.module
        name = self.names.get(module, "")
        writes = _writes(module) and self.graph.is_out_channel_pruning_fn(dep.handler)
        reads = not writes and isinstance(module, nn.Linear | _ConvNd)
        if any(root is None for root in item.root_idxs):
            return f"the channels of {_title(node, name)} could not be followed"
        width = _width(module, 0 if writes else 1)
        if (writes or reads) and any(i >= width * (_parts(module) if reads else 1) for i in indices):
            return f"{name} does not have a channel for each of these"
        for index, root in zip(indices, item.root_idxs, strict=True):
            if writes:
                coupled.join((layer, root), (name, index))
                coupled.seen.add((name, index))
                if _parts(module) > 1:
                    # The parts of a grouped convolution must stay equal: the same place leaves all of them.
                    coupled.join((name, index % (width // _parts(module))), (name, index))
            elif reads:
                read.append((name, index % width, (layer, root)))
                if _parts(module) > 1:
                    coupled.join((layer, root), (f"{name}, read", index % width))
        return self._barrier(node, set() if reads else ends)

    def _plain(
        self,
        coupled: _Coupled,
        whys: dict[Atom, str],
        read: list[tuple[str, int, Atom]],
        stays: dict[str, str],
    ) -> list[ChannelGroup]:
        writers: dict[Atom, dict[str, None]] = {}  # channel -> convolutions and linear layers that write it
        for name, module in self.layers.items():
            for index in range(_width(module)):
                channel = coupled.find((name, index))
                writers.setdefault(channel, {})[name] = None
                if channel in whys:
                    stays[name] = whys[channel]
        # By what writes them, so that one channel kept in each group leaves no layer empty.
        members: dict[tuple[str, ...], dict[Atom, int]] = {}
        for channel, names in writers.items():
            if channel not in whys:
                numbers = members.setdefault(tuple(names), {})
                numbers[channel] = len(numbers)
        place = {c: (key, number) for key, numbers in members.items() for c, number in numbers.items()}
        made = {key: ChannelGroup(key[0], len(numbers)) for key, numbers in members.items()}

        def note(kind: str, name: str, size: int, index: int, atom: Atom) -> None:
            if (found := place.get(coupled.find(atom))) is not None:
                owners = getattr(made[found[0]], kind).setdefault(canonical(name), torch.full((size,), -1))
                owners[index] = found[1]

        for name, module in self.written.items():
            for field, parameter in module.named_parameters(recurse=False):
                for index in range(len(parameter)):
                    note("outputs", f"{name}.{field}", len(parameter), index, (name, index))
        for name, column, atom in read:
            note("inputs", f"{name}.weight", _width(self.layers[name], 1), column, atom)
        first = Counter(key[0] for key in made)
        return [
            replace(group, name=canonical(key[0] if first[key[0]] == 1 else "+".join(key)))
            for key, group in made.items()
        ]

    def _barrier(self, node: Any, ends: set[Any]) -> str | None:
        """Why channels cannot be taken out of what a node does, or None."""
        kind, types = node.type, self.pruning.ops.OPTYPE
        name = _title(node, self.names.get(node.module, ""))
        if node.grad_fn in ends or kind == types.OUTPUT:
            return "it gives the output of the network"
        if isinstance(node.module, nn.Parameter):
            return "a parameter outside of convolutions, linear layers and BatchNorm takes part"
        if any(id(p) in self.shared for p in node.module.parameters(recurse=False)):
            return f"{name} shares a parameter with another layer"
        if isinstance(node.module, nn.PReLU) and node.module.num_parameters == 1:
            return None
        if isinstance(node.module, nn.Linear | _BatchNorm):
            return None if getattr(node.module, "weight", None) is not None else f"{name} has no weights"
        if isinstance(node.module, _ConvNd):
            conv = node.module
            if conv.transposed:
                return f"{name} is a transposed convolution"
            if conv.groups == conv.out_channels != conv.in_channels and conv.groups > 1:
                return f"{name} sums several channels in every group"
            return None
        if kind == types.CONCAT:
            sizes, parts = node.module.concat_sizes, node.grad_fn.next_functions
            whole = sizes is not None and None not in sizes and len(sizes) == len(parts)
            return None if whole and node.grad_fn._saved_dim == 1 else "a concatenation could not be followed"
        if kind in (types.RESHAPE, types.ELEMENTWISE):
            operation = node.grad_fn.name().partition("Backward")[0]
            if operation in _REDUCTIONS:
                inside = _reduces_inside_channels(node.grad_fn)
                return None if inside else f"{_REDUCTIONS[operation]} is taken over samples or channels"
            if operation == "T" and not node.inputs:  # how a linear layer reads its weight
                return None
            return (
                None
                if _CHANNELWISE.fullmatch(operation)
                else f"{operation or 'an operation'} may mix channels"
            )
        return f"{name} mixes channels, or is not supported"


class _Coupled:
    """Union-find over channels: which must leave together."""

    def __init__(self) -> None:
        self._parents: dict[Atom, Atom] = {}
        self.seen: set[Atom] = set()

    def find(self, atom: Atom) -> Atom:
        """The channel that stands for all that are coupled with this one."""
        parents = self._parents
        while (parent := parents.get(atom, atom)) != atom:
            parents[atom] = atom = parents.get(parent, parent)
        return atom

    def join(self, a: Atom, b: Atom) -> None:
        """Couple two channels."""
        a, b = self.find(a), self.find(b)
        if a != b:
            self._parents[b] = a


def _reduces_inside_channels(step: Any) -> bool:
    """Whether a reduction leaves samples (dimension 0) and channels (dimension 1) as they are."""
    sizes = getattr(step, "_saved_self_sym_sizes", None)
    rank = step._saved_self.ndim if sizes is None else len(sizes)
    # Negative dimensions are saved as unsigned numbers; without any, all are reduced.
    dims = getattr(step, "_saved_dim", None) or ()
    return bool(dims) and all((d if d < rank else d - 2**64 + rank) >= 2 for d in dims)


def _parts(module: nn.Module) -> int:
    """Parts of a grouped convolution that are not single channels."""
    if not isinstance(module, _ConvNd) or module.groups == module.in_channels == module.out_channels:
        return 1
    return module.groups


def _writes(module: Any) -> bool:
    return (
        isinstance(module, nn.Linear | _ConvNd | _BatchNorm) and getattr(module, "weight", None) is not None
    )


def _width(module: Any, dim: int = 0) -> int:
    """Size of a layer's weight: what it writes along dimension 0, what it reads along dimension 1."""
    weight = getattr(module, "weight", None)
    return int(weight.shape[dim]) if weight is not None and weight.ndim > dim else 0


def _title(node: Any, name: str) -> str:
    return f"{name} ({type(node.module).__name__})" if name else type(node.module).__name__.strip("_")
