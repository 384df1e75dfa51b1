"""2:4 sparsity: of every four weights along the input dimension the two of smallest score are pruned, in one step.

The pattern that tensor cores skip (Mishra et al. 2021, arXiv 2104.08378): in linear layers the one that
`torch.sparse.to_sparse_semi_structured` takes, in convolutions along the input channels as TensorRT takes it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from lightning_classprune.pruning.masks import Masks, count_kept, count_weights
from lightning_classprune.pruning.selection import Scores
from lightning_classprune.pruning.units import Parameters, Surroundings
from lightning_classprune.trainer.names import canonical
from lightning_classprune.trainer.sharding import local


def two_four_weights(module: nn.Module, parameters: Parameters) -> Parameters:
    """Those parameters that are weights of linear layers and convolutions whose input divides by four."""
    fitting = {
        canonical(f"{name}.weight" if name else "weight")
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear | _ConvNd)
        and not getattr(layer, "transposed", False)
        and layer.weight.shape[1] % 4 == 0
    }
    return {name: parameter for name, parameter in parameters.items() if name in fitting}


def keep_two_of_four(scores: Tensor) -> Tensor:
    """The mask that keeps the two largest of every four scores along dimension 1; of equal ones the last stay.

    Args:
        scores: Real, `(out, in, ...)` with `in` a multiple of four, without NaN.
    """
    last = scores.movedim(1, -1)
    fours = last.reshape(*last.shape[:-1], -1, 4)
    kept = torch.zeros(fours.shape, dtype=torch.bool, device=scores.device)
    kept.scatter_(-1, fours.argsort(dim=-1, stable=True)[..., 2:], True)
    return kept.flatten(-2).movedim(-1, 1).contiguous()


class TwoOfFour:
    """Weights of which the half leaves in one step.

    Attributes:
        parameters: Weights whose input divides by four.
        total: Number of weights.
        most: Half of them.
    """

    name = "weights"

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters
        self.total = sum(p.numel() for p in parameters.values())
        self.most = self.total // 2

    def pruned(self, masks: Masks) -> int:
        """Number of pruned weights."""
        return count_weights(masks) - count_kept(masks)

    def zeros(self) -> int:
        """Number of zero weights."""
        return sum(int((local(p) == 0).sum()) for p in self.parameters.values())

    def shrink(self, masks: Masks, scores: Scores, pruned: int) -> Masks:
        """The 2:4 masks; `pruned` must be half of the weights."""
        if pruned != self.most:
            raise ValueError(f"2:4 prunes {self.most} of {self.total} weights and no other number: {pruned}")
        shrunk: Masks = {}
        for name, mask in masks.items():
            values = scores(name)
            if torch.isnan(values).any():
                raise ValueError(f"criterion: a score of `{name}` is NaN; scores must be comparable")
            shrunk[name] = keep_two_of_four(values).to(mask.device)
        return shrunk


def find_two_of_four(here: Surroundings) -> tuple[TwoOfFour, list[str]]:
    """The 2:4 units of a network, and the parameters that stay dense.

    Raises:
        ValueError: There are none.
    """
    fitting = two_four_weights(here.module, here.parameters)
    if not fitting:
        raise ValueError(
            "no prunable linear layer or convolution has a number of inputs that four divides; use granularity='weight'"
        )
    return TwoOfFour(fitting), [name for name in here.parameters if name not in fitting]
