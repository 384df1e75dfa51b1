"""Tolerance: how far the false negatives of a protected class may rise, as users say it and as counts compare."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from numbers import Integral, Real
from typing import Any


@dataclass(frozen=True)
class FNTolerance:
    """How far the false negatives of a protected class may rise over those of the dense network.

    Exactly one of ``rate`` (of the class' positives, in [0, 1]), ``count`` (whole number >= 0) and ``factor``
    (of the dense network's false negatives, >= 1; point rule only). ``recall_floor`` in (0, 1) may stand
    beside it. ValueError otherwise.
    """

    rate: float | None = None
    count: int | None = None
    factor: float | None = None
    recall_floor: float | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("rate", "count", "factor") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"FNTolerance needs exactly one of rate, count and factor, got {' and '.join(given) or 'none'}"
            )
        in_words = "a number in [0, 1] (misses are a count, multiples a factor)"
        self._settle("rate", in_words, float, lambda x: 0 <= x <= 1)
        self._settle("count", "a whole number >= 0", int, lambda x: x >= 0)
        self._settle("factor", "a finite number >= 1", float, lambda x: 1 <= x < math.inf)
        self._settle("recall_floor", "a number in (0, 1)", float, lambda x: 0 < x < 1)

    def _settle(self, name: str, allowed: str, kind: type, within: Callable[[Any], bool]) -> None:
        """Check one field and make it a plain Python number, so that it can be saved and compared."""
        value = getattr(self, name)
        if value is None:
            return
        if not _is_number(value, Integral if kind is int else Real) or not within(value):
            raise ValueError(f"FNTolerance: {name} must be {allowed}, got {value!r}")
        object.__setattr__(self, name, kind(value))

    @classmethod
    def of(cls, value: float | FNTolerance) -> FNTolerance:
        """Read a tolerance as users write it: a plain number is a rate in [0, 1]; ValueError otherwise."""
        return value if isinstance(value, FNTolerance) else cls(rate=value)

    def check_confidence(self, confidence: float | None) -> None:
        """Raise ValueError where this tolerance cannot be tested with a confidence."""
        if self.factor is not None and confidence is not None:
            raise ValueError(
                f"FNTolerance: factor needs confidence=None, got factor={self.factor:g} and "
                f"confidence={confidence:g}; the exact test can prove a rate or a count"
            )

    def extra_misses(self, support: int, baseline_fn: int) -> Fraction:
        """Further misses that the point rule allows, without rounding: .05 of 20 is 1 exactly."""
        if self.count is not None:
            return Fraction(self.count)
        if self.factor is not None:
            return (fraction(self.factor) - 1) * baseline_fn
        assert self.rate is not None
        return fraction(self.rate) * support

    def rise(self, support: int, baseline_fn: int) -> float:
        """Allowed rise of the FN rate, at most 1, for a class with ``support`` >= 1 positives; else ValueError."""
        if support < 1:
            raise ValueError(f"support must be at least 1 for a rate, got {support}")
        return min(1.0, float(self.extra_misses(support, baseline_fn) / support))

    def to_dict(self) -> dict[str, float | int | None]:
        """Plain primitives, for saving and comparing."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> FNTolerance:
        """The tolerance that ``to_dict`` wrote."""
        return cls(**state)


def fraction(value: float) -> Fraction:
    """The fraction meant by a float: 1/20 for .05, 1/3 for .333..., so that comparing counts is exact."""
    return Fraction(value).limit_denominator(10**9)


def _is_number(value: object, kind: type) -> bool:
    # A bool is an integer to Python, but True is nobody's number of misses.
    return isinstance(value, kind) and not isinstance(value, bool)
