"""Enforcement: pruned weights stay exactly zero while any optimizer trains the rest.

Two hooks and nothing else, so that parameters, names and state dicts stay the user's own: gradients are masked as soon
as they are accumulated (clipping norms and line searches see the sparse network), and weights after every optimizer
step (momentum, weight decay and averaging would revive them) unless the step is proved to have kept them at zero. An
optimizer without torch's step hooks, one that wraps another without being torch's `Optimizer`, has its `step` wrapped
instead.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from lightning_classprune.pruning.masks import Masks
from lightning_classprune.pruning.proof import Marks, Proof
from lightning_classprune.trainer.sharding import local

# Whole numbers of the size of a weight: a bitwise product keeps what is kept, and leaves +0.0 of infinity and NaN too.
_WHOLE = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Enforcement:
    """Holds the hooks of one fit; `hold` replaces what is held, `release` removes every trace."""

    def __init__(self) -> None:
        self._handles: list[RemovableHandle | _WrappedStep] = []
        self._stencils: dict[str, Tensor] = {}
        self._parameters: dict[str, torch.nn.Parameter] = {}
        self._optimizers: list[Any] = []
        self._proofs: list[Proof] = []
        self._marks = Marks()

    @property
    def held(self) -> Mapping[str, torch.nn.Parameter]:
        """The parameters of which weights are held, by name."""
        return self._parameters

    def hold(
        self, masks: Masks, parameters: Mapping[str, torch.nn.Parameter], optimizers: Iterable[Optimizer]
    ) -> None:
        """Keep the pruned weights of `parameters` at zero in all steps of `optimizers`.

        A parameter that keeps all its weights gets no hook: a dense round costs nothing.
        """
        before = self._stencils
        self.release()
        pruned = {name: mask for name, mask in masks.items() if _prunes(mask)}
        if not pruned:
            return
        self._optimizers = list(optimizers)
        self._parameters = {name: parameters[name] for name in pruned}
        for name, mask in pruned.items():
            self._stencils[name] = _stencil(mask, local(parameters[name]), before.pop(name, None))
            hook = self._mask_gradient(name)
            self._handles.append(_when_accumulated(parameters[name], hook))
        names = {id(parameter): name for name, parameter in self._parameters.items()}
        for optimizer in self._optimizers:
            proof = Proof(optimizer, names, self._marks)
            self._proofs.append(proof)
            self._handles.append(_when_stepped(optimizer, self._after_step(names, proof)))
            if not proof.lost:
                self._handles.append(optimizer.register_step_pre_hook(self._before_step(names, proof)))

    def rehearse(
        self, masks: Masks, parameters: Mapping[str, torch.nn.Parameter], optimizers: Iterable[Optimizer]
    ) -> None:
        """Hold every weight once and let go: what a pruned round cannot have shows now."""
        try:
            self.hold({name: torch.zeros_like(mask) for name, mask in masks.items()}, parameters, optimizers)
        finally:
            self.release()

    def tighten(
        self,
        masks: Masks,
        parameters: Mapping[str, torch.nn.Parameter],
        optimizers: Sequence[Optimizer],
    ) -> None:
        """Hold more weights at zero in the middle of a training, and set them to it now.

        Their gradients too, and what optimizers remember of them, weight by weight (momentum, averages of squares). The
        proofs go on: what they say of the steps before is as true of fewer weights.

        Args:
            masks: Those that are held, or with less of them kept.
            parameters: The weights by name.
            optimizers: All that train them.
        """
        held = self._parameters.keys()
        more = any(_prunes(mask) for name, mask in masks.items() if name not in held)
        if more or [id(one) for one in optimizers] != [id(one) for one in self._optimizers]:
            self.hold(masks, parameters, optimizers)
        else:
            for name, parameter in self._parameters.items():
                _stencil(masks[name], local(parameter), self._stencils[name])
        self._wipe()
        for optimizer, proof in zip(self._optimizers, self._proofs, strict=True):
            proof.begins_with_zeros(optimizer)

    @torch.no_grad()
    def _wipe(self) -> None:
        for name, parameter in self._parameters.items():
            held = (value for o in self._optimizers for value in o.state.get(parameter, {}).values())
            for tensor in (parameter, *held):
                if isinstance(tensor, Tensor) and tensor.shape == parameter.shape:
                    _cut(local(tensor), self._stencils[name])
            if parameter.grad is not None and _cut_gradient(parameter.grad, self._stencils[name]):
                self._marks.set(name, parameter.grad)

    @torch.no_grad()
    def look(self) -> None:
        """Weights are used for more than a step now: whoever wrote to them since, what is held is zero.

        Where steps were proved to keep zeros and have not, weights are set to zero after every step to come too.
        """
        proved = not all(proof.lost for proof in self._proofs)
        for name, parameter in self._parameters.items():
            weight, stencil = local(parameter), self._stencils[name]
            # A weight that is as it should be is not written to: proofs follow who writes.
            if proved and torch.equal(weight, _cut(weight.clone(), stencil)):
                continue
            for proof in self._proofs:
                proof.lost = True
            _cut(weight, stencil)

    def release(self) -> None:
        """Remove all hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._stencils, self._parameters = [], {}, {}
        self._optimizers, self._proofs, self._marks = [], [], Marks()

    def _mask_gradient(self, name: str) -> Callable[[Tensor], None]:
        stencil, marks = self._stencils[name], self._marks

        def hook(parameter: Tensor) -> None:
            gradient = parameter.grad
            if gradient is None:
                return
            if _cut_gradient(gradient, stencil):
                marks.set(name, gradient)

        return hook

    def _before_step(self, names: Mapping[int, str], proof: Proof) -> Callable[..., None]:
        @torch.no_grad()
        def hook(optimizer: Optimizer, *_: object) -> None:
            if proof.is_unbroken(optimizer):
                return
            for parameter, stencil in self._of(optimizer, names):
                for tensor in (parameter, *optimizer.state.get(parameter, {}).values()):
                    if isinstance(tensor, Tensor) and tensor.shape == parameter.shape:
                        _cut(local(tensor), stencil)

        return hook

    def _after_step(self, names: Mapping[int, str], proof: Proof) -> Callable[..., None]:
        def hook(optimizer: Optimizer, *_: object) -> None:
            if not proof.proves(optimizer):
                for parameter, stencil in self._of(optimizer, names):
                    _cut(local(parameter), stencil)
            elif proof.is_due:
                self.look()

        return hook

    def _of(self, optimizer: Optimizer, names: Mapping[int, str]) -> Iterator[tuple[Tensor, Tensor]]:
        """What is held of an optimizer's, also of groups that were added since, and its stencil."""
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if id(parameter) in names:
                    yield parameter, self._stencils[names[id(parameter)]]


def _prunes(mask: Tensor) -> bool:
    return int(mask.count_nonzero()) < mask.numel()


def _stencil(mask: Tensor, weight: Tensor, before: Tensor | None) -> Tensor:
    """What cuts a tensor that is laid out like the weight, in the storage of the one before where there is one.

    One byte a weight, True where it is pruned; on a CPU, where filling is slow, a whole number of the weight's size
    with all bits set where it is kept.
    """
    whole = _WHOLE.get(weight.dtype.itemsize) if weight.device.type == "cpu" else None
    if before is None:
        before = torch.empty_like(weight, dtype=whole or torch.bool)
    if whole is None:
        return torch.logical_not(mask.to(weight.device), out=before)
    return before.copy_(mask).neg_()


def _cut(tensor: Tensor, stencil: Tensor) -> Tensor:
    """Set what is pruned to +0.0 in place, whatever it was."""
    if stencil.dtype == torch.bool:
        return tensor.masked_fill_(stencil, 0)
    if tensor.dtype.itemsize != stencil.dtype.itemsize:
        return tensor.masked_fill_(stencil == 0, 0)
    tensor.view(stencil.dtype).bitwise_and_(stencil)
    return tensor


def _cut_gradient(gradient: Tensor, stencil: Tensor) -> bool:
    """Cut a gradient, dense or sparse; whether its version tells who writes to it next."""
    if gradient.layout == torch.strided:
        _cut(local(gradient), stencil)
        return True
    _cut(gradient._values(), stencil[tuple(gradient._indices())])
    return False


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
