"""Enforcement: pruned weights stay exactly zero while any optimizer trains the rest.

Two hooks and nothing else, so that parameters, names and state dicts stay the user's own: gradients are masked as soon
as they are accumulated (clipping norms and line searches see the sparse network), and weights after every optimizer
step (momentum, weight decay and averaging would revive them). An optimizer without torch's step hooks, one that wraps
another without being torch's `Optimizer`, has its `step` wrapped instead.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from lightning_classprune.pruning.masks import Masks
from lightning_classprune.trainer.sharding import local


class Enforcement:
    """Holds the hooks of one fit; `hold` replaces what is held, `release` removes every trace."""

    def __init__(self) -> None:
        self._handles: list[RemovableHandle | _WrappedStep] = []
        self._factors: dict[str, Tensor] = {}

    def hold(
        self, masks: Masks, parameters: Mapping[str, torch.nn.Parameter], optimizers: Iterable[Optimizer]
    ) -> None:
        """Keep the pruned weights of `parameters` at zero in all steps of `optimizers`.

        A parameter that keeps all its weights gets no hook: a dense round costs nothing.
        """
        self.release()
        pruned = {name: mask for name, mask in masks.items() if not mask.all()}
        if not pruned:
            return
        # In the weight's own dtype and layout: a product with booleans is several times slower on a CPU.
        factors = {
            name: torch.empty_like(local(parameters[name])).copy_(mask) for name, mask in pruned.items()
        }
        self._factors = factors
        for name, factor in factors.items():
            self._handles.append(_when_accumulated(parameters[name], _mask_gradient(factor)))
        names = {id(parameters[name]): name for name in factors}
        for optimizer in optimizers:
            self._handles.append(_when_stepped(optimizer, _mask_weights(names, factors)))

    def rehearse(
        self, masks: Masks, parameters: Mapping[str, torch.nn.Parameter], optimizers: Iterable[Optimizer]
    ) -> None:
        """Hold every weight once and let go: what a pruned round cannot have shows now."""
        try:
            self.hold({name: torch.zeros_like(mask) for name, mask in masks.items()}, parameters, optimizers)
        finally:
            self.release()

    @torch.no_grad()
    def wipe(self, parameters: Mapping[str, torch.nn.Parameter], optimizers: Iterable[Optimizer]) -> None:
        """Set the weights that are held at zero to it now, in the middle of a training: their gradients too, and what
        optimizers remember of them, weight by weight (momentum, averages of squares)."""
        states = [optimizer.state for optimizer in optimizers]
        for name, factor in self._factors.items():
            parameter = parameters[name]
            held = [value for state in states for value in state.get(parameter, {}).values()]
            for tensor in (parameter, parameter.grad, *held):
                if isinstance(tensor, Tensor) and tensor.shape == parameter.shape:
                    local(tensor.detach()).mul_(factor).add_(0.0)  # -0.0 becomes 0.0

    def release(self) -> None:
        """Remove all hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._factors = {}


def _when_accumulated(parameter: torch.nn.Parameter, hook: Callable[[Tensor], None]) -> RemovableHandle:
    # Torch refuses the hook on a frozen weight, but a fine-tuning callback may unfreeze it in the middle of a round.
    frozen = not parameter.requires_grad
    parameter.requires_grad_(True)
    handle: RemovableHandle = parameter.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]
    parameter.requires_grad_(not frozen)
    return handle


class _WrappedStep:
    """An optimizer's own `step`, after which a hook is called; `remove` gives it back."""

    def __init__(self, optimizer: Any, hook: Callable[[Any], None]) -> None:
        self._optimizer = optimizer
        self._own = vars(optimizer).get("step")  # schedulers put a step of theirs here
        self._holds = True
        step = optimizer.step

        @functools.wraps(step)
        def stepped(*args: Any, **kwargs: Any) -> Any:
            result = step(*args, **kwargs)
            if self._holds:
                hook(optimizer)
            return result

        self._stepped = optimizer.step = stepped

    def remove(self) -> None:
        """Call the hook no more, and give the step back unless somebody has wrapped it once more."""
        self._holds = False
        if vars(self._optimizer).get("step") is not self._stepped:
            return
        if self._own is None:
            del self._optimizer.step
        else:
            self._optimizer.step = self._own


def _when_stepped(optimizer: Any, hook: Callable[..., None]) -> RemovableHandle | _WrappedStep:
    # What delegates to an optimizer inside has that one's hooks, and may move weights after they have run.
    own = isinstance(optimizer, Optimizer) and "_optimizer_step_post_hooks" in vars(optimizer)
    if own and getattr(type(optimizer).step, "hooked", False):
        handle: RemovableHandle = optimizer.register_step_post_hook(hook)
        return handle
    return _WrappedStep(optimizer, hook)


def _mask_gradient(factor: Tensor) -> Callable[[Tensor], None]:
    def hook(parameter: Tensor) -> None:
        if parameter.grad is not None:
            local(parameter.grad).mul_(factor)

    return hook


def _mask_weights(names: Mapping[int, str], factors: Mapping[str, Tensor]) -> Callable[..., None]:
    def hook(optimizer: Optimizer, *_: object) -> None:
        held = [
            (local(p), factors[names[id(p)]])
            for group in optimizer.param_groups
            for p in group["params"]
            if id(p) in names
        ]
        if held:
            weights, masks = zip(*held, strict=True)
            torch._foreach_mul_(weights, masks)

    return hook
