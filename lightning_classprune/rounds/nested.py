"""The nested round: the kept candidates become one network, whose weights all of them share, each under its own mask.

It starts from the densest of them, whose mask contains the others'. Optimizer step s trains member s mod K: during its
forwards and backwards the module has that member's mask and buffers, and other gradients do not count. Weights are
whole whenever the optimizer steps, or anybody else looks. Buffers are each member's own, for BatchNorm's statistics are
those of one network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from lightning_classprune.pruning.cutter import Cutter
from lightning_classprune.pruning.masks import Masks, pack_all, unpack_all
from lightning_classprune.rounds.clock import RoundClock
from lightning_classprune.trainer.names import canonical
from lightning_classprune.trainer.snapshots import Tensors, copy_state, restore_buffers


class NestedRound:
    """Trains the members of one run's ladder together, once its other rounds are over.

    Args:
        module: In training.
        cutter: Knows what is pruned.
        clock: The round's.

    Attributes:
        after: Why the rounds before it ended; None before they have.
        is_over: It was trained, or there was nothing to train together.
        masks: Of its members, the densest first; empty while it does not train.
    """

    def __init__(self, module: nn.Module, cutter: Cutter, clock: RoundClock) -> None:
        self._module = module
        self._cutter = cutter
        self._clock = clock
        self.after: str | None = None
        self.is_over = False
        self.masks: list[Masks] = []
        self._buffers: list[Tensors] = []
        self._inside: int | None = None  # the member that the module is now
        self._aside: Tensors = {}  # whole weights, while the module has those of a member

    @property
    def is_next(self) -> bool:
        """Whether it is the round that is to begin."""
        return self.after is not None and not self.masks and not self.is_over

    @property
    def is_training(self) -> bool:
        """Whether it is the round in training."""
        return bool(self.masks)

    def begin(self, masks: Sequence[Masks]) -> None:
        """The module has the densest member's weights and buffers.

        Args:
            masks: Of the members, the densest first.

        Raises:
            RuntimeError: One keeps a weight that the one before it does not.
        """
        for denser, sparser in pairwise(masks):
            if any(bool((sparser[name] & ~mask).any()) for name, mask in denser.items()):
                raise RuntimeError("the kept candidates' masks are not nested")
        self.masks = list(masks)
        self._buffers = [self._present() for _ in masks]

    def end(self) -> None:
        """It is over; the module keeps what it has."""
        self.leave()
        self.is_over, self.masks, self._buffers = True, [], []

    # -- a step --

    def enter(self) -> None:
        """A batch begins: the module becomes the member whose turn it is."""
        if self.masks and self._inside is None:
            self._become(self._clock.round_step % len(self.masks))

    @torch.no_grad()
    def before_step(self) -> None:
        """The gradients are there: only the member's count, and the weights are whole again."""
        if self._inside is None:
            return
        for name, out in self._left_out(self._inside):
            gradient = self._cutter.units.parameters[name].grad
            if gradient is not None:
                gradient.masked_fill_(out, 0)
        self._put_back()

    def leave(self) -> None:
        """The batch is over, however it ended: the module is the densest member again, with all weights."""
        if self._inside is None:
            return
        self._put_back()
        self._buffers[self._inside] = self._present()
        if self._inside:
            restore_buffers(self._module, self._buffers[0])
        self._inside = None

    @contextmanager
    def member(self, number: int) -> Iterator[None]:
        """Inside, the module is a member."""
        self._become(number)
        try:
            yield
        finally:
            self.leave()

    @torch.no_grad()
    def _become(self, number: int) -> None:
        self._inside = number
        if number:
            self._buffers[0] = self._present()
            restore_buffers(self._module, self._buffers[number])
        for name, out in self._left_out(number):
            parameter = self._cutter.units.parameters[name]
            self._aside[name] = parameter.detach().clone()
            parameter.masked_fill_(out, 0)

    @torch.no_grad()
    def _put_back(self) -> None:
        assert self._inside is not None
        for name, out in self._left_out(self._inside):
            if (whole := self._aside.pop(name, None)) is not None:
                parameter = self._cutter.units.parameters[name]
                parameter.copy_(torch.where(out, whole, parameter))

    def _left_out(self, number: int) -> Iterator[tuple[str, Tensor]]:
        """Of each weight, what the densest member has and this one has not."""
        for name, mask in self.masks[number].items() if number else ():
            yield name, self.masks[0][name] & ~mask

    def _present(self) -> Tensors:
        return {canonical(name): buffer.detach().clone() for name, buffer in self._module.named_buffers()}

    # -- saving --

    def state_dict(self) -> dict[str, Any]:
        """Plain tensors and primitives."""
        return {
            "after": self.after,
            "is_over": self.is_over,
            "masks": [pack_all(masks) for masks in self.masks],
            "buffers": copy_state(self._buffers),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.after, self.is_over = state["after"], state["is_over"]
        self.masks = [self._cutter.placed(unpack_all(masks)) for masks in state["masks"]]
        self._buffers = copy_state(state["buffers"])


def check_can_nest(trainer: Any, *, sharded: bool) -> None:
    """Refuse what a nested round cannot train.

    Args:
        trainer: Set up for training.
        sharded: The module's parameters are spread over the processes.

    Raises:
        MisconfigurationException: Says why, and the mend.
    """
    why = None
    if sharded:
        why = "a sharded module (FSDP) has its weights on no process as a whole; use DDP"
    elif not trainer.lightning_module.automatic_optimization:
        why = "with manual optimization nobody knows which forward a step is of; use automatic optimization"
    elif any(isinstance(optimizer, torch.optim.LBFGS) for optimizer in trainer.optimizers):
        why = "LBFGS runs several forwards a step; use another optimizer"
    if why is not None:
        raise MisconfigurationException(f"Files.nested=True: {why}, or nested=False")
