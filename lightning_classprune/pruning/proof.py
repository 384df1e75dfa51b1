"""Proof: that steps of an optimizer have kept the pruned weights at zero, so that nobody needs to set them.

Torch's own SGD, Adam, AdamW, RMSprop and Adagrad work weight by weight: where the weight, its gradient and what they
remember of it are zero, all three stay zero. That holds as long as nobody else writes to one of them, which the version
counters of tensors tell; what they do not tell (`.data`, NumPy) is looked for after the first steps, at times after
that, and wherever weights are used for more than a step.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop
from torch.optim import optimizer as _torch_optimizer

#: Exactly these: a subclass may do anything.
KEEP_ZEROS = (SGD, Adam, AdamW, RMSprop, Adagrad)
#: What has the exponents of float32, in which a usual `eps` is not 0.
DTYPES = (torch.float32, torch.float64, torch.bfloat16)
#: Below it, 0 / (sqrt(0) + eps) may be 0 / 0.
SMALLEST_EPS = 1e-30
#: Steps from one look at the weights to the next, after the first ones.
EVERY = 256


def keeps_zeros(optimizer: Any) -> bool:
    """Whether steps of an optimizer keep zeros, if only it and autograd write: of its kind, its settings and its hooks.

    Gradients that several processes reduce are written where no version counter tells.
    """
    if type(optimizer) not in KEEP_ZEROS or (dist.is_available() and dist.is_initialized()):
        return False
    if any(group.get("eps", 1.0) < SMALLEST_EPS for group in optimizer.param_groups):
        return False
    hooks = (_torch_optimizer._global_optimizer_pre_hooks, _torch_optimizer._global_optimizer_post_hooks)
    own = (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks)
    return not any(hooks) and all(len(hooks) <= 1 for hooks in own)


def is_followed(parameter: nn.Parameter) -> bool:
    """Whether a parameter is of a kind whose steps can be followed: a plain one on the CPU."""
    return type(parameter) is nn.Parameter and parameter.device.type == "cpu" and parameter.dtype in DTYPES


class Marks:
    """How gradients were left when they were masked, by name."""

    def __init__(self) -> None:
        self._marks: dict[str, tuple[weakref.ref[Tensor], int]] = {}

    def set(self, name: str, gradient: Tensor) -> None:
        """A gradient is masked now."""
        self._marks[name] = (weakref.ref(gradient), gradient._version)

    def holds(self, name: str, gradient: Tensor | None) -> bool:
        """Whether a gradient is as it was masked; a missing one moves nothing."""
        if gradient is None:
            return True
        mark = self._marks.get(name)
        return mark is not None and mark[0]() is gradient and mark[1] == gradient._version


class Proof:
    """Follows one optimizer's steps.

    Args:
        optimizer: Before the hooks that hold its weights.
        names: Of the parameters whose weights are held, by their `id`.
        marks: Of their gradients.

    Attributes:
        lost: Somebody else writes: it holds no more, until the weights are held anew.
    """

    def __init__(self, optimizer: Any, names: Mapping[int, str], marks: Marks) -> None:
        self._names = names
        self._marks = marks
        self._after: list[object] | None = None  # how the last step left everything
        self._steps = 0
        self.lost = not (keeps_zeros(optimizer) and all(is_followed(p) for _, p in self._held(optimizer)))

    def is_unbroken(self, optimizer: Optimizer) -> bool:
        """Before a step: whether weights, and what is remembered of them, are as the last step left them.

        Not before the first one, nor after somebody has loaded them.
        """
        self.lost = self.lost or not keeps_zeros(optimizer)
        return self.lost or self._after == self._trace(optimizer)

    def proves(self, optimizer: Optimizer) -> bool:
        """After a step that began with zeros: whether its gradients were as they were masked."""
        held = self._held(optimizer)
        self.lost = self.lost or not all(is_followed(p) and self._marks.holds(n, p.grad) for n, p in held)
        if self.lost:
            return False
        self._after = self._trace(optimizer)
        self._steps += 1
        return True

    def begins_with_zeros(self, optimizer: Optimizer) -> None:
        """Weights, and what is remembered of them, have just been set to zero: the next step has not to do so."""
        self._after = None if self.lost else self._trace(optimizer)

    @property
    def is_due(self) -> bool:
        """Whether the weights are to be looked at after this step."""
        return self._steps & (self._steps - 1) == 0 or self._steps % EVERY == 0

    def _held(self, optimizer: Optimizer) -> list[tuple[str, nn.Parameter]]:
        names = self._names
        return [(names[id(p)], p) for g in optimizer.param_groups for p in g["params"] if id(p) in names]

    def _trace(self, optimizer: Optimizer) -> list[object]:
        trace: list[object] = []
        for _, parameter in self._held(optimizer):
            trace += (id(parameter), parameter.data_ptr(), parameter._version)
            for key, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    trace += (key, value.data_ptr(), value._version)
        return trace
