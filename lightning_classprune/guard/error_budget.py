"""Error budget: at which level each test of a run may be made, so that the run as a whole keeps its confidence."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any

#: Share of the error level up to the first refusal, where retries may follow; they share what is left.
FIRST_SHARE = 0.75


@dataclass(frozen=True)
class ErrorBudget:
    """Error spent over the tests of one run, so that P(any harmful candidate is accepted) <= ``alpha``.

    ``retries == 0``, the fixed sequence: every test at alpha, stop at the first refusal. A false acceptance
    needs the *first* harmful candidate to be accepted; which candidate that is does not depend on the guard
    data, since up to it all were accepted, and that one test errs with probability <= alpha. (Maurer, Hothorn
    & Lehmacher 1995.)

    ``retries = R > 0``, strict: call the tests between two refusals a segment. Candidates depend on the guard
    data only through earlier outcomes, and these are known from the positions of the refusals, so the r
    refusals before a segment fix its candidates: it is a fixed sequence, wrong with probability <= its level.
    There is one segment with r = 0, at 3/4 of alpha. A later one has a test at all only if the r refusals before
    it lie among the first M - 1 of M = ``max_tests`` tests, so there are at most C(M - 1, r) of them, at
    (alpha / 4) / (R C(M - 1, r)) each. The sum over all is at most 3/4 alpha + R (alpha / 4) / R = alpha,
    whatever the dependence. Why three quarters: ``benchmarks.error_budget``.

    ``alpha`` in (0, 0.5], or None for the point rule, which makes no such promise; ``max_tests`` >= 1 must be
    fixed before the first test. ValueError otherwise. Immutable: ``spend`` returns the state after a test.
    """

    alpha: float | None
    retries: int
    max_tests: int
    tests: int = 0
    refusals: int = 0

    def __post_init__(self) -> None:
        check_level("alpha", self.alpha)
        for name, least in (("retries", 0), ("max_tests", 1), ("tests", 0), ("refusals", 0)):
            value = getattr(self, name)
            # A bool is an integer to Python.
            if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
                raise ValueError(f"ErrorBudget: {name} must be a whole number >= {least}, got {value!r}")
        if not self.refusals <= self.tests <= self.max_tests or self.refusals > self.retries + 1:
            raise ValueError(f"ErrorBudget: tests and refusals must have been reachable, got {self}")

    @property
    def exhausted(self) -> bool:
        """Whether no further test is allowed."""
        return self.tests >= self.max_tests or self.refusals > self.retries

    def level(self) -> float | None:
        """Level of the next test, None for the point rule; RuntimeError if no further test is allowed."""
        if self.exhausted:
            raise RuntimeError(
                f"no test is left: {self.tests} of max_tests={self.max_tests} done, "
                f"{self.refusals} refusals with retries={self.retries}"
            )
        if self.alpha is None or self.retries == 0:
            return self.alpha
        if self.refusals == 0:
            return self.alpha * FIRST_SHARE
        left = self.alpha * (1 - FIRST_SHARE)
        return left / (self.retries * math.comb(self.max_tests - 1, self.refusals))

    def spend(self, accepted: bool) -> ErrorBudget:
        """The budget after one more test; RuntimeError if none is allowed."""
        self.level()
        return dataclasses.replace(self, tests=self.tests + 1, refusals=self.refusals + (not accepted))

    def to_dict(self) -> dict[str, float | int | None]:
        """Plain primitives, for saving: a resumed run must not win its retries back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> ErrorBudget:
        """The budget that ``to_dict`` wrote."""
        return cls(**state)


def check_level(name: str, level: float | None) -> None:
    """Raise ValueError for an error level outside (0, 0.5]; None is the point rule's."""
    if level is not None and not 0 < level <= 0.5:
        raise ValueError(f"{name} must be in (0, 0.5] or None, got {level!r}")
