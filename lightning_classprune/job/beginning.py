"""What a job says before it trains: its data, and how long it may take."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

from lightning_classprune.job.data.base import SplitDataModule
from lightning_classprune.job.data.splits import PARTS
from lightning_classprune.rounds.options import Search
from lightning_classprune.rounds.plan import ABANDONS, largest_number_of_tests, planned
from lightning_classprune.rounds.settings import Settings

#: Prunable weights of the network that the number of rounds is told for; it hardly depends on them.
_WEIGHTS = 1_000_000


def data_line(data: SplitDataModule, protected: Sequence[int]) -> str:
    """The samples of each part, and of each protected class among them where that is known."""
    return f"data: {', '.join(data.told(part, protected) for part in PARTS)}"


def length_line(settings: Settings | None, trainer: Any, batches: int) -> str:
    """The rounds, and the epochs of all of them, at most.

    Args:
        settings: Of the pruning; None where nothing is pruned.
        trainer: Its limits are those of a round.
        batches: Of an epoch.
    """
    first, steps = trainer.max_epochs, trainer.max_steps
    if steps != -1 and (first in (None, -1) or ceil(steps / max(batches, 1)) < first):
        told = f"{steps:,} steps"
        return f"length: {told}" if settings is None else f"length: {told} a round, {_rounds_told(settings)}"
    if first in (None, -1):
        return "length: no limit"
    epochs = f"{first} epoch{'s' * (first != 1)} of {batches:,} batch{'es' * (batches != 1)}"
    if settings is None:
        return f"length: {epochs}"
    search, rounds = settings.search, most_rounds(settings)
    later = later_epochs(search, first)
    total = first + rounds * later
    if search.max_total_epochs is not None:
        total = min(total, search.max_total_epochs)
    return f"length: {epochs} for the dense network, then {_rounds_told(settings)} of {later}: at most {total:,} epochs"


def _rounds_told(settings: Settings) -> str:
    rounds = most_rounds(settings)
    return f"at most {rounds} round{'s' * (rounds != 1)}"


def later_epochs(search: Search, first: int) -> int:
    """Epochs of a round after the dense one."""
    point, length = search.point, search.length(first, -1)
    if length is not None:
        return length[0]
    return first - (point.at if point.kind == "epoch" else 0)


def most_rounds(settings: Settings) -> int:
    """Rounds after the dense one, at most: those that are judged, and those that validation data give up."""
    plan = planned(settings, _WEIGHTS, settings.target(_WEIGHTS))
    given_up = ABANDONS if settings.asks_validation else 0
    if plan.chosen is not None:
        given_up = plan.chosen.abandons
    rounds = largest_number_of_tests(plan) + given_up
    return rounds if plan.max_rounds is None else min(rounds, plan.max_rounds)
