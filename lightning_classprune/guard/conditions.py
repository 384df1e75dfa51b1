"""Conditions: under what the guard's cases are looked at besides as they come, and what may be lost there.

A candidate must pass under every condition. That is an intersection-union test: each is made at the full level, for a
candidate that breaks one limit must pass the very test of that limit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from lightning_classprune.guard.evidence import Evidence
from lightning_classprune.guard.protected import Protected
from lightning_classprune.guard.task import Columns, Outcomes

#: What becomes of a batch as the loader gives it.
Change: TypeAlias = Callable[[Any], Any]


@dataclass(frozen=True)
class Condition:
    """Something that is done to every batch.

    Attributes:
        name: As in the ledger.
        change: What is done.
        protected: The protected classes with what each may lose under it.
    """

    name: str
    change: Change
    protected: tuple[Protected, ...]


@dataclass(frozen=True)
class Looks:
    """What a network says of all cases: as they come, and under every condition by its name."""

    plain: Columns
    under: Mapping[str, Columns] = field(default_factory=dict)


@dataclass(frozen=True)
class Throughout:
    """What a network decides about the cases as they come, which all but `under` speaks of, and under conditions.

    Attributes:
        plain: Of the cases as they come.
        under: By the condition's name.
    """

    plain: Outcomes
    under: Mapping[str, Outcomes]

    def __len__(self) -> int:
        """Number of cases."""
        return len(self.plain)

    def same_cases(self, other: Any) -> bool:
        """Whether another network's outcomes are of the same cases."""
        return self.plain.same_cases(plain(other))

    def same_decisions(self, other: Any) -> bool:
        """Whether another network decides every case alike under every condition."""
        if not self.plain.same_decisions(plain(other)):
            return False
        return all(one.same_decisions(under(other, name)) for name, one in self.under.items())

    def pairs(self, dense: Any, name: str) -> tuple[Evidence, Evidence]:
        """Paired counts of one class against the dense network's outcomes."""
        return self.plain.pairs(plain(dense), name)

    def mistakes(self, dense: Any) -> Evidence:
        """Paired counts of wrong decisions of whatever class."""
        return self.plain.mistakes(plain(dense))

    def remarks(self) -> list[str]:
        """What a reader should know of such a network."""
        return self.plain.remarks()

    def state_dict(self) -> dict[str, Any]:
        """Plain tensors and primitives; under conditions each with the condition's name."""
        beside = {
            f"{name}/{key}": value
            for name, one in self.under.items()
            for key, value in one.state_dict().items()
        }
        return self.plain.state_dict() | beside


def plain(outcomes: Any) -> Any:
    """The outcomes of the cases as they come."""
    return outcomes.plain if isinstance(outcomes, Throughout) else outcomes


def under(outcomes: Any, name: str | None) -> Any:
    """The outcomes under a condition; of no name those of the cases as they come."""
    return plain(outcomes) if name is None else outcomes.under[name]
