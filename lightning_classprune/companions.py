"""Companions: the other callbacks of a job whose state belongs to a round.

EarlyStopping and ModelCheckpoint must see each round as a run of its own, weight averaging must not un-prune, and
callbacks that cannot work together with rounds are refused. Classes come from the package of the trainer at hand, for
those of `lightning.pytorch` and of `pytorch_lightning` are not each other's.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from lightning_classprune.rewinding import copy_state


def package_of(trainer: Any) -> str:
    """`"lightning.pytorch"` or `"pytorch_lightning"`, whichever the trainer comes from."""
    return type(trainer.fit_loop).__module__.split(".loops")[0]


def callbacks_module(trainer: Any) -> Any:
    """The module `callbacks` of the trainer's package."""
    return importlib.import_module(f"{package_of(trainer)}.callbacks")


def of_type(trainer: Any, name: str) -> list[Any]:
    """The trainer's callbacks of a class, by the class' name in its package."""
    kind = getattr(callbacks_module(trainer), name)
    return [callback for callback in trainer.callbacks if isinstance(callback, kind)]


class EarlyStoppings:
    """All EarlyStopping callbacks: each round starts with the patience that the first one had."""

    def __init__(self, callbacks: list[Any]) -> None:
        self._callbacks = callbacks
        self._pristine = [copy_state(c.state_dict()) for c in callbacks]
        self._no_reason = [(c.stopping_reason, c.stopping_reason_message) for c in callbacks]

    def __bool__(self) -> bool:
        return bool(self._callbacks)

    def stopped(self) -> bool:
        """Whether one of them ended this round."""
        pairs = zip(self._callbacks, self._no_reason, strict=True)
        return any(c.stopping_reason is not reason for c, (reason, _) in pairs)

    def mark_stopped(self) -> None:
        """The round had been ended by early stopping when the checkpoint was written; Lightning does not save that."""
        for callback in self._callbacks:
            callback.stopping_reason = type(callback.stopping_reason).PATIENCE_EXHAUSTED

    def reset(self) -> None:
        """Forget this round."""
        for callback, state, reason in zip(self._callbacks, self._pristine, self._no_reason, strict=True):
            callback.load_state_dict(copy_state(state))
            callback.stopping_reason, callback.stopping_reason_message = reason


_TRACKED = (
    "best_model_score",
    "best_model_path",
    "current_score",
    "best_k_models",
    "kth_best_model_path",
    "kth_value",
)


class Checkpoints:
    """All ModelCheckpoint callbacks: within a round they work as ever; between rounds only judged states count.

    An accepted round is saved as `accepted-round=NN.ckpt` beside the user's files and becomes the best model. Files of
    a refused round are removed.
    """

    def __init__(self, callbacks: list[Any]) -> None:
        self._callbacks = callbacks
        self._pristine = [self._tracking(c) for c in callbacks]
        self._accepted: list[dict[str, Any]] = []

    @staticmethod
    def _tracking(callback: Any) -> dict[str, Any]:
        return {key: copy_state(getattr(callback, key)) for key in _TRACKED}

    def _set(self, states: list[dict[str, Any]]) -> None:
        for callback, state in zip(self._callbacks, states, strict=True):
            for key, value in state.items():
                setattr(callback, key, copy_state(value))

    def reset(self) -> None:
        """Start a round: its epochs compete among themselves, not with the dense network."""
        self._set(self._pristine)

    def accept(self, trainer: Any, round_: int) -> None:
        """Save the module as it was judged and make that file every callback's best model."""
        tracked = [c for c in self._callbacks if c.save_top_k != 0]
        stale = {id(c): self._files(c) for c in tracked}
        for callback in tracked:
            path = os.path.join(callback.dirpath, f"accepted-round={round_:02d}{callback.FILE_EXTENSION}")
            score = (
                trainer.callback_metrics.get(callback.monitor, torch.tensor(float(round_))).detach().clone()
            )
            callback.best_model_path = callback.kth_best_model_path = path
            callback.best_model_score = callback.current_score = callback.kth_value = score
            callback.best_k_models = {path: score}
            stale[id(callback)] -= {path}
        previous, self._accepted = self._accepted, [self._tracking(c) for c in self._callbacks]
        for callback in tracked:
            # Only now: the file holds what all callbacks track.
            trainer.save_checkpoint(callback.best_model_path, callback.save_weights_only)
            callback._last_checkpoint_saved = callback.best_model_path
            if callback.save_top_k != -1:
                self._remove(trainer, callback, stale[id(callback)])
        for callback, state in zip(self._callbacks, previous, strict=False):
            if callback.save_top_k == 1:
                self._remove(trainer, callback, {state["best_model_path"]} - {"", callback.best_model_path})

    def refuse(self, trainer: Any) -> None:
        """Remove what the refused round saved; the best model is the last accepted one again."""
        if not self._accepted:
            return
        keep = {state["best_model_path"] for state in self._accepted}
        for callback in self._callbacks:
            self._remove(trainer, callback, self._files(callback) - keep)
        self._set(self._accepted)

    def save_delivered(self, trainer: Any) -> None:
        """Write `last` once more: the module now holds the accepted ticket, not the refused candidate."""
        for callback in self._callbacks:
            if callback.save_last:
                callback._save_last_checkpoint(trainer, callback._monitor_candidates(trainer))

    @staticmethod
    def _files(callback: Any) -> set[str]:
        return {path for path in (*callback.best_k_models, callback.best_model_path) if path}

    @staticmethod
    def _remove(trainer: Any, callback: Any, paths: set[str]) -> None:
        for path in paths - {callback.last_model_path}:
            trainer.strategy.remove_checkpoint(path)

    def state_dict(self) -> list[dict[str, Any]]:
        """What the callbacks knew of the last accepted round."""
        return self._accepted

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        """Take back what `state_dict` returned; ignored if the job now has other ModelCheckpoints."""
        if len(state) == len(self._callbacks):
            self._accepted = state


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
    """Callbacks that act at a given epoch: they are told the round's own epoch instead of the loop's."""

    def __init__(
        self, accumulation: list[Any], finetuning: list[Any], round_epoch: Callable[[], int]
    ) -> None:
        self._patched: list[tuple[Any, str]] = []
        self._finetuning = finetuning
        self._round_epoch = round_epoch
        for callback in accumulation:
            original = callback.get_accumulate_grad_batches
            self._patch(callback, "get_accumulate_grad_batches", lambda epoch, f=original: f(round_epoch()))
        for callback in finetuning:
            original = callback.finetune_function
            self._patch(
                callback,
                "finetune_function",
                lambda module, epoch, optimizer, f=original: f(module, round_epoch(), optimizer),
            )

    @property
    def unfreezes(self) -> bool:
        """Whether a callback will make frozen weights trainable."""
        return bool(self._finetuning)

    def _patch(self, callback: Any, name: str, function: Callable[..., Any]) -> None:
        setattr(callback, name, function)
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
