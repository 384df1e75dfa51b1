"""How a candidate is judged: the arguments of the guard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from lightning_classprune.guard.units import CLUSTERS, Cluster
from lightning_classprune.trainer import arguments


@dataclass(frozen=True, kw_only=True)
class Guard:
    """How a candidate is judged.

    Attributes:
        confidence: A round must be proven at this level by the exact paired test, in [0.5, 1); None for the plain
            point rule on counts.
        baseline: `"train"`: round 0 trains the dense network; `"current"`: the weights as they come are the dense
            network, and round 0 is skipped.
        max_fp_rise: Allowed rise of the false-alarm rate of each protected class among the other cases, in [0, 1]; or
            by class, as in `protect`; None: false alarms are not guarded, and every sentence says so.
        offset: `"validation"`: the candidate's decision offset is chosen on validation data, which must not be the
            guard's, so that it is judged where it is best on its ROC curve; `"none"`: it is judged as it is.
        judging: `"round"`: the guard judges each round, in a fixed sequence; `"end"`: validation data accept and
            refuse during the run, and the guard judges the candidates that were kept once, with Holm's procedure.
        cluster: How the cases of a unit - the objects of an image, the samples of one case id - become its evidence:
            `"one"`: one of them is drawn, with a fixed seed; `"any"`: a unit is missed if any is; `"betting"`: the mean
            of each unit is tested by betting. Without objects or ids every case is a unit, and nothing changes.
        epoch: Whose network of a round is judged, kept and delivered: that of the `"last"` epoch, or of the `"best"`
            one by the monitor of the trainer's ModelCheckpoint (else EarlyStopping), which must not read guard data.

    Raises:
        ValueError: An argument is out of range; the message names it.
    """

    confidence: float | None = 0.95
    baseline: Literal["train", "current"] = "train"
    max_fp_rise: float | Mapping[int | str, float | None] | None = 0.10
    offset: Literal["none", "validation"] = "none"
    judging: Literal["round", "end"] = "round"
    epoch: Literal["last", "best"] = "last"
    cluster: Cluster = "one"

    def __post_init__(self) -> None:
        if self.confidence is not None:
            arguments.share("Guard.confidence", self.confidence, "or None for the plain point rule")
            if self.confidence < 0.5:
                raise ValueError(
                    f"Guard.confidence={self.confidence!r} is out of range: at least 0.5, or None for the point rule"
                )
            object.__setattr__(self, "confidence", float(self.confidence))
        arguments.one_of("Guard.baseline", self.baseline, ("train", "current"))
        object.__setattr__(self, "max_fp_rise", _read_rise(self.max_fp_rise))
        arguments.one_of("Guard.offset", self.offset, ("none", "validation"))
        arguments.one_of("Guard.judging", self.judging, ("round", "end"))
        arguments.one_of("Guard.epoch", self.epoch, ("last", "best"))
        arguments.one_of("Guard.cluster", self.cluster, CLUSTERS)
        if self.offset == "validation" and _unguarded(self.max_fp_rise):
            raise ValueError(
                f"Guard.offset='validation' with max_fp_rise={self.max_fp_rise!r}: an offset alone accepts nearly "
                "every network, at any price in false alarms; give max_fp_rise for every protected class, or "
                "offset='none'"
            )
        if self.judging == "end" and self.confidence is None:
            raise ValueError(
                "Guard.judging='end' with confidence=None: there are no p-values to judge by; give a confidence, or "
                "judging='round'"
            )

    @property
    def alpha(self) -> float | None:
        """Error level of the guard; exact in decimals, so that 0.95 gives 0.05."""
        return None if self.confidence is None else float(1 - Fraction(str(self.confidence)))


def _read_rise(rise: object) -> object:
    if isinstance(rise, Mapping):
        if not rise:
            raise ValueError("Guard.max_fp_rise={} names no class: a number, a mapping, or None")
        return {key: _one_rise(value) for key, value in rise.items()}
    return _one_rise(rise)


def _one_rise(rise: object) -> float | None:
    if rise is None:
        return None
    if not arguments.is_number(rise) or not 0 <= rise <= 1:  # type: ignore[operator]
        raise ValueError(
            f"Guard.max_fp_rise={rise!r} is out of range: a number in [0, 1], or None to leave false alarms unguarded"
        )
    return float(rise)  # type: ignore[arg-type]


def _unguarded(rise: object) -> bool:
    return rise is None or (isinstance(rise, Mapping) and None in rise.values())
