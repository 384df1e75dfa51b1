"""Handover: a ticket as it leaves the run, with its decision offsets in the bias of the last layer where that is exact.

Whether a layer's bias moves the scores, and those alone, is not read off the network but tried: the network with the
bias must decide every validation and guard case as the network with the offset does. Rounds go on from the ticket
without the offsets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning_utilities.core.rank_zero import rank_zero_info
from torch import Tensor, nn

from lightning_classprune.guard.data import GuardData
from lightning_classprune.guard.evaluator import Evaluator
from lightning_classprune.guard.offset import biases
from lightning_classprune.guard.task import OfUnits, Outcomes
from lightning_classprune.tickets.loading import in_words
from lightning_classprune.tickets.ticket import Ticket
from lightning_classprune.trainer.forward import PreparedPredict, prepare
from lightning_classprune.trainer.names import canonical
from lightning_classprune.trainer.sharding import Sharding
from lightning_classprune.trainer.snapshots import Tensors, capture_tensors, restore_tensors


@dataclass(frozen=True)
class Handover:
    """How tickets of one run leave it.

    Attributes:
        trainer: The running trainer.
        module: The network.
        evaluator: Decides cases.
        class_names: Of all classes.
        sharding: That of the module; the bias of a sharded one stays as it is.
    """

    trainer: Any
    module: nn.Module
    evaluator: Evaluator
    class_names: Sequence[str]
    sharding: Sharding

    def tensors(self, ticket: Ticket) -> Tensors:
        """The tensors of a ticket, with its offsets where a bias takes them."""
        if ticket.folded_into is None:
            return ticket.tensors
        bias = ticket.tensors[ticket.folded_into]
        shifted = bias + _shift(ticket.offsets, self.class_names, bias)
        return ticket.tensors | {ticket.folded_into: shifted}

    def left(self, ticket: Ticket | None) -> dict[str, float]:
        """The offsets that the tensors do not contain, by class; none for those not named."""
        return {} if ticket is None or ticket.folded_into is not None else ticket.offsets

    def bias_for(
        self,
        offsets: Mapping[str, float],
        on_guard: Outcomes | None,
        guard: GuardData,
        validation: GuardData | None,
    ) -> str | None:
        """The name of the bias that takes the offsets of the network in the module, which is left without them.

        Args:
            offsets: Bias to add to a class' score, by name; 0 for those not named.
            on_guard: What the network decides on the guard data with them; None before it was judged.
            guard: The guard data.
            validation: The validation data.
        """
        if not any(offsets.values()) or on_guard is None or validation is None or self.sharding:
            return None
        if isinstance(self.evaluator.predict, PreparedPredict):
            return None  # a probe that is fitted anew would take the bias back
        if isinstance(self.evaluator.task, OfUnits) and not self.evaluator.task.folds:
            return None
        decided = [on_guard, self._decide(validation, offsets)]

        def same() -> bool:
            now = [self._decide(data, {}) for data in (guard, validation)]
            pairs = zip(decided, now, strict=True)
            return all(a is not None and b is not None and a.same_decisions(b) for a, b in pairs)

        tensors = capture_tensors(self.module)
        try:
            return fold(self.module, offsets, self.class_names, same)
        finally:
            restore_tensors(self.module, tensors)

    def beside(self) -> Tensors:
        """What `predict` was fitted to the network in the module, if it is a probe; all processes call this."""
        predict = self.evaluator.predict
        if not isinstance(predict, PreparedPredict):
            return {}
        prepare(predict, self.trainer, self.module, self.evaluator.processes)
        return predict.fitted()

    def _decide(self, data: GuardData, offsets: Mapping[str, float]) -> Outcomes | None:
        return self.evaluator.outcomes(self.trainer, self.module, data, offsets)

    def tell(self, ticket: Ticket | None) -> None:
        """Say what a user has to add before the decision, if anything."""
        left = {name: bias for name, bias in self.left(ticket).items() if bias}
        if left:
            task = self.evaluator.task
            adding = task.adding if isinstance(task, OfUnits) else "DecisionOffset does it"
            rank_zero_info(
                f"decide with offsets: add {in_words(left)} before the decision (callback.offsets; {adding}); no "
                "bias of the network takes them"
            )


def fold(
    module: nn.Module, offsets: Mapping[str, float], names: Sequence[str], same: Callable[[], bool]
) -> str | None:
    """Put offsets into the bias of a layer, the last that takes them exactly; its name, or None.

    Args:
        module: The network; where no layer takes them it is left as it was.
        offsets: Bias to add to a class' score, by name; 0 for those not named.
        names: Of all classes.
        same: Whether the module as it is decides as it is to decide with the offsets.
    """
    for name, bias in _biases(module, len(names)):
        before = bias.detach().clone()
        with torch.no_grad():
            bias.add_(_shift(offsets, names, bias))
        if same():
            return name
        with torch.no_grad():
            bias.copy_(before)
    return None


def _biases(module: nn.Module, classes: int) -> Iterator[tuple[str, Tensor]]:
    """Biases that could be the scores', the last of the module first."""
    outputs = {classes, 1} if classes == 2 else {classes}
    found = [
        (f"{canonical(name)}.bias" if name else "bias", layer.bias)
        for name, layer in module.named_modules()
        if isinstance(getattr(layer, "bias", None), nn.Parameter)
        and layer.bias.ndim == 1
        and len(layer.bias) in outputs
    ]
    yield from reversed(found)


def _shift(offsets: Mapping[str, float], names: Sequence[str], bias: Tensor) -> Tensor:
    return torch.tensor(biases(offsets, names, len(bias)), dtype=bias.dtype, device=bias.device)
