"""Granularities: the registry of what one unit of pruning can be. A new one is a file of its own and a line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning_utilities.core.rank_zero import rank_zero_info

from lightning_classprune.pruning.channel_units import find_channel_units
from lightning_classprune.pruning.parameters import gates_of
from lightning_classprune.pruning.two_four import find_two_of_four
from lightning_classprune.pruning.units import SingleWeights, Surroundings, Units


@dataclass(frozen=True)
class Granularity:
    """One kind of unit.

    Attributes:
        find: Looks for the units of a network, and says which layers stay dense and why; ValueError if there are none.
        sharded: Whether pieces of weights do.
        one_step: The only sparsity that there is, reached in one step; None for any.
    """

    find: Callable[[Surroundings], tuple[Units, list[str]]]
    sharded: bool = False
    one_step: Fraction | None = None

    def check(self, name: str, target_sparsity: float, fraction: float | None, retries: int) -> None:
        """Refuse a plan that these units cannot follow.

        Args:
            name: Of the granularity.
            target_sparsity: That the run aims at.
            fraction: Share that one round prunes; None if validation data choose it.
            retries: Refusals that the run survives.

        Raises:
            ValueError: Says what to use instead.
        """
        if self.one_step is None:
            return
        step, cut = float(self.one_step), f"Cut.granularity={name!r}"
        if fraction is None:
            raise ValueError(
                f"{cut} is one step, so search='adaptive' has nothing to choose; use search=Fixed(fraction={step:g})"
            )
        if target_sparsity != step or fraction != step:
            raise ValueError(
                f"{cut} is one step to exactly {step:.0%} of the weights, so target_sparsity={target_sparsity!r} with "
                f"Fixed.fraction={fraction!r} cannot be met; use target_sparsity={step:g}, "
                f"search=Fixed(fraction={step:g})"
            )
        if retries:
            raise ValueError(
                f"{cut} has no smaller step to try again with, so retries={retries} does not go with it; "
                "use on_refusal='stop', retries=0"
            )


def _single_weights(here: Surroundings) -> tuple[SingleWeights, list[str]]:
    gates = gates_of(here.module, here.parameters)
    return SingleWeights(here.parameters, here.scope, here.sharding, here.by_layer, gates), []


GRANULARITIES: dict[str, Granularity] = {
    "weight": Granularity(_single_weights, sharded=True),
    "channel": Granularity(find_channel_units),
    "2:4": Granularity(find_two_of_four, one_step=Fraction(1, 2)),
}


def find_units(name: str, surroundings: Surroundings) -> Units:
    """What a run cuts.

    Raises:
        MisconfigurationException: The model is sharded and these units need whole weights, or nothing can be cut so.
    """
    granularity = GRANULARITIES[name]
    if surroundings.sharding and not granularity.sharded:
        raise MisconfigurationException(
            f"granularity={name!r} needs whole weights, and FSDP2 cuts them into pieces; "
            "use one device or strategy='ddp', or granularity='weight'"
        )
    try:
        units, stays = granularity.find(surroundings)
    except ValueError as error:
        raise MisconfigurationException(f"granularity={name!r}: {error}") from error
    if name != "weight":
        dense = f"; dense stay {', '.join(stays)}" if stays else ""
        rank_zero_info(f"granularity={name!r}: {units.total} {units.name} can be pruned{dense}")
    return units
