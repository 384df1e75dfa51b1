"""How a candidate is judged: the arguments of the guard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal

from lightning_classprune.guard.corrupted import Corruption, normalization_of, read_normalization
from lightning_classprune.guard.corruptions import CORRUPTIONS, Corrupt
from lightning_classprune.guard.protected import Protected
from lightning_classprune.guard.tolerance import FNTolerance
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
        corruptions: Name of a corruption (`guard.corruptions`), or a function `(images, generator) -> images` of one
            image `(1, channels, height, width)` in [0, 1] -> allowed rise of the FN rate under it, as in `protect`; or
            a pair of it and `max_fp_rise` under it. A candidate must also pass under each, dense and pruned network on
            the same corrupted images.
        normalization: Mean and standard deviation, a number a channel, that the guard's images were normalised by; by
            default the datamodule's property of this name, else they are uint8 or in [0, 1].

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
    corruptions: Mapping[Any, Any] | None = None
    normalization: Sequence[Any] | None = None

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
        if self.corruptions is not None:
            object.__setattr__(self, "corruptions", _read_corruptions(self.corruptions))
        if self.normalization is not None:
            read_normalization(self.normalization)
            if self.corruptions is None:
                raise ValueError(
                    f"Guard.normalization={self.normalization!r} is what corruptions need to know of the images, and "
                    "there are none; leave it out, or give corruptions"
                )
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

    def limits_under(self, protected: Sequence[Protected]) -> dict[str, tuple[Protected, ...]]:
        """What each protected class may lose under each corruption, by its name.

        Args:
            protected: The classes, with what each may lose without one.

        Raises:
            ValueError: A tolerance cannot be tested with the confidence.
        """
        limits: dict[str, tuple[Protected, ...]] = {}
        for key, (tolerance, *rise) in (self.corruptions or {}).items():
            try:
                tolerance.check_confidence(self.confidence)
            except ValueError as error:
                raise ValueError(f"Guard.corruptions[{_name(key)!r}]: {error}") from error
            limits[_name(key)] = tuple(
                replace(one, tolerance=tolerance, max_fp_rise=rise[0] if rise else one.max_fp_rise)
                for one in protected
            )
        return limits

    def corruption(self, name: str, datamodule: Any) -> Corruption:
        """A corruption that was named or given, for images as the data yield them.

        Args:
            name: Its name.
            datamodule: The trainer's; its `normalization` is taken unless one is named.

        Raises:
            ValueError: The datamodule's property of that name is something else.
        """
        (key,) = (key for key in self.corruptions or {} if _name(key) == name)
        given = self.normalization
        known = normalization_of(datamodule) if given is None else read_normalization(given)
        return Corruption(name, CORRUPTIONS[key] if isinstance(key, str) else key, known)

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


def _read_corruptions(given: object) -> dict[str | Corrupt, tuple[Any, ...]]:
    """Name or function -> tolerance, and false-alarm limit where one was given."""
    if not isinstance(given, Mapping) or not given:
        raise ValueError(
            f"Guard.corruptions={given!r} must map at least one corruption to the allowed rise of the FN rate under "
            'it, for example {"gaussian_noise": 0.08}, or be None'
        )
    read: dict[str | Corrupt, tuple[Any, ...]] = {}
    names = set[str]()
    for key, value in given.items():
        if not (key in CORRUPTIONS if isinstance(key, str) else callable(key)):
            raise ValueError(
                f"Guard.corruptions: {key!r} is no corruption; there are {', '.join(CORRUPTIONS)}, and functions "
                "(images, generator) -> images"
            )
        if (name := _name(key)) in names:
            raise ValueError(f"Guard.corruptions: {name!r} is given twice; give functions names of their own")
        names.add(name)
        try:
            read[key] = _read_limits(value)
        except ValueError as error:
            raise ValueError(f"Guard.corruptions[{name!r}]={value!r}: {error}") from error
    return read


def _read_limits(value: object) -> tuple[Any, ...]:
    if isinstance(value, Sequence) and not isinstance(value, str):
        if not 1 <= len(value) <= 2:
            raise ValueError("must be a tolerance, or a pair of one and max_fp_rise")
        return (FNTolerance.of(value[0]), *(_one_rise(rise) for rise in value[1:]))
    return (FNTolerance.of(value),)  # type: ignore[arg-type]


def _name(key: str | Corrupt) -> str:
    """What a corruption is called in the ledger."""
    if isinstance(key, str):
        return key
    return str(getattr(key, "__name__", type(key).__name__))


def _unguarded(rise: object) -> bool:
    return rise is None or (isinstance(rise, Mapping) and None in rise.values())
