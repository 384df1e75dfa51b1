"""Checkpoints: what ModelCheckpoint keeps and calls best is what was judged and accepted."""

from __future__ import annotations

import os
from itertools import count
from math import inf
from pathlib import Path
from typing import Any

import torch

from lightning_classprune.trainer.snapshots import copy_state

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

    Attributes:
        sealed: What the callbacks track agrees with the last verdict.
    """

    def __init__(self, callbacks: list[Any]) -> None:
        self.sealed = True
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

    def look_anew(self) -> None:
        """Let whatever the round's next epochs save be better than what it saved so far, which gives way to it."""
        for callback in self._callbacks:
            if callback.monitor is None or not callback.best_k_models:
                continue
            worst = torch.full_like(callback.kth_value, -inf if callback.mode == "max" else inf)
            callback.best_k_models = dict.fromkeys(callback.best_k_models, worst)
            callback.best_model_score = callback.kth_value = worst

    def seal(self, trainer: Any, round_: int, *, stands: bool, label: str = "accepted") -> None:
        """After the callbacks' own epoch end: make what they track agree with the verdict, once.

        Args:
            trainer: The running trainer.
            round_: The round that was judged last.
            stands: It was accepted, or is the dense one.
            label: Of the file that is kept of it.
        """
        if self.sealed or trainer.fast_dev_run:
            return
        self.sealed = True
        if stands:
            self.accept(trainer, round_, label)
        else:
            self.refuse(trainer)

    def accept(self, trainer: Any, round_: int, label: str = "accepted") -> None:
        """Save the module as it was judged and make that file every callback's best model."""
        tracked = [c for c in self._callbacks if c.save_top_k != 0]
        stale = [self._files(c) for c in tracked]
        for callback in tracked:
            self._track(
                callback, self._free_path(trainer, callback, f"{label}-round={round_:02d}", tracked), trainer
            )
        previous, self._accepted = self._accepted, [self._tracking(c) for c in self._callbacks]
        for callback, files in zip(tracked, stale, strict=True):
            # Only now: the file holds what all callbacks track.
            trainer.save_checkpoint(callback.best_model_path, callback.save_weights_only)
            callback._last_checkpoint_saved = callback.best_model_path
            self._save_last(trainer, callback)
            if callback.save_top_k != -1:
                self._remove(trainer, callback, files)
        for callback, state in zip(self._callbacks, previous, strict=False):
            if callback.save_top_k == 1:
                self._remove(trainer, callback, {state["best_model_path"]} - {""})

    @staticmethod
    def _free_path(trainer: Any, callback: Any, name: str, tracked: list[Any]) -> str:
        """A file of its own for each callback and each job in the folder, numbered as ModelCheckpoint does."""
        taken = {c.best_model_path for c in tracked}
        for version in count():
            suffix = f"-v{version}" if version else ""
            path = os.path.join(callback.dirpath, f"{name}{suffix}{callback.FILE_EXTENSION}")
            if path not in taken and not callback.file_exists(path, trainer):
                break
        return path

    @staticmethod
    def _track(callback: Any, path: str, trainer: Any) -> None:
        callback.best_model_path = path
        if callback.monitor is None:
            return
        score = trainer.callback_metrics.get(callback.monitor, callback.kth_value).detach().clone()
        callback.best_model_score = callback.current_score = callback.kth_value = score
        callback.kth_best_model_path, callback.best_k_models = path, {path: score}

    def refuse(self, trainer: Any) -> None:
        """Remove what the refused round saved; the best model is the last accepted one again."""
        if not self._accepted:
            return
        keep = {state["best_model_path"] for state in self._accepted}
        refused = [self._files(c) - keep for c in self._callbacks]
        self._set(self._accepted)
        for callback, files in zip(self._callbacks, refused, strict=True):
            if callback.save_last == "link" and callback.best_model_path:
                # The link must not point to a file that is removed.
                callback._last_checkpoint_saved = callback.best_model_path
                self._save_last(trainer, callback)
            self._remove(trainer, callback, files)

    def save_delivered(self, trainer: Any) -> None:
        """Write `last` once more: the module now holds the accepted ticket, not the refused candidate."""
        for callback in self._callbacks:
            if callback.last_model_path:
                self._save_last(trainer, callback)

    @staticmethod
    def _save_last(trainer: Any, callback: Any) -> None:
        callback._save_last_checkpoint(trainer, callback._monitor_candidates(trainer))

    @staticmethod
    def _files(callback: Any) -> set[str]:
        return {path for path in (*callback.best_k_models, callback.best_model_path) if path}

    @staticmethod
    def _remove(trainer: Any, callback: Any, paths: set[str]) -> None:
        for path in paths - {callback.last_model_path, callback.best_model_path}:
            # A name in a checkpoint that leads out of the callback's folder is none of its files.
            within = ".." not in Path(path).parts
            if within and callback._should_remove_checkpoint(trainer, path, callback.best_model_path):
                trainer.strategy.remove_checkpoint(path)

    def state_dict(self) -> list[dict[str, Any]]:
        """What the callbacks knew of the last accepted round."""
        return self._accepted

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        """Take back what `state_dict` returned; ignored if the job now has other ModelCheckpoints."""
        if len(state) == len(self._callbacks):
            self._accepted = state
