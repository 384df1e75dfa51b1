"""Sparse inference: layers that run faster sparse than dense on this machine, as measured on it, and no others.

On a CPU a linear layer may keep its weight as compressed sparse rows (CSR); on a CUDA device that skips two of four
weights, in torch's semi-structured form. Convolutions stay dense: unfolded to CSR they are slower at any sparsity.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_classprune.export.latency import interleaved
from lightning_classprune.pruning.channels import same_outputs
from lightning_classprune.pruning.masks import Masks, apply_masks
from lightning_classprune.pruning.slicing import Example, run
from lightning_classprune.trainer.names import canonical, named_parameters

_REPEATS = 15
_SECONDS = 1.0  # for one layer and batch
_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Measured:
    """One layer that was timed.

    Attributes:
        layer: Its name.
        form: `"csr"` or `"2:4"`.
        density: Share of its weights that are not zero.
        milliseconds: Rows of the layer's input -> (dense, sparse), the shortest of interleaved runs.
        swapped: Whether the sparse form was faster at every size, computed the same, and took the layer's place.
    """

    layer: str
    form: Literal["csr", "2:4"]
    density: float
    milliseconds: dict[int, tuple[float, float]]
    swapped: bool


class CsrLinear(nn.Module):
    """A linear layer for inference whose weight is kept as compressed sparse rows."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
            self.register_buffer("weight", linear.weight.detach().to_sparse_csr())
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Shapes as of `nn.Linear`: `(..., in_features)` to `(..., out_features)`."""
        weight, bias = self.get_buffer("weight"), self.bias
        rows = x.reshape(-1, self.in_features)
        result = (weight @ rows.T).T
        if isinstance(bias, Tensor):
            result = result + bias
        return result.reshape(*x.shape[:-1], self.out_features)


def sparsify_for_inference(
    model: nn.Module, example: Example, masks: Masks | None = None
) -> tuple[nn.Module, list[Measured]]:
    """Put the sparse form of a linear layer in its place where it is faster here; the network is not changed.

    A layer is timed on the input that it gets from the example and on the first row of that input, the dense and the
    sparse form in turns, and is swapped only if it is faster on both and computes the same. Call it on the machine,
    with the number of threads and the batch that will serve.

    Args:
        model: The network, on the device that will serve.
        example: Input for one forward, with the batch size that will serve.
        masks: Masks to apply first, by parameter name; by default the zeros of the network count.

    Returns:
        The network in eval mode for inference, and what was measured, by layer.

    Raises:
        ValueError: The swapped network does not compute the same within 1e-5 of the outputs' size (one unit of
            rounding of its dtype where that is more).
    """
    dense = copy.deepcopy(model).eval()
    apply_masks(masks or {}, named_parameters(dense))
    sparse = copy.deepcopy(dense)
    table: list[Measured] = []
    eps = max((torch.finfo(p.dtype).eps for p in dense.parameters()), default=0.0)
    tolerance = max(_TOLERANCE, eps)
    with torch.inference_mode():
        inputs = _inputs(dense, example)
        for name, layer in list(sparse.named_modules()):
            if type(layer) is not nn.Linear or name not in inputs or not name:
                continue
            found = _candidate(layer)
            if found is None:
                continue
            form, candidate = found
            sizes = {len(x): x for x in (inputs[name][:1], inputs[name])}
            try:
                times = {rows: _race(layer, candidate, x) for rows, x in sizes.items()}
            except RuntimeError:
                continue  # the device has no kernel for this size
            # A kernel may round otherwise than the dense one does, as TF32 does on a GPU: such a layer stays.
            alike = same_outputs([layer(inputs[name])], [candidate(inputs[name])], tolerance)
            swapped = alike and all(fast < slow for slow, fast in times.values())
            density = float((layer.weight != 0).float().mean())
            table.append(Measured(canonical(name), form, density, times, swapped))
            if swapped:
                sparse.set_submodule(name, candidate)
        expected, got = run(dense, example), run(sparse, example)
    if not same_outputs(expected, got, tolerance):
        raise ValueError("the sparse layers do not compute what the dense ones do; nothing was swapped")
    return sparse, table


def _inputs(model: nn.Module, example: Example) -> dict[str, Tensor]:
    """What every linear layer gets, as `(rows, in_features)`."""
    inputs: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[..., None]:
        def keep(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            inputs[name] = args[0].reshape(-1, args[0].shape[-1])

        return keep

    linears = [(name, m) for name, m in model.named_modules() if type(m) is nn.Linear]
    handles = [m.register_forward_pre_hook(hook(name)) for name, m in linears]
    try:
        run(model, example)
    finally:
        for handle in handles:
            handle.remove()
    return inputs


def _candidate(layer: nn.Linear) -> tuple[Literal["csr", "2:4"], nn.Module] | None:
    """The sparse form of a layer that its device may run faster."""
    weight = layer.weight.detach()
    if weight.device.type == "cpu":
        # With most weights left there is nothing to skip, and only copies to make.
        return ("csr", CsrLinear(layer)) if (weight != 0).float().mean() <= 0.5 else None
    if weight.device.type != "cuda" or torch.cuda.get_device_capability(weight.device) < (8, 0):
        return None
    fours = (weight.reshape(len(weight), -1, 4) != 0).sum(2) if weight.shape[1] % 4 == 0 else None
    if fours is None or bool((fours > 2).any()):
        return None
    candidate = copy.deepcopy(layer)
    try:
        semi = torch.sparse.to_sparse_semi_structured(weight)
    except RuntimeError:
        return None  # the dtype or the shape is not one that the device's kernels take
    candidate.weight = nn.Parameter(semi, requires_grad=False)
    return "2:4", candidate


def _race(dense: nn.Module, sparse: nn.Module, x: Tensor) -> tuple[float, float]:
    """Milliseconds of both, run in turns."""

    def call(layer: nn.Module) -> None:
        layer(x)
        _wait(x)

    layers = {"dense": partial(call, dense), "sparse": partial(call, sparse)}
    # On the wall clock: several threads may share a layer, or a GPU does the work.
    times = interleaved(layers, rounds=_REPEATS, seconds=_SECONDS, clock=time.perf_counter)
    return times["dense"], times["sparse"]


def _wait(x: Tensor) -> None:
    if x.device.type == "cuda":
        torch.cuda.synchronize(x.device)
