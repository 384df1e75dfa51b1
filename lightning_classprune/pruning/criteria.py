"""Criteria: the score of every weight; the weights of smallest score are pruned first.

Most are functions `(weight, rewind point) -> score` of two tensors of one shape, which return a real tensor of that
shape, without NaN. One that has to look at the network or at training data first is a `PreparedCriterion`. Both must
be deterministic: selection asks several times for the same scores rather than keep all in memory.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from lightning_classprune.pruning.class_gradient import ClassGradient
from lightning_classprune.pruning.masks import Masks, places_of
from lightning_classprune.pruning.moments import GradientMoments
from lightning_classprune.pruning.scoring import Scoring
from lightning_classprune.trainer.identity import identity

Function: TypeAlias = Callable[[Tensor, Tensor], Tensor]
# Not `str`: a command line must be able to tell a name from the import path of a function.
CriterionName = Literal[
    "magnitude",
    "magnitude_increase",
    "random",
    "lamp",
    "gradient",
    "lamp_gradient",
    "class_gradient",
    "class_lamp_gradient",
]


@runtime_checkable
class PreparedCriterion(Protocol):
    """A criterion that looks at the network and at training data before it scores.

    It may also have `state_dict()`, in tensors and primitives, and `load_state_dict(state)`: checkpoints then hold its
    state, a resumed run goes on with it, and a run whose criterion began in another state is refused.
    """

    def prepare(self, scoring: Scoring) -> None:
        """Look; on all processes alike, after every verdict and before the masks that follow from it."""
        ...

    def score(self, name: str, weight: Tensor, rewind_point: Tensor) -> Tensor:
        """Scores in the shape of the weight, which is a piece of it in a sharded model.

        Args:
            name: Of the parameter.
            weight: Its present values.
            rewind_point: Its values at the rewind point, or the weight itself where none is kept.
        """
        ...


@runtime_checkable
class ListeningCriterion(PreparedCriterion, Protocol):
    """A criterion that hears the gradients of the training, before every optimizer step.

    Its state is that of one training: it is the first one again when a round begins. Where a round goes back to the
    last accepted network, it is the state that this network's training left. It may have `memory`, a number of
    optimizer steps: earlier ones before the end of a round are then not told, where that end is known.
    """

    def observe(self, gradients: Mapping[str, Tensor]) -> None:
        """Hear what one optimizer is about to use, before clipping: reduced, accumulated, unscaled and finite.

        Args:
            gradients: By name of the parameter, masked where it is pruned; pieces in a sharded model. They change
                afterwards. Parameters without a gradient are not among them.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Tensors and primitives; tensors by name of a parameter and in its shape may be pieces."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        ...


def magnitude(weight: Tensor, rewind_point: Tensor) -> Tensor:
    """|w| (Han et al. 2015, arXiv 1506.02626)."""
    return weight.abs()


def magnitude_increase(weight: Tensor, rewind_point: Tensor) -> Tensor:
    """|w| - |w_0| (Zhou et al. 2019, arXiv 1905.01067; the criterion of Entezari & Saukh 2019)."""
    return weight.abs() - rewind_point.abs()


def random(weight: Tensor, rewind_point: Tensor) -> Tensor:
    """A hash of the weight's bits and its place: a control that looks at no size, the same on every process.

    Hashing (the finalizer of SplitMix64, Steele et al. 2014) instead of drawing keeps the user's random state and the
    determinism that selection needs.
    """
    bits = weight.double().view(torch.int64) + 0x1E3779B97F4A7C15 * torch.arange(
        1, weight.numel() + 1, device=weight.device
    ).view(weight.shape)
    bits = (bits ^ ((bits >> 30) & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    bits = (bits ^ ((bits >> 27) & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return (bits ^ ((bits >> 31) & 0x1FFFFFFFF)).double()


@dataclass(frozen=True)
class Named:
    """What stands behind a name.

    Attributes:
        make: Gives the criterion; one with a state is made anew for every run.
        by_layer: Its scores count relative to those of their layer (`lamp`).
    """

    make: Callable[[], Function | PreparedCriterion]
    by_layer: bool = False


CRITERIA: dict[str, Named] = {
    "magnitude": Named(lambda: magnitude),
    "magnitude_increase": Named(lambda: magnitude_increase),
    "random": Named(lambda: random),
    "lamp": Named(lambda: magnitude, by_layer=True),
    "gradient": Named(GradientMoments),
    "lamp_gradient": Named(GradientMoments, by_layer=True),
    "class_gradient": Named(ClassGradient),
    "class_lamp_gradient": Named(ClassGradient, by_layer=True),
}


def check_criterion_argument(criterion: Any) -> None:
    """Refuse what is no criterion.

    Raises:
        ValueError: Unknown name, or an object that lacks a method.
    """
    if callable(getattr(criterion, "observe", None)) and not isinstance(criterion, ListeningCriterion):
        raise ValueError(
            f"Cut.criterion={criterion!r} listens to gradients (it has observe), so it also needs prepare(scoring), "
            "score(name, weight, rewind_point), state_dict() and load_state_dict(state): its state goes back with the "
            "weights"
        )
    if callable(criterion) or isinstance(criterion, PreparedCriterion):
        return
    if not isinstance(criterion, str) or criterion not in CRITERIA:
        raise ValueError(
            f"Cut.criterion={criterion!r} is unknown; allowed are {', '.join(map(repr, CRITERIA))}, a callable "
            "(weight, rewind_point) -> scores, or an object with prepare(scoring) and score(name, weight, rewind_point)"
        )


@dataclass(frozen=True)
class Criterion:
    """A criterion as a run uses it, whichever of its forms it was given in; made before the first fit.

    Attributes:
        given: What the user gave, a name resolved.
        by_layer: Scores count relative to those of their layer (`lamp`).
        initial: Its state at first; None if it has none.
        identity: What another run's must be for one to continue the other.
    """

    given: Function | PreparedCriterion
    by_layer: bool
    initial: dict[str, Any] | None
    identity: Any

    @classmethod
    def of(cls, criterion: str | Function | PreparedCriterion) -> Criterion:
        """Take a criterion in its initial state; of a name, one of its own.

        Raises:
            ValueError: See `check_criterion_argument`.
        """
        check_criterion_argument(criterion)
        named = CRITERIA[criterion] if isinstance(criterion, str) else Named(lambda: criterion)
        given = named.make()
        stateful = (
            not isinstance(given, type) and hasattr(given, "state_dict") and hasattr(given, "load_state_dict")
        )
        state = copy.deepcopy(given.state_dict()) if stateful else None  # type: ignore[union-attr]
        told = identity(given)
        return cls(given, named.by_layer, state, {"by_layer": told} if named.by_layer else told)

    @property
    def looks_first(self) -> bool:
        """Whether it is prepared."""
        return isinstance(self.given, PreparedCriterion)

    @property
    def compares(self) -> bool:
        """Whether it looks at the rewind point."""
        return not self.is_pointwise  # nor does one of ours that is look at it

    @property
    def is_pointwise(self) -> bool:
        """Whether a weight's score is known to depend on no other weight."""
        return self.given is magnitude or isinstance(self.given, GradientMoments | ClassGradient)

    @property
    def listens(self) -> bool:
        """Whether it hears the gradients of the training."""
        return isinstance(self.given, ListeningCriterion)

    @property
    def memory(self) -> int | None:
        """Optimizer steps before the end of a round that it needs to hear; None for all."""
        return getattr(self.given, "memory", None)

    @property
    def is_deaf(self) -> bool:
        """Whether it listens and has heard nothing, as far as can be told."""
        return isinstance(self.given, GradientMoments) and not self.given.has_heard

    def observe(self, gradients: Mapping[str, Tensor]) -> None:
        """See `ListeningCriterion.observe`."""
        if isinstance(self.given, ListeningCriterion):
            self.given.observe(gradients)

    @property
    def places(self) -> Mapping[str, Tensor]:
        """See `GradientMoments.places`."""
        return self.given.places if isinstance(self.given, GradientMoments) else {}

    def keep(self, masks: Masks) -> None:
        """See `GradientMoments.keep`."""
        if isinstance(self.given, GradientMoments):
            self.given.keep(masks)

    def kept(self, name: str, mask: Tensor) -> Tensor:
        """Flat indices of what a mask keeps of a tensor, ascending."""
        return self.given.kept(name, mask) if isinstance(self.given, GradientMoments) else places_of(mask)

    def prepare(self, scoring: Scoring) -> None:
        """Let it look, if it does."""
        if isinstance(self.given, PreparedCriterion):
            self.given.prepare(scoring)

    def score(self, name: str, weight: Tensor, rewind_point: Tensor) -> Tensor:
        """See `PreparedCriterion.score`."""
        if isinstance(self.given, PreparedCriterion):
            return self.given.score(name, weight, rewind_point)
        return self.given(weight, rewind_point)

    def score_at(self, name: str, weight: Tensor, places: Tensor) -> Tensor:
        """See `GradientMoments.score_at`; of one that `is_pointwise`."""
        if isinstance(self.given, GradientMoments | ClassGradient):
            return self.given.score_at(name, weight, places)
        return magnitude(weight, weight)

    def state_dict(self) -> dict[str, Any] | None:
        """Its state, for a checkpoint."""
        return None if self.initial is None else copy.deepcopy(self.given.state_dict())  # type: ignore[union-attr]

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Give it a state that it had."""
        if self.initial is not None:
            self.given.load_state_dict(copy.deepcopy(state))  # type: ignore[union-attr]

    def restart(self) -> None:
        """Give it the state that it had at first: a run begins."""
        self.load_state_dict(self.initial)
