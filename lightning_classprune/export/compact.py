"""Compact: a smaller plain network that computes what a sparse one computes.

A channel leaves when nothing reads it: every layer that reads it has zero weights there, or gets a constant from it,
which is zero or moves into that layer's bias. What cannot leave exactly stays and is reported. Unstructured sparsity
below about 98% leaves hardly a channel without readers; channels that were pruned as wholes all leave. Folding goes
on from there, and is not exact.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils.flop_counter import FlopCounterMode

from lightning_classprune.export.constant_inputs import constant_inputs
from lightning_classprune.export.folding import check_fold, estimate_batchnorm, fold_channels
from lightning_classprune.pruning.channels import find_channels, same_outputs
from lightning_classprune.pruning.masks import Masks, apply_masks
from lightning_classprune.pruning.slicing import (
    ChannelGroup,
    Example,
    cpu_copy,
    mapped,
    moved,
    run,
    slice_channels,
    tensors,
)
from lightning_classprune.trainer.names import canonical, named_parameters
from lightning_classprune.trainer.randomness import untouched_randomness

#: What is said of what the guard did not judge, though it may decide otherwise than the network that it judged.
NOT_DECLARED = "unproven (not declared)"


@dataclass(frozen=True)
class Compacted:
    """A smaller network and what became of the larger one.

    Attributes:
        model: The smaller network, in eval mode.
        kept: Convolutions and linear layers that shrank -> channels they write (kept, before).
        report: Plain numbers for a card: `parameters`, `macs` (a sample) and `nonzero` (weights of convolutions and
            linear layers) as [before, after]; `effective_sparsity`; `collapsed`, layers of which nothing was left to
            read and one idle channel stays; `folded`, constants that moved into a bias; `stays`, layers that cannot
            shrink and why; `difference`, the largest of any output, relative to its largest value. Of folding also
            `merged`, first layers of groups -> channels [left, before]; `batchnorm`, layers that were measured anew;
            and `claim`.
    """

    model: nn.Module
    kept: dict[str, tuple[int, int]]
    report: dict[str, Any]


def compact(
    model: nn.Module,
    example: Example,
    masks: Masks | None = None,
    *,
    multiple: int = 1,
    fold: float | None = None,
    data: Iterable[Example] | None = None,
    seed: int = 0,
) -> Compacted:
    """Take out of a network all channels without which it computes the same; the network is not changed.

    With `fold` similar channels are merged as well, for a network that cannot be trained again. What comes of that
    decides differently, whatever was proven of the network: judge it on data that nothing was chosen by.

    Args:
        model: The network; it is looked at in eval mode.
        example: Input for one forward: a tensor, or the positional or keyword arguments.
        masks: Masks to apply first, by parameter name; by default the zeros of the network count.
        multiple: 1 or more; widths are rounded up to multiples of it, with channels that nothing reads: many runtimes
            are faster with multiples of 4, 8 or 16.
        fold: Channels to leave in each group of coupled ones: a number, or a share of them below 1; None merges none.
        data: Inputs of forwards, each of several samples, on which BatchNorm statistics of the folded network are
            measured anew; without them they are estimated from those that there were.
        seed: Of the k-means that finds similar channels.

    Raises:
        ModuleNotFoundError: Torch-Pruning is not installed.
        ValueError: The masks do not fit, the network cannot be followed on the example, the smaller network does
            not compute the same (beyond rounding), or nothing can be merged.
    """
    if data is not None and fold is None:
        raise ValueError("data: only a folded network is measured anew; give fold as well, or no data")
    if fold is not None:
        check_fold(fold, model)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    reference, example = cpu_copy(model), moved(example, "cpu")
    _apply(masks or {}, reference)
    found = find_channels(reference, example)
    exact = copy.deepcopy(reference).double()
    smaller = copy.deepcopy(exact)
    liveness = _Liveness(smaller, found.groups, constant_inputs(exact, example))
    alive, collapsed = liveness.alive()
    folded = liveness.fold(alive)
    kept = {n: a if fold is not None else _rounded(a, multiple) for n, a in alive.items()}
    slice_channels(smaller, found.groups, kept)
    with untouched_randomness(), torch.no_grad():
        random = mapped(example, torch.randn_like)
        for given in (example, random):
            wide = mapped(given, lambda t: t.double())
            _check(run(exact, wide), lambda wide=wide: run(smaller, wide), 1e-9)
        _as_before(smaller, reference)
        eps = max(torch.finfo(p.dtype).eps for p in reference.parameters())
        difference = max(
            _check(run(reference, given), lambda given=given: run(smaller, given), min(1000 * eps, 0.1))
            for given in (example, random)
        )
    folding, of_folding = None, {}
    if fold is not None:
        smaller.double()
        folding = fold_channels(
            smaller, mapped(example, lambda t: t.double()), fold, multiple=multiple, seed=seed
        )
        _as_before(smaller, reference)
        measured = 0 if data is None else estimate_batchnorm(smaller.to(device), data)
        smaller.cpu()
        of_folding = {
            "merged": {name: list(width) for name, width in folding.merged.items()},
            "batchnorm": measured,
            "claim": NOT_DECLARED,
        }
        with torch.no_grad():
            difference = _difference(run(reference, example), run(smaller, example))
    nonzero, weights = _weights(reference)
    left = _weights(smaller)[0]
    report = {
        "parameters": [sum(p.numel() for p in net.parameters()) for net in (reference, smaller)],
        "macs": [_macs(net, example) for net in (reference, smaller)],
        "nonzero": [nonzero, left],
        "effective_sparsity": 1 - left / weights if weights else 0.0,
        "collapsed": collapsed,
        "folded": folded,
        "stays": found.stays if folding is None else folding.stays,
        "difference": difference,
    }
    return Compacted(smaller.to(device), _widths(reference, smaller), report | of_folding)


class _Liveness:
    """Which channels of a network anything depends on."""

    def __init__(self, model: nn.Module, groups: list[ChannelGroup], constants: dict[str, Tensor]) -> None:
        self.groups = groups
        self.layers = {
            canonical(n): m for n, m in model.named_modules() if isinstance(m, nn.Linear | _ConvNd)
        }
        # By layer: weights that are not zero, as (output, input); whether an input is a constant that can go.
        self.reads: dict[str, Tensor] = {}
        self.goes: dict[str, Tensor] = {}
        self.values: dict[str, Tensor] = {}
        for weight in {name for group in groups for name in group.inputs}:
            name = weight.removesuffix(".weight")
            layer = self.layers[name]
            self.reads[name] = (layer.weight.detach() != 0).reshape(*layer.weight.shape[:2], -1).any(2).cpu()
            width = int(layer.weight.shape[1])
            value = constants.get(name, torch.full((width * getattr(layer, "groups", 1),), float("nan")))
            value = value.cpu().view(-1, width)
            self.values[name] = value = torch.where((value == value[0]).all(0), value[0], float("nan"))
            self.goes[name] = ~value.isnan() if _folds(layer) else value == 0

    def alive(self) -> tuple[dict[str, Tensor], list[str]]:
        """The channels to keep, and the layers of groups that nothing reads, of which the first channel is kept."""
        alive = {group.name: torch.ones(group.size, dtype=torch.bool) for group in self.groups}
        changed = True
        while changed:
            changed = False
            rows = self._rows(alive)
            for group in self.groups:
                needed = torch.zeros(group.size, dtype=torch.bool) if group.inputs else alive[group.name]
                for weight, owner in group.inputs.items():
                    name = weight.removesuffix(".weight")
                    live = self.reads[name][rows[name]].any(0) & ~self.goes[name]
                    needed[owner[live & (owner >= 0)]] = True
                needed = needed & alive[group.name]
                changed |= not torch.equal(needed, alive[group.name])
                alive[group.name] = needed
        empty = [group for group in self.groups if not alive[group.name].any()]
        self.idle = {group.name for group in empty}
        for group in empty:
            alive[group.name][0] = True
        written = {name.removesuffix(".weight") for group in empty for name in group.outputs}
        return alive, [name for name in self.layers if name in written]

    @torch.no_grad()
    def fold(self, alive: dict[str, Tensor]) -> int:
        """Move constants into biases, in place, and cut the idle channels off; the number of constants."""
        folded = 0
        for group in self.groups:
            out = ~alive[group.name]
            if group.name in self.idle:
                out = torch.ones_like(out)
            for weight, owner in group.inputs.items():
                name = weight.removesuffix(".weight")
                layer: Any = self.layers[name]
                columns = (owner >= 0) & out[owner.clamp(min=0)]
                moves = (columns & self.goes[name] & (self.values[name] != 0)).nonzero().view(-1)
                if len(moves):
                    folded += len(moves)
                    kernel = layer.weight.reshape(*layer.weight.shape[:2], -1).sum(2)
                    moves = moves.to(kernel.device)
                    layer.bias += kernel[:, moves] @ self.values[name].to(kernel.device)[moves]
                layer.weight[:, columns.to(layer.weight.device)] = 0
        return folded

    def _rows(self, alive: dict[str, Tensor]) -> dict[str, Tensor]:
        rows = {name: torch.ones(len(reads), dtype=torch.bool) for name, reads in self.reads.items()}
        for group in self.groups:
            for weight, owner in group.outputs.items():
                if (live := rows.get(weight.removesuffix(".weight"))) is not None:
                    live &= (owner < 0) | alive[group.name][owner.clamp(min=0)]
        return rows


def _rounded(alive: Tensor, multiple: int) -> Tensor:
    """Channels to keep, with as many idle ones as a multiple needs."""
    more = -int(alive.sum()) % multiple
    rounded = alive.clone()
    rounded[(~alive).nonzero().view(-1)[:more]] = True
    return rounded


def _folds(layer: Any) -> bool:
    """Whether a constant input adds one number to each output: not where padding brings zeros beside it."""
    if layer.bias is None or getattr(layer, "groups", 1) > 1:
        return False
    return isinstance(layer, nn.Linear) or layer.padding == "valid" or not any(layer.padding)


def _apply(masks: Masks, model: nn.Module) -> None:
    parameters = named_parameters(model)
    for name, mask in masks.items():
        if name not in parameters or parameters[name].shape != mask.shape:
            has = tuple(parameters[name].shape) if name in parameters else "no such parameter"
            raise ValueError(f"masks: `{name}` has shape {tuple(mask.shape)}, the model has {has}")
    apply_masks(masks, parameters)


def _check(expected: Any, compute: Any, tolerance: float) -> float:
    """The largest difference, relative to the largest value of each output."""
    try:
        got = compute()
    except RuntimeError as error:
        raise ValueError(f"the smaller network does not run: {error}; nothing was made") from error
    worst = _difference(expected, got)
    if not same_outputs(expected, got, tolerance):
        raise ValueError(
            f"the smaller network differs by {worst:.2g} of its outputs' size, {tolerance:.2g} is allowed; "
            "an operation of this network is not followed correctly, so nothing was made"
        )
    return worst


def _difference(expected: Any, got: Any) -> float:
    pairs = zip(tensors(expected), tensors(got), strict=True)
    return max(
        (float((a - b).abs().max() / a.abs().max().clamp(min=1e-12)) for a, b in pairs if a.numel()),
        default=0.0,
    )


def _widths(before: nn.Module, after: nn.Module) -> dict[str, tuple[int, int]]:
    """Convolutions and linear layers that shrank -> channels they write (kept, before)."""
    widths = {
        canonical(name): (len(small.weight), len(large.weight))
        for (name, large), small in zip(before.named_modules(), after.modules(), strict=True)
        if isinstance(large, nn.Linear | _ConvNd) and isinstance(small, nn.Linear | _ConvNd)
    }
    return {name: width for name, width in widths.items() if width[0] < width[1]}


@torch.no_grad()
def _as_before(model: nn.Module, reference: nn.Module) -> None:
    """Give parameters and buffers the dtype they had."""
    dtypes = {name: t.dtype for name, t in (*reference.named_parameters(), *reference.named_buffers())}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        tensor.data = tensor.data.to(dtypes[name])


def _weights(model: nn.Module) -> tuple[int, int]:
    """Weights of convolutions and linear layers: those that are not zero, and all."""
    weights = {id(m.weight): m.weight for m in model.modules() if isinstance(m, nn.Linear | _ConvNd)}
    return sum(int((w != 0).sum()) for w in weights.values()), sum(w.numel() for w in weights.values())


def _macs(model: nn.Module, example: Example) -> int:
    """Multiply-adds of one sample."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        output = run(model, example)
    return int(counter.get_total_flops()) // 2 // len(tensors(output)[0])
