"""How a candidate is judged: the arguments of the guard."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from lightning_classprune.trainer import arguments


@dataclass(frozen=True, kw_only=True)
class Guard:
    """How a candidate is judged.

    Attributes:
        confidence: A round must be proven at this level by the exact paired test, in [0.5, 1); None for the plain
            point rule on counts.
        baseline: `"train"`: round 0 trains the dense network; `"current"`: the weights as they come are the dense
            network, and round 0 is skipped.

    Raises:
        ValueError: An argument is out of range; the message names it.
    """

    confidence: float | None = 0.95
    baseline: Literal["train", "current"] = "train"

    def __post_init__(self) -> None:
        if self.confidence is not None:
            arguments.share("Guard.confidence", self.confidence, "or None for the plain point rule")
            if self.confidence < 0.5:
                raise ValueError(
                    f"Guard.confidence={self.confidence!r} is out of range: at least 0.5, or None for the point rule"
                )
            object.__setattr__(self, "confidence", float(self.confidence))
        arguments.one_of("Guard.baseline", self.baseline, ("train", "current"))

    @property
    def alpha(self) -> float | None:
        """Error level of the guard; exact in decimals, so that 0.95 gives 0.05."""
        return None if self.confidence is None else float(1 - Fraction(str(self.confidence)))
