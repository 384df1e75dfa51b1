"""Folding: similar channels of a network become one, without data, as an alternative to taking channels out.

Model folding (Wang et al. 2025, arXiv 2502.10216): the rows that write a channel are put into groups by k-means, each
group becomes one channel with their mean, and what reads the channels reads their sum. Here a convolution and the
BatchNorm behind it are one row, coupled channels of several layers are grouped together, and where the operations
between allow a positive factor to pass (ReLU does), rows are compared by their directions alone. That channels with
equal rows can become one without a trace, and that factors pass, is tried on the network, not read off its layers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from lightning_classprune.export.clusters import k_means
from lightning_classprune.pruning.channels import disturb, find_channels, same_outputs
from lightning_classprune.pruning.slicing import ChannelGroup, Example, mapped, moved, run, slice_channels
from lightning_classprune.trainer.names import canonical
from lightning_classprune.trainer.randomness import untouched_randomness

T = TypeVar("T")

_TRIALS = 3


@dataclass(frozen=True)
class Folded:
    """What became of a network.

    Attributes:
        merged: First layer that writes the channels -> how many are left, and how many there were.
        stays: Layers whose channels cannot be merged, and why.
    """

    merged: dict[str, tuple[int, int]]
    stays: dict[str, str]


def check_fold(fold: float, model: nn.Module) -> None:
    """Refuse what cannot be asked for.

    Raises:
        ValueError: `fold` is out of range, or a weight is not finite.
    """
    is_number = type(fold) is int and fold >= 1
    if not is_number and not (type(fold) is float and 0 < fold < 1):
        raise ValueError(
            f"fold={fold!r} is out of range: channels to leave in each group, a whole number of 1 or more, or a share "
            "of them between 0 and 1"
        )
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError(
                f"{canonical(name)} has values that are not finite; a network with these is not folded"
            )


def fold_channels(
    model: nn.Module, example: Example, fold: float, *, multiple: int = 1, seed: int = 0
) -> Folded:
    """Merge similar channels of a network, in place.

    Args:
        model: The network, in eval mode on the CPU, in float64.
        example: Input for one forward, in float64.
        fold: Channels to leave in each group of coupled ones: a number, or a share of them below 1.
        multiple: What is left is rounded up to multiples of it.
        seed: Of k-means.

    Raises:
        ValueError: Nothing can be merged; the message names the layers and why.
    """
    found = find_channels(model, example)
    stays = dict(found.stays)
    with untouched_randomness(), torch.no_grad():
        torch.manual_seed(seed)
        network = _Network(model, example)
        # On one of them activations may be silent by chance, and then hide what is wrong.
        trials = [network.disturbed() for _ in range(_TRIALS)]
        groups = found.groups
        for trial in trials:
            groups = trial.mergeable(groups, stays)
        passing = groups
        for trial in trials:
            passing = trial.passing(passing)
        by_direction = {group.name for group in passing}
        kept = {}
        for place, group in enumerate(groups):
            left = round(fold * group.size) if isinstance(fold, float) else fold
            left = min(group.size, -(-max(left, 1) // multiple) * multiple)
            if left < group.size:
                kept[group.name] = network.merge(group, left, group.name in by_direction, seed + place)
        if not kept:
            whys = "; ".join(f"{name}: {why}" for name, why in stays.items())
            widest = max((group.size for group in groups), default=0)
            raise ValueError(
                f"fold={fold!r} merges nothing: "
                + (f"no group of channels is wider than that, the widest has {widest}" if widest else whys)
            )
        merged = [group for group in groups if group.name in kept]
        slice_channels(model, merged, kept)
    return Folded({g.name: (int(kept[g.name].sum()), g.size) for g in merged}, stays)


@torch.no_grad()
def estimate_batchnorm(model: nn.Module, data: Iterable[Example]) -> int:
    """Measure the running statistics of every BatchNorm anew, in place; how many there are.

    Args:
        model: The network, in eval mode; all else in it stays so.
        data: Inputs of forwards, each of several samples.

    Raises:
        ValueError: There are no data, or a forward fails.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    before = [(norm.momentum, copy.deepcopy(norm.num_batches_tracked)) for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a mean over all batches
        norm.train()
    number = 0
    try:
        with untouched_randomness():
            for example in data:
                run(model, moved(example, device))
                number += 1
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise ValueError(
            f"data: the forward fails on batch {number}: {type(error).__name__}: {error}; give inputs of the model, "
            "each of several samples"
        ) from error
    finally:
        for norm, (momentum, batches) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, batches
            norm.eval()
    if not number:
        raise ValueError("data is empty: give batches of inputs, or None")
    return len(norms)


class _Network:
    """A network whose channels are merged.

    Every BatchNorm that only follows one convolution is rewritten, with the same function: its gain goes into the
    convolution, so that rows can be compared and averaged; its variance is that of the new output, so that statistics
    which are measured anew give the merged channel the spread that it should have.
    """

    def __init__(self, model: nn.Module, example: Example, pairs: dict[str, str] | None = None) -> None:
        self.model, self.example = model, example
        self.layers: dict[str, Any] = {
            canonical(name): module
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear | _ConvNd | _BatchNorm)
        }
        #: BatchNorm -> the layer whose output it alone takes.
        self.pairs = self._found_pairs() if pairs is None else pairs
        for norm, layer in self.pairs.items():
            self._rewrite(self.layers[layer], self.layers[norm])

    def disturbed(self) -> _Network:
        """A copy with noise on all weights, in which no zero hides anything, on noise."""
        twin = copy.deepcopy(self.model)
        disturb(twin)
        return _Network(twin, mapped(self.example, torch.randn_like), self.pairs)

    # -- what can be done, tried --

    def mergeable(self, groups: list[ChannelGroup], stays: dict[str, str]) -> list[ChannelGroup]:
        """The groups whose channels, where they are equal, become one without a trace; the others go to `stays`."""
        sound = _sound([group for group in groups if group.inputs], self._merges)
        names = {group.name for group in sound}
        for group in groups:
            if group.name not in names:
                why = "equal channels of it cannot become one without a trace"
                stays |= {n: why for n in _layers(group) if not isinstance(self.layers[n], _BatchNorm)}
        return sound

    def _merges(self, groups: list[ChannelGroup]) -> bool:
        twin = self._copy()
        kept = {}
        if any(
            _places(owner, group.size) is None
            for group in groups
            for owner in (*group.outputs.values(), *group.inputs.values())
        ):
            return False
        for group in groups:
            even = torch.arange(group.size) // 2 * 2
            for tensor, places, _ in twin._written(group):
                tensor[places] = tensor[places][even]
        equal = copy.deepcopy(twin.model)
        for group in groups:
            kept[group.name] = twin._join(group, torch.arange(group.size) // 2, torch.ones(group.size))
        try:
            slice_channels(twin.model, groups, kept)
            return same_outputs(run(equal, self.example), run(twin.model, self.example), 1e-9)
        except (RuntimeError, ValueError, IndexError):
            return False

    def passing(self, groups: list[ChannelGroup]) -> list[ChannelGroup]:
        """The groups whose channels may be written smaller by positive factors, and read larger, without a trace."""
        expected = run(self.model, self.example)

        def pass_through(groups: list[ChannelGroup]) -> bool:
            twin = self._copy()
            for group in groups:
                twin._scale(group, 0.5 + torch.rand(group.size, dtype=torch.float64))
            return same_outputs(expected, run(twin.model, self.example), 1e-9)

        bare = {
            n for n, layer in self.layers.items() if isinstance(layer, _BatchNorm) and n not in self.pairs
        }
        return _sound([group for group in groups if not bare & set(_layers(group))], pass_through)

    def _copy(self) -> _Network:
        twin = copy.copy(self)
        twin.model = copy.deepcopy(self.model)
        twin.layers = {
            canonical(name): module
            for name, module in twin.model.named_modules()
            if canonical(name) in self.layers
        }
        return twin

    # -- merging --

    def merge(self, group: ChannelGroup, k: int, by_direction: bool, seed: int) -> Tensor:
        """Merge the channels of a group into at most `k`, in place; which channels hold them, the others being idle."""
        rows = self._rows(group)
        if by_direction:
            norms = rows.norm(dim=1)
            norms[norms == 0] = 1.0
            self._scale(group, norms)
            rows = rows / norms[:, None]
        # How much of a channel is read: what errors of it cost.
        read = torch.zeros(group.size, dtype=torch.float64)
        for name, owner in group.inputs.items():
            columns = self._parameter(name).transpose(0, 1)[_some_places(owner, group.size)]
            read += columns.reshape(group.size, -1).square().sum(1)
        clusters = torch.from_numpy(k_means(rows.numpy(), read.numpy(), k, seed))
        return self._join(group, clusters, read)

    def _rows(self, group: ChannelGroup) -> Tensor:
        """What writes each channel, layer by layer, each layer with the same total size."""
        blocks = []
        for name in _layers(group):
            layer = self.layers[name]
            places = _some_places(group.outputs[f"{name}.weight"], group.size)
            if isinstance(layer, _BatchNorm):
                if name in self.pairs:
                    continue
                parts = [layer.weight.data, *([] if layer.bias is None else [layer.bias.data])]
            else:
                norm = next((self.layers[n] for n, of in self.pairs.items() if of == name), None)
                shift = torch.zeros(len(layer.weight), dtype=torch.float64)
                if layer.bias is not None:
                    shift = shift + layer.bias
                if norm is not None:
                    shift = shift - norm.running_mean + (0 if norm.bias is None else norm.bias)
                parts = [layer.weight.data, shift]
            block = torch.cat([part[places].reshape(group.size, -1) for part in parts], dim=1)
            size = float(block.norm())
            blocks.append(block / size if size else block)
        return torch.cat(blocks, dim=1)

    def _join(self, group: ChannelGroup, clusters: Tensor, weights: Tensor) -> Tensor:
        """Make one channel of each cluster, in place: the mean of what writes it, the sum of what reads it."""
        number = int(clusters.max()) + 1
        member = (clusters == torch.arange(number)[:, None]).double()
        first = member.argmax(dim=1)
        # A cluster of which nothing is read has a plain mean.
        shares = member * weights
        shares = torch.where(shares.sum(1, keepdim=True) > 0, shares, member)
        shares = shares / shares.sum(1, keepdim=True)
        for tensor, places, is_variance in self._written(group):
            rows = tensor[places].flatten(1)
            mean = (shares @ rows.sqrt()).square() if is_variance else shares @ rows
            tensor[places[first]] = mean.view(number, *tensor[places].shape[1:])
        for name in _layers(group):
            if name in self.pairs:
                _identity_gain(self.layers[name])
        for name, owner in group.inputs.items():
            columns = self._parameter(name).transpose(0, 1)
            places = _some_places(owner, group.size)
            summed = member @ columns[places].flatten(1)
            shape = columns[places].shape[1:]
            columns[places] = 0
            columns[places[first]] = summed.view(number, *shape)
        kept = torch.zeros(group.size, dtype=torch.bool)
        kept[first] = True
        return kept

    def _scale(self, group: ChannelGroup, factors: Tensor) -> None:
        """Write each channel smaller by its factor, and read it larger, in place."""
        for tensor, places, is_variance in self._written(group):
            by = factors.square() if is_variance else factors
            tensor[places] = tensor[places] / by.view(-1, *[1] * (tensor[places].ndim - 1))
        for name in _layers(group):
            if name in self.pairs:
                _identity_gain(self.layers[name])
        for name, owner in group.inputs.items():
            columns = self._parameter(name).transpose(0, 1)
            places = _some_places(owner, group.size)
            columns[places] = columns[places] * factors.view(-1, *[1] * (columns[places].ndim - 1))

    def _written(self, group: ChannelGroup) -> list[tuple[Tensor, Tensor, bool]]:
        """What writes the channels: tensors, the places of each channel in them, and whether they are variances."""
        found: list[tuple[Tensor, Tensor, bool]] = []
        for name, owner in group.outputs.items():
            places = _some_places(owner, group.size)
            found.append((self._parameter(name), places, False))
            layer = self.layers[name.rpartition(".")[0]]
            if isinstance(layer, _BatchNorm) and name.endswith(".weight") and layer.running_mean is not None:
                assert layer.running_var is not None
                found += [(layer.running_mean, places, False), (layer.running_var, places, True)]
        return found

    def _parameter(self, name: str) -> Tensor:
        layer, _, field = name.rpartition(".")
        tensor: Tensor = getattr(self.layers[layer], field).data
        return tensor

    # -- BatchNorm behind convolutions --

    def _found_pairs(self) -> dict[str, str]:
        """Each BatchNorm behind one convolution or linear layer, whose output nothing else takes."""
        outputs: dict[int, str] = {}
        calls: dict[str, int] = {}
        pairs: dict[str, str] = {}
        held = []  # as long as these are, no other tensor has their ids

        def note(name: str) -> Any:
            def hook(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
                calls[name] = calls.get(name, 0) + 1
                held.append((inputs, output))
                if not isinstance(layer, _BatchNorm):
                    outputs[id(output)] = name
                elif (before := outputs.get(id(inputs[0]))) is not None:
                    pairs[name] = before

            return hook

        hooks = [layer.register_forward_hook(note(name)) for name, layer in self.layers.items()]
        expected = run(self.model, self.example)
        for hook in hooks:
            hook.remove()
        pairs = {
            norm: layer
            for norm, layer in pairs.items()
            if calls[norm] == calls[layer] == list(pairs.values()).count(layer) == 1
            and self.layers[norm].running_mean is not None
            and self.layers[norm].weight is not None
        }

        def rewrite(norms: list[str]) -> bool:
            twin = self._copy()
            for norm in norms:
                self._rewrite(twin.layers[pairs[norm]], twin.layers[norm])
            return same_outputs(expected, run(twin.model, self.example), 1e-9)

        # The outputs of these convolutions become others.
        return {norm: pairs[norm] for norm in _sound(list(pairs), rewrite)}

    def _rewrite(self, layer: Any, norm: Any) -> None:
        gain = norm.weight / (norm.running_var + norm.eps).sqrt()
        layer.weight.mul_(gain.view(-1, *[1] * (layer.weight.ndim - 1)))
        if layer.bias is not None:
            layer.bias.mul_(gain)
        norm.running_mean.mul_(gain)
        norm.running_var.copy_(norm.weight.square())
        _identity_gain(norm)


def _sound(items: list[T], holds: Callable[[list[T]], bool]) -> list[T]:
    """Those for which something holds; tried for all together first."""
    return items if holds(items) else [one for one in items if holds([one])]


def _identity_gain(norm: Any) -> None:
    norm.weight.copy_((norm.running_var + norm.eps).sqrt())


def _layers(group: ChannelGroup) -> list[str]:
    """The layers that write the channels."""
    return [name.removesuffix(".weight") for name in group.outputs if name.endswith(".weight")]


def _places(owner: Tensor, size: int) -> Tensor | None:
    """By channel, the places at which it stands, in order; None where one stands more often than another."""
    counts = torch.bincount(owner[owner >= 0], minlength=size)
    if not len(counts) or bool((counts != counts[0]).any()) or int(counts[0]) == 0:
        return None
    return owner.argsort(stable=True)[int((owner < 0).sum()) :].view(size, -1)


def _some_places(owner: Tensor, size: int) -> Tensor:
    places = _places(owner, size)
    assert places is not None  # `mergeable` has seen to it
    return places
