"""Tokens: the tokens, or spans of them, of a protected class in sentences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lightning_classprune.guard.claims import (
    SCORE_BIASES,
    check_kind,
    check_numbers,
    check_target,
    claims,
    flags_of,
)
from lightning_classprune.guard.objects import EVERYTHING, Reading, Seen
from lightning_classprune.trainer import arguments

Booleans = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Tokens:
    """Classes of tokens: `predict` returns scores `(n, T, C)`, real or of dtype bool, and a target `(n, T)`.

    Attributes:
        ignore_index: Target of tokens that count neither way, such as padding and further pieces of a word.
        span: The objects are runs of tokens of a protected class instead of single ones, and one is found where exactly
            it is claimed; tokens that count neither way do not end a run.

    Raises:
        ValueError: An argument is no whole number; the message names it.
    """

    ignore_index: int = -100
    span: bool = False

    def __post_init__(self) -> None:
        if not arguments.is_whole(self.ignore_index):
            raise ValueError(f"Tokens.ignore_index={self.ignore_index!r} is no whole number")
        if not isinstance(self.span, bool):
            raise ValueError(f"Tokens.span={self.span!r} must be True or False")

    @property
    def noun(self) -> str:
        """What objects are called."""
        return "spans" if self.span else "tokens"

    @property
    def competes(self) -> bool:
        """Classes compete for a token."""
        return True

    @property
    def in_words(self) -> str:
        """When an object counts as found."""
        return (
            "found where exactly this span is claimed"
            if self.span
            else "found where the token is of its class"
        )

    def biases(self) -> tuple[float, ...]:
        """Of the class' score of a token."""
        return SCORE_BIASES

    def read(self, scores: Any, target: Any, how: Reading) -> tuple[int, dict[int, Seen]]:
        """The tokens of a batch; see `Kind`."""
        self._check(scores, target, how)
        truth = target.cpu().numpy()
        counts = truth != self.ignore_index
        flag = flags_of(scores, how)
        return len(truth), {i: self._of_class(scores, truth, counts, i, how, flag) for i in how.protected}

    def _check(self, scores: Any, target: Any, how: Reading) -> None:
        if not (isinstance(scores, Tensor) and isinstance(target, Tensor)):
            raise ValueError(
                "predict must return two tensors (scores, target) for task=Tokens(), got "
                f"{type(scores).__name__} and {type(target).__name__}"
            )
        classes = len(how.names)
        outputs = {classes, 1} if classes == 2 else {classes}
        if (
            target.ndim != 2
            or scores.ndim != 3
            or scores.shape[:2] != target.shape
            or scores.shape[2] not in outputs
        ):
            raise ValueError(
                f"predict returned scores {tuple(scores.shape)}, target {tuple(target.shape)} for task=Tokens() and "
                f"num_classes={classes}; scores (n, T, {classes}) and a target (n, T) are needed"
            )
        check_kind(scores)
        check_numbers(scores[target != self.ignore_index])
        check_target(target, self.ignore_index, how)

    def _of_class(
        self, scores: Tensor, truth: NDArray[Any], counts: Booleans, index: int, how: Reading, flag: int
    ) -> Seen:
        sentences, places = np.nonzero(counts)
        ends = _runs if self.span else _singles
        start, end = ends((truth == index)[counts], sentences)
        claimed = claims(scores, index, how)
        found = np.zeros((len(start), len(how.biases)), dtype=bool)
        alarms = np.zeros((len(truth), len(how.biases)), dtype=np.int64)
        flags = np.full(len(truth), flag)
        for place, bias in enumerate(how.biases):
            mask = claimed.at(bias)
            if place == 0:
                flags |= np.where((mask | ~counts).all(1), EVERYTHING, 0)
            first, last = ends(mask[counts], sentences)
            keys, mine = first * (len(sentences) + 1) + last, start * (len(sentences) + 1) + end
            found[:, place] = np.isin(mine, keys)
            false = sentences[first[~np.isin(keys, mine)]]
            alarms[:, place] = np.bincount(false, minlength=len(truth))
        nothing = np.zeros(len(start))
        box = np.stack([places[start], nothing, places[end] + 1, nothing], 1).astype(np.float32)
        return Seen(
            sentences[start],
            found,
            box,
            np.ones(len(start), dtype=np.int64),
            alarms,
            np.zeros_like(alarms),
            flags,
        )


def _singles(mask: Booleans, sentences: Ints) -> tuple[Ints, Ints]:
    """First and last place of every token."""
    places = np.flatnonzero(mask)
    return places, places


def _runs(mask: Booleans, sentences: Ints) -> tuple[Ints, Ints]:
    """First and last place of every run within a sentence."""
    border = np.flatnonzero(np.diff(sentences)) + 1
    before = np.concatenate([[False], mask[:-1]])
    before[border] = False
    after = np.concatenate([mask[1:], [False]])
    after[border - 1] = False
    return np.flatnonzero(mask & ~before), np.flatnonzero(mask & ~after)
