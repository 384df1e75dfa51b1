"""Other callbacks: those callbacks of a job whose state belongs to a round.

EarlyStopping and ModelCheckpoint must see each round as a run of its own, weight averaging must not un-prune, and
callbacks that cannot work together with rounds are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from lightning_classprune.trainer.checkpoints import Checkpoints
from lightning_classprune.trainer.snapshots import copy_state
from lightning_classprune.trainer.versions import has_stopped, mark_stopped, of_type


class EarlyStoppings:
    """All EarlyStopping callbacks: each round starts with the patience that the first one had."""

    def __init__(self, callbacks: list[Any]) -> None:
        self._callbacks = callbacks
        self._pristine = self.capture()
        self._mark(False)

    def __bool__(self) -> bool:
        """Whether there is one, which may end a round before its length."""
        return bool(self._callbacks)

    def stopped(self) -> bool:
        """Whether one of them ended this round."""
        return any(map(has_stopped, self._callbacks))

    def mark_stopped(self) -> None:
        """The round had been ended by early stopping when the checkpoint was written; Lightning does not save that."""
        self._mark(True)

    def _mark(self, stopped: bool) -> None:
        for callback in self._callbacks:
            mark_stopped(callback, stopped)

    def capture(self) -> list[dict[str, Any]]:
        """What they have seen of this round."""
        return [copy_state(c.state_dict()) for c in self._callbacks]

    def restore(self, states: list[dict[str, Any]]) -> None:
        """Go back to a capture; ignored if the job now has other EarlyStopping callbacks."""
        if len(states) == len(self._callbacks):
            for callback, state in zip(self._callbacks, states, strict=True):
                callback.load_state_dict(copy_state(state))

    def reset(self) -> None:
        """Forget this round."""
        self.restore(self._pristine)
        self._mark(False)


class Averaging:
    """Weight averaging (EMA): what is judged and delivered is the average, as it is without pruning."""

    def __init__(self, callbacks: list[Any]) -> None:
        self._callbacks = callbacks

    @contextmanager
    def swapped_in(self, pl_module: Any) -> Iterator[None]:
        """Inside, the module holds the averaged weights."""
        for callback in self._callbacks:
            callback._swap_models(pl_module)
        try:
            yield
        finally:
            for callback in self._callbacks:
                callback._swap_models(pl_module)

    def models(self) -> list[Any]:
        """The averages, as modules."""
        return [c._average_model.module for c in self._callbacks if c._average_model is not None]

    def restart(self, pl_module: Any) -> None:
        """Begin a new average at the module's present weights."""
        for callback in self._callbacks:
            average = callback._average_model
            average.n_averaged.zero_()
            with torch.no_grad():
                pairs = zip(
                    (*average.module.parameters(), *average.module.buffers()),
                    (*pl_module.parameters(), *pl_module.buffers()),
                    strict=True,
                )
                for mean, current in pairs:
                    mean.copy_(current)


class EpochFollowers:
    """Callbacks that act at a given epoch or step: they are told the round's own instead of the loop's.

    Args:
        accumulation: GradientAccumulationScheduler callbacks.
        finetuning: BaseFinetuning callbacks.
        averaging: WeightAveraging callbacks.
        start: Gives the epoch and the step of the loop at which the present round started.
    """

    def __init__(
        self,
        accumulation: list[Any],
        finetuning: list[Any],
        averaging: list[Any],
        start: Callable[[], tuple[int, int]],
    ) -> None:
        self._patched: list[tuple[Any, str]] = []
        self._finetuning = finetuning
        for callback in accumulation:
            self._patch(callback, "get_accumulate_grad_batches", lambda f, epoch: f(epoch - start()[0]))
        for callback in finetuning:
            self._patch(
                callback,
                "finetune_function",
                lambda f, module, epoch, optimizer: f(module, epoch - start()[0], optimizer),
            )
        for callback in averaging:
            self._patch(
                callback,
                "should_update",
                lambda f, step_idx=None, epoch_idx=None: f(
                    step_idx=None if step_idx is None else step_idx - start()[1],
                    epoch_idx=None if epoch_idx is None else epoch_idx - start()[0],
                ),
            )

    @property
    def unfreezes(self) -> bool:
        """Whether a callback will make frozen weights trainable."""
        return bool(self._finetuning)

    def _patch(self, callback: Any, name: str, function: Callable[..., Any]) -> None:
        setattr(callback, name, partial(function, getattr(callback, name)))
        self._patched.append((callback, name))

    def reset(self) -> None:
        """Forget the parameter groups of the last round; they were removed by rewinding."""
        for callback in self._finetuning:
            callback._internal_optimizer_metadata = {}

    def release(self) -> None:
        """Give the callbacks their own methods back."""
        for callback, name in self._patched:
            callback.__dict__.pop(name, None)
        self._patched.clear()


class OtherCallbacks:
    """The other callbacks of one trainer.

    Args:
        trainer: In `setup`.
        start: Gives the epoch and the step of the loop at which the present round started.
    """

    def __init__(self, trainer: Any, start: Callable[[], tuple[int, int]]) -> None:
        averaging = of_type(trainer, "WeightAveraging")
        self.early_stopping = EarlyStoppings(of_type(trainer, "EarlyStopping"))
        self.checkpoints = Checkpoints(of_type(trainer, "ModelCheckpoint"))
        self.averaging = Averaging(averaging)
        self.by_epoch = EpochFollowers(
            of_type(trainer, "GradientAccumulationScheduler"),
            of_type(trainer, "BaseFinetuning"),
            averaging,
            start,
        )

    def start_round(self, pl_module: Any) -> None:
        """Let all of them see a run of its own that begins with the module's present weights."""
        self.early_stopping.reset()
        self.checkpoints.reset()
        self.by_epoch.reset()
        self.averaging.restart(pl_module)

    def look_anew(self) -> None:
        """The network is another kind from here on: what was best before is not to be compared with it."""
        self.early_stopping.reset()
        self.checkpoints.look_anew()
