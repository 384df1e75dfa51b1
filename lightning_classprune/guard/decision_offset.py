"""A module that adds decision offsets, for networks whose own bias does not take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lightning_classprune.guard.offset import biases


class DecisionOffset(nn.Module):
    """Adds a bias to scores before the decision: `nn.Sequential(network, DecisionOffset(callback.offsets, names))`.

    Args:
        offsets: Bias by class name, such as the callback's `offsets`; 0 for those not named.
        class_names: Of all classes, in the order of the scores.

    Raises:
        ValueError: A class is unknown.
    """

    bias: Tensor

    def __init__(self, offsets: Mapping[str, float], class_names: Sequence[str]) -> None:
        super().__init__()
        self.class_names = tuple(class_names)
        self.register_buffer("bias", torch.tensor(self.biases(offsets)))

    def biases(self, offsets: Mapping[str, float]) -> list[float]:
        """What the module adds to the scores for these offsets, by class.

        Raises:
            ValueError: A class is unknown.
        """
        if unknown := sorted(set(offsets) - set(self.class_names)):
            raise ValueError(
                f"offsets: unknown classes {unknown}; there are {', '.join(map(repr, self.class_names))}"
            )
        return biases(offsets, self.class_names, len(self.class_names))

    def forward(self, scores: Tensor) -> Tensor:
        """Scores `(n, classes)`, or one logit `(n,)` or `(n, 1)` of two classes, shifted.

        Of pixels `(n, classes, H, W)`, `(n, 1, H, W)` or `(n, H, W)`; of tokens `(n, T, classes)` or `(n, T, 1)`.

        The sum has the precision of the wider of the two: rounded to half precision it would decide otherwise.
        """
        dtype = torch.promote_types(scores.dtype, self.bias.dtype)
        scores, bias = scores.to(dtype), self.bias.to(dtype)
        if scores.ndim == 4 and scores.shape[1] == len(bias):
            return scores + bias.view(-1, 1, 1)
        if scores.ndim in (2, 3) and scores.shape[-1] == len(bias):
            return scores + bias
        return scores + (bias[1] - bias[0]) if len(bias) == 2 else scores
