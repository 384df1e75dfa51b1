"""How the next density is chosen and its round trained: the searches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from typing import ClassVar, Literal, TypeAlias

from lightning_classprune.rounds.rewind import Rewind
from lightning_classprune.rounds.schedules import AdaptiveSteps
from lightning_classprune.trainer import arguments


class AnySearch:
    """A search. No dataclass itself, so that LightningCLI asks for its class instead of guessing it from fields."""


@dataclass(frozen=True, kw_only=True)
class _Rounds(AnySearch):
    """What all searches share."""

    steps: ClassVar[AdaptiveSteps | None] = None

    rewind: str = "init"
    round_epochs: int | None = None
    on_refusal: Literal["stop", "retry"] = "stop"
    retries: int = 0
    max_rounds: int | None = None
    max_total_epochs: int | None = None

    def __post_init__(self) -> None:
        own = type(self).__name__
        point = Rewind.parse(self.rewind, f"{own}.rewind")
        arguments.one_of(f"{own}.on_refusal", self.on_refusal, ("stop", "retry"))
        object.__setattr__(self, "retries", arguments.whole(f"{own}.retries", self.retries, 0))
        if (self.on_refusal == "retry") != (self.retries > 0):
            raise ValueError(
                f"{own}.retries={self.retries} does not go with on_refusal={self.on_refusal!r}: 'retry' needs "
                "retries of 1 or more, 'stop' needs 0"
            )
        for name in ("round_epochs", "max_rounds", "max_total_epochs"):
            value = arguments.whole_or_none(f"{own}.{name}", getattr(self, name), 1)
            object.__setattr__(self, name, value)
        if self.round_epochs is not None and not point.trains_whole_schedules:
            raise ValueError(
                f"{own}.round_epochs={self.round_epochs!r} does not go with rewind={self.rewind!r}: only with "
                "rewind='init' or rewind='lr' does a round train by a whole schedule; drop one of the two"
            )

    @property
    def point(self) -> Rewind:
        """The rewind point."""
        return Rewind.parse(self.rewind, "rewind")


@dataclass(frozen=True, kw_only=True)
class Fixed(_Rounds):
    """The lottery ticket's search: every round prunes the same share of what remains (Frankle & Carbin 2019).

    Attributes:
        fraction: Share of the remaining units that one round prunes, in (0, 1).
        rewind: `"init"`, `"epoch:K"`, `"step:K"`, `"lr"` (accepted weights, fresh optimizer and schedule) or `"none"`.
        on_refusal: `"stop"`, or `"retry"` with half the step from the last accepted ticket, at most `retries` times.
        retries: Refusals that the run survives; they share the error budget.
        round_epochs: Length of every round after round 0 (rewind `init` or `lr`), with optimizers and schedules made
            anew for it; None for the length of round 0.
        max_rounds: Attempts after round 0; None for no limit.
        max_total_epochs: Epochs of all rounds together; a round that does not fit is not started.

    Raises:
        ValueError: An argument is out of range; the message names it.
    """

    fraction: float = 0.2

    def __post_init__(self) -> None:
        object.__setattr__(self, "fraction", arguments.share("Fixed.fraction", self.fraction))
        super().__post_init__()

    def length(self, epochs: int, steps: int) -> tuple[int, int] | None:
        """Epochs and steps of a round after round 0, -1 for no limit; None for what its rewind point has.

        Args:
            epochs: Of round 0.
            steps: Of round 0.
        """
        return None if self.round_epochs is None else (self.round_epochs, steps)


@dataclass(frozen=True, kw_only=True)
class Adaptive(_Rounds):
    """Steps chosen by validation data, which must not be the guard's; a hopeless candidate costs no guard test.

    See `rounds.schedules` for the steps, and for the proof that the guard's error level holds.

    Attributes:
        rewind: As `Fixed.rewind`.
        round_epochs: As `Fixed.round_epochs`; None for half of round 0, or, with a rewind point that has a length of
            its own, for that.
        on_refusal: As `Fixed.on_refusal`.
        retries: As `Fixed.retries`.
        max_rounds: As `Fixed.max_rounds`.
        max_total_epochs: As `Fixed.max_total_epochs`.

    Raises:
        ValueError: An argument is out of range; the message names it.
    """

    steps: ClassVar[AdaptiveSteps | None] = AdaptiveSteps()
    fraction: ClassVar[float] = 0.5  # of a plan, which does not ask for it

    rewind: str = "lr"
    on_refusal: Literal["stop", "retry"] = "retry"
    retries: int = 1
    max_rounds: int | None = 5

    def length(self, epochs: int, steps: int) -> tuple[int, int] | None:
        """See `Fixed.length`."""
        if self.round_epochs is None and self.point.trains_whole_schedules and epochs > 0:
            return ceil(epochs / 2), steps
        return None if self.round_epochs is None else (self.round_epochs, steps)


@dataclass(frozen=True, kw_only=True)
class Gradual(_Rounds):
    """The mask shrinks inside the round, along a cubic (Zhu & Gupta 2017, arXiv 1710.01878); one candidate a round.

    A round starts from the last accepted mask. Over `share` of it the mask shrinks to the candidate's density, cut by
    cut; the rest trains under it. Only that network is judged.

    Attributes:
        densities: Kept shares of the units that the candidates have, strictly decreasing, in (0, 1). Those beyond
            `target_sparsity` give way to it; densities of your own end where they end, these go on to the target.
        share: Share of a round over which its mask shrinks, in (0, 1).
        rewind: As `Fixed.rewind`.
        round_epochs: As `Fixed.round_epochs`; None for twice round 0, or, with a rewind point that has a length of its
            own, for that.
        on_refusal: As `Fixed.on_refusal`; the next candidate is half-way back, in ratios of density.
        retries: As `Fixed.retries`.
        max_rounds: As `Fixed.max_rounds`.
        max_total_epochs: As `Fixed.max_total_epochs`.

    Raises:
        ValueError: An argument is out of range; the message names it.
    """

    fraction: ClassVar[float] = 0.5  # of a plan, which does not ask for it

    densities: Sequence[float] = (0.1, 0.03, 0.01)
    share: float = 0.6
    rewind: str = "lr"

    def __post_init__(self) -> None:
        object.__setattr__(self, "share", arguments.share("Gradual.share", self.share))
        listed = isinstance(self.densities, Sequence) and not isinstance(self.densities, str)
        if not listed or not self.densities:
            raise ValueError(
                f"Gradual.densities={self.densities!r} must be one density or more, such as (0.1, 0.03)"
            )
        checked = tuple(arguments.share("Gradual.densities", density) for density in self.densities)
        if any(later >= earlier for earlier, later in pairwise(checked)):
            raise ValueError(
                f"Gradual.densities={self.densities!r} must be strictly decreasing: every round prunes more"
            )
        object.__setattr__(self, "densities", checked)
        super().__post_init__()

    @property
    def last(self) -> float | None:
        """The density at which the run ends whatever its target; None where the target ends it."""
        return None if self.densities == type(self).densities else self.densities[-1]

    def length(self, epochs: int, steps: int) -> tuple[int, int] | None:
        """See `Fixed.length`."""
        if self.round_epochs is not None:
            return self.round_epochs, steps
        if not self.point.trains_whole_schedules:
            return None
        return (2 * epochs if epochs > 0 else -1), (2 * steps if steps > 0 else -1)


Search: TypeAlias = Fixed | Adaptive | Gradual
#: Not `str`: a command line must be able to tell a name from the import path of a class.
SearchName = Literal["fixed", "adaptive", "gradual"]
SEARCHES: dict[str, type[Search]] = {"fixed": Fixed, "adaptive": Adaptive, "gradual": Gradual}


def read_search(search: str | AnySearch, *, survives_refusals: bool = True) -> Search:
    """The search behind its name, with its defaults; or the search itself.

    Args:
        search: A name, or a search.
        survives_refusals: Whether the guard's judging allows for retries, which are a default of some.

    Raises:
        ValueError: Neither.
    """
    if isinstance(search, Search):
        return search
    if not isinstance(search, str) or search not in SEARCHES:
        names = ", ".join(map(repr, SEARCHES))
        kinds = ", ".join(f"{kind.__name__}(...)" for kind in SEARCHES.values())
        raise ValueError(f"search={search!r} is unknown; allowed are {names}, or {kinds}")
    return SEARCHES[search]() if survives_refusals else SEARCHES[search](on_refusal="stop", retries=0)
