"""Settings: the constructor arguments of the callback, checked and in the form that the parts use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, isfinite
from numbers import Integral, Real
from typing import Any, cast

from lightning_classprune.criteria import Criterion, resolve_criterion
from lightning_classprune.granularity import GranularityName
from lightning_classprune.rewinding import Rewind
from lightning_classprune.schedules import Adaptive
from lightning_classprune.schedules import parse as parse_schedule
from lightning_classprune.selection import Scope
from lightning_classprune.tolerance import FNTolerance


@dataclass(frozen=True)
class Settings:
    """What one run is to do; see `ClassAwarePruningCallback` for the meaning of each."""

    num_classes: int
    protect: dict[int, FNTolerance]
    class_names: tuple[str, ...]
    confidence: float | None
    target_sparsity: float
    prune_fraction: float
    criterion: Criterion
    scope: Scope
    granularity: GranularityName
    threshold: float
    rewind: Rewind
    on_refusal: str
    retries: int
    max_rounds: int | None
    baseline: str
    schedule: Adaptive | None
    round_epochs: int | None
    max_total_epochs: int | None

    @classmethod
    def parse(
        cls,
        *,
        num_classes: int,
        protect: Mapping[int | str, float | FNTolerance],
        class_names: Sequence[str] | None,
        confidence: float | None,
        target_sparsity: float,
        prune_fraction: float,
        criterion: str | Criterion,
        scope: str,
        granularity: str,
        threshold: float,
        rewind: str,
        on_refusal: str,
        retries: int,
        max_rounds: int | None,
        baseline: str,
        schedule: str,
        round_epochs: int | None,
        max_total_epochs: int | None,
    ) -> Settings:
        """Check every argument.

        Raises:
            ValueError: Names the argument, its value, what is allowed and the fix.
        """
        _whole("num_classes", num_classes, 2)
        names = _class_names(class_names, num_classes)
        if confidence is not None:
            _inside("confidence", confidence, "or None for the plain point rule")
            if confidence < 0.5:
                raise ValueError(
                    f"confidence={confidence!r} is out of range: at least 0.5, or None for the point rule"
                )
        _inside("target_sparsity", target_sparsity)
        _inside("prune_fraction", prune_fraction)
        _one_of("scope", scope, ("global", "layer"))
        _one_of("on_refusal", on_refusal, ("stop", "retry"))
        _one_of("baseline", baseline, ("train", "current"))
        _whole("retries", retries, 0)
        if (on_refusal == "retry") != (retries > 0):
            raise ValueError(
                f"retries={retries} does not go with on_refusal={on_refusal!r}: 'retry' needs retries of 1 or more, "
                "'stop' needs 0"
            )
        _granularity(granularity, target_sparsity, prune_fraction, retries, schedule)
        limits = {
            "max_rounds": max_rounds,
            "round_epochs": round_epochs,
            "max_total_epochs": max_total_epochs,
        }
        for name, value in limits.items():
            if value is not None:
                _whole(name, value, 1)
        if not _is_number(threshold) or not isfinite(threshold):
            raise ValueError(
                f"threshold={threshold!r} is not a finite number; it is compared with raw scores"
            )
        point = Rewind.parse(rewind)
        if baseline == "current" and not point.keeps_weights:
            raise ValueError(
                f"baseline='current' judges the weights as they come, so rewind={rewind!r} has no earlier point; "
                "use rewind='lr' or rewind='none'"
            )
        if round_epochs is not None and point.kind not in ("init", "lr"):
            raise ValueError(
                f"round_epochs={round_epochs!r} does not go with rewind={rewind!r}: only with rewind='init' "
                "or rewind='lr' does a round train by a whole schedule"
            )
        return cls(
            int(num_classes),
            _protect(protect, names, confidence),
            names,
            None if confidence is None else float(confidence),
            float(target_sparsity),
            float(prune_fraction),
            resolve_criterion(criterion),
            cast(Scope, scope),
            cast(GranularityName, granularity),
            float(threshold),
            point,
            on_refusal,
            int(retries),
            None if max_rounds is None else int(max_rounds),
            baseline,
            parse_schedule(schedule),
            None if round_epochs is None else int(round_epochs),
            None if max_total_epochs is None else int(max_total_epochs),
        )

    @property
    def alpha(self) -> float | None:
        """Error level of the guard; exact in decimals, so that 0.95 gives 0.05."""
        return None if self.confidence is None else float(1 - Fraction(str(self.confidence)))

    @property
    def tolerances(self) -> dict[str, FNTolerance]:
        """The protected classes' tolerances by name."""
        return {self.class_names[i]: tolerance for i, tolerance in self.protect.items()}

    def target(self, total: int) -> int:
        """The smallest number of pruned units whose share of `total` is at least the target."""
        return ceil(Fraction(str(self.target_sparsity)) * total)

    def state_dict(self) -> dict[str, Any]:
        """Primitives that two runs must share for one to continue the other."""
        return {
            "num_classes": self.num_classes,
            "class_names": list(self.class_names),
            "protect": {name: t.to_dict() for name, t in self.tolerances.items()},
            "confidence": self.confidence,
            "target_sparsity": self.target_sparsity,
            "prune_fraction": self.prune_fraction,
            "criterion": getattr(self.criterion, "__qualname__", type(self.criterion).__qualname__),
            "scope": self.scope,
            "granularity": self.granularity,
            "threshold": self.threshold,
            "rewind": f"{self.rewind.kind}:{self.rewind.at}",
            "retries": self.retries,
            "max_rounds": self.max_rounds,
            "baseline": self.baseline,
            "schedule": "fixed" if self.schedule is None else "adaptive",
            "round_epochs": self.round_epochs,
            "max_total_epochs": self.max_total_epochs,
        }


def _class_names(class_names: Sequence[str] | None, num_classes: int) -> tuple[str, ...]:
    if class_names is None:
        return tuple(str(i) for i in range(num_classes))
    listed = isinstance(class_names, Sequence) and not isinstance(class_names, str)
    names = tuple(class_names) if listed and all(isinstance(name, str) for name in class_names) else ()
    if len(set(names)) != num_classes or len(names) != num_classes:
        raise ValueError(f"class_names={class_names!r} must be {num_classes} different names, one a class")
    return names


def _protect(
    protect: Mapping[int | str, float | FNTolerance], names: tuple[str, ...], confidence: float | None
) -> dict[int, FNTolerance]:
    if not isinstance(protect, Mapping) or not protect:
        raise ValueError(
            f"protect={protect!r} must map at least one class to its tolerance, for example {{1: 0.05}}"
        )
    parsed: dict[int, FNTolerance] = {}
    for key, value in protect.items():
        if isinstance(key, str):
            # YAML and command lines turn indices into strings.
            index = names.index(key) if key in names else int(key) if key.isdecimal() else -1
        else:
            index = int(key) if _is_whole(key) else -1
        if not 0 <= index < len(names):
            raise ValueError(
                f"protect: unknown class {key!r}; allowed are 0 to {len(names) - 1}"
                + (
                    f" or {', '.join(map(repr, names))}"
                    if names[0] != "0"
                    else ", or names with class_names=[...]"
                )
            )
        if index in parsed:
            raise ValueError(f"protect: class {names[index]!r} is given twice")
        try:
            tolerance = FNTolerance.of(value)
            tolerance.check_confidence(confidence)
        except ValueError as error:
            raise ValueError(f"protect[{key!r}]: {error}") from error
        parsed[index] = tolerance
    return parsed


def _granularity(
    granularity: str, target_sparsity: float, prune_fraction: float, retries: int, schedule: str
) -> None:
    _one_of("granularity", granularity, ("weight", "channel", "2:4"))
    if granularity != "2:4":
        return
    if target_sparsity != 0.5 or prune_fraction != 0.5:
        raise ValueError(
            f"granularity='2:4' is one step to exactly half of the weights, so target_sparsity={target_sparsity!r} "
            f"with prune_fraction={prune_fraction!r} cannot be met; use target_sparsity=0.5, prune_fraction=0.5"
        )
    if schedule != "fixed":
        raise ValueError(
            f"granularity='2:4' is one step, so schedule={schedule!r} has nothing to choose; use schedule='fixed'"
        )
    if retries:
        raise ValueError(
            f"granularity='2:4' has no smaller step to try again with, so retries={retries} does not go with it; "
            "use on_refusal='stop', retries=0"
        )


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _inside(name: str, value: float, otherwise: str = "") -> None:
    if not _is_number(value) or not 0 < value < 1:
        raise ValueError(
            f"{name}={value!r} is out of range: a number strictly between 0 and 1 {otherwise}".rstrip()
        )


def _whole(name: str, value: int, least: int) -> None:
    if not _is_whole(value) or value < least:
        raise ValueError(f"{name}={value!r} is out of range: a whole number of at least {least}")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is unknown: {' or '.join(map(repr, allowed))}")
