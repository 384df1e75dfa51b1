"""The guard: judges a pruned candidate against the dense network, one protected class at a time.

Evidence (paired counts on the same samples) and a tolerance go in, a verdict with its reason comes out.
Without a level the plain point rule compares counts; with one, the exact paired test decides what is proven
at that error level.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from numbers import Integral, Real
from typing import Any, Literal, TypeAlias

from lightning_classprune import statistics

Outcome: TypeAlias = Literal["accepted", "refused", "unproven"]

_WORST_FIRST: tuple[Outcome, ...] = ("refused", "unproven")
POWER = 0.8
# Beyond, the reported bound is Tango's: the two agree to 1e-4 by then, and the exact one takes a second or more.
EXACT_BOUND_UP_TO = 5000


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
            return (_fraction(self.factor) - 1) * baseline_fn
        assert self.rate is not None
        return _fraction(self.rate) * support

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


@dataclass(frozen=True)
class Evidence:
    """Paired counts of one protected class: dense network and candidate on the same ``support`` positives.

    ValueError where the counts contradict each other.
    """

    support: int
    baseline_missed: int
    newly_missed: int
    newly_found: int

    def __post_init__(self) -> None:
        if min(dataclasses.astuple(self)) < 0 or self.baseline_missed > self.support:
            raise ValueError(f"counts must be >= 0 and baseline_missed at most support, got {self}")
        if self.newly_found > self.baseline_missed:
            raise ValueError(f"newly_found must be at most baseline_missed, got {self}")
        if self.newly_missed > self.support - self.baseline_missed:
            raise ValueError(f"newly_missed must be at most support - baseline_missed, got {self}")

    @property
    def fn(self) -> int:
        """False negatives of the candidate."""
        return self.baseline_missed + self.newly_missed - self.newly_found

    @property
    def recall(self) -> float | None:
        """Recall of the candidate; None without positives."""
        return 1 - self.fn / self.support if self.support else None


@dataclass(frozen=True)
class ClassVerdict:
    """The judgement of one protected class.

    ``p_value`` (the larger one where a recall floor is tested too) is at most ``level`` exactly when
    accepted; ``upper_bound`` is that of the rise (Tango's above 5000 positives). Both, and ``level``, are
    None under the point rule. ``tolerance`` is the allowed rise as a rate, None without positives.
    ``positives_needed``, given when unproven, is the number with which an unchanged candidate that differs
    from the dense network as often would pass with probability .8; None: no number.
    """

    outcome: Outcome
    reason: str
    p_value: float | None = None
    upper_bound: float | None = None
    level: float | None = None
    tolerance: float | None = None
    positives_needed: int | None = None


@dataclass(frozen=True)
class Verdict:
    """The judgement of a candidate: accepted if every class is, refused if any is, else unproven."""

    outcome: Outcome
    reason: str
    classes: dict[str, ClassVerdict]

    @property
    def accepted(self) -> bool:
        """Whether the candidate stands; unproven acts as refused."""
        return self.outcome == "accepted"


def judge(
    evidence: Mapping[str, Evidence], tolerances: Mapping[str, FNTolerance], level: float | None
) -> Verdict:
    """Judge every protected class at the full ``level``; all must pass.

    P(accepted | some class violates its tolerance) <= level, whatever the dependence, because that class
    alone must be proven harmless (intersection-union test; Berger, Technometrics 24 (1982) 295-300).
    ``level`` in (0, 0.5], or None for the point rule. ValueError if evidence and tolerances name different
    classes, or none.
    """
    if not tolerances or set(evidence) != set(tolerances):
        raise ValueError(
            f"evidence and tolerances must name the same protected classes, at least one, got {sorted(evidence)} "
            f"and {sorted(tolerances)}"
        )
    classes = {name: judge_class(evidence[name], tolerances[name], level) for name in tolerances}
    outcomes = {verdict.outcome for verdict in classes.values()}
    outcome: Outcome = next((o for o in _WORST_FIRST if o in outcomes), "accepted")
    told = {name: v for name, v in classes.items() if outcome == "accepted" or v.outcome != "accepted"}
    return Verdict(outcome, " ".join(f"{name}: {verdict.reason}." for name, verdict in told.items()), classes)


def judge_class(evidence: Evidence, tolerance: FNTolerance, level: float | None) -> ClassVerdict:
    """Judge one protected class: by the exact test at ``level``, or by the point rule if it is None.

    ``level`` in (0, 0.5]. ValueError outside it, or for a factor with a level. Sources: see ``statistics``.
    """
    _check_level("level", level)
    tolerance.check_confidence(None if level is None else 1 - level)
    if evidence.support == 0:
        reason = "the guard data hold no positives of this class, so nothing can be said"
        return ClassVerdict("unproven", reason, level=level)
    return _point(evidence, tolerance) if level is None else _confident(evidence, tolerance, level)


def _point(e: Evidence, tolerance: FNTolerance) -> ClassVerdict:
    allowed = tolerance.extra_misses(e.support, e.baseline_missed)
    floor = tolerance.recall_floor
    extra = e.newly_missed - e.newly_found
    below_floor = floor is not None and Fraction(e.support - e.fn) < _fraction(floor) * e.support
    reason = f"{_counts(e)}; {extra:+d} misses in all, +{float(allowed):.4g} allowed"
    if floor is not None:
        reason += f"; recall {e.recall:.4g} is {'below' if below_floor else 'not below'} the floor {floor:g}"
    outcome: Outcome = "refused" if extra > allowed or below_floor else "accepted"
    return ClassVerdict(outcome, reason, tolerance=tolerance.rise(e.support, e.baseline_missed))


def _confident(e: Evidence, tolerance: FNTolerance, level: float) -> ClassVerdict:
    n, delta, floor = e.support, tolerance.rise(e.support, e.baseline_missed), tolerance.recall_floor
    bound = statistics.exact_upper if n <= EXACT_BOUND_UP_TO else statistics.tango_upper
    upper = bound(e.newly_missed, e.newly_found, n, level)
    upper_said = f"{'' if n <= EXACT_BOUND_UP_TO else 'approximate '}upper bound {upper:.3g}"
    # No rate can rise by more than 1, so a tolerance of 1 leaves nothing to prove.
    p_rise = statistics.exact_p_value(e.newly_missed, e.newly_found, n, delta) if delta < 1 else 0.0
    p_floor = 0.0 if floor is None else statistics.floor_p_value(e.fn, n, floor)
    p_value = max(p_rise, p_floor)
    harmful = delta < 1 and -statistics.tango_upper(e.newly_found, e.newly_missed, n, level) > delta
    too_low = floor is not None and statistics.rate_upper(n - e.fn, n, level) < floor
    outcome: Outcome = "accepted" if p_value <= level else "refused" if harmful or too_low else "unproven"

    claim = f"a rise of the FN rate below {delta:.3g}" if delta > 0 else "a fall of the FN rate"
    numbers = f"p = {p_rise:.3g}, {upper_said}"
    if delta >= 1:
        told = [f"a tolerance of {delta:g} allows any rise of the FN rate ({upper_said})"]
    elif p_rise <= level:
        told = [f"{claim} is proven at level {level:.3g} ({numbers})"]
    elif harmful:
        told = [f"a rise of the FN rate above {delta:.3g} is shown at level {level:.3g} ({numbers})"]
    else:
        told = [f"{claim} is not proven at level {level:.3g} ({numbers})"]
    if floor is not None:
        is_what = "proven" if p_floor <= level else "refuted" if too_low else "not proven"
        told.append(f"a recall above {floor:g} is {is_what} (recall {e.recall:.4g}, p = {p_floor:.3g})")

    needed = None
    if outcome == "unproven":
        needed, advice = _advice(e, delta, floor, level, p_rise > level, p_floor > level)
        told.append(advice)
    return ClassVerdict(outcome, "; ".join([_counts(e), *told]), p_value, upper, level, delta, needed)


def _advice(
    e: Evidence, delta: float, floor: float | None, level: float, rise_open: bool, floor_open: bool
) -> tuple[int | None, str]:
    """Positives that would settle what is open, and the sentence that says so."""
    if rise_open and delta == 0:
        return None, "no rise is allowed, so only a proven improvement can pass, at any number of positives"
    needed = 0
    if rise_open:
        differing = (e.newly_missed + e.newly_found) / e.support
        needed = statistics.positives_needed(differing, delta, level, POWER)
    if floor_open and floor is not None:
        for_floor = statistics.floor_positives_needed(e.fn / e.support, floor, level, POWER)
        if for_floor is None:
            return None, "at this recall no number of positives would prove the floor"
        needed = max(needed, for_floor)
    if needed > e.support:
        return needed, f"about {needed} positives would be needed, there are {e.support}"
    return needed, f"{needed} positives are enough for an unchanged candidate, there are {e.support}"


def judgeable(tolerance: FNTolerance, support: int, baseline_fn: int, level: float | None) -> str | None:
    """Warning, before any candidate, where an unchanged one cannot be accepted at ``level``; None if it can.

    ``level`` in (0, 0.5] or None (point rule); ValueError outside it, or for a factor with a level.
    """
    _check_level("level", level)
    tolerance.check_confidence(None if level is None else 1 - level)
    if support == 0:
        return "the guard data hold no positives of this class, so no candidate can be accepted"
    if level is None:
        return None
    delta, floor = tolerance.rise(support, baseline_fn), tolerance.recall_floor
    if delta == 0:
        return "no rise of the FN rate is allowed, so only a proven improvement can pass"
    if statistics.exact_p_value(0, 0, support, delta) > level:
        needed = statistics.positives_needed(baseline_fn / support, delta, level, POWER)
        return (
            f"only a clear improvement can pass with {support} positives; about {needed} are needed to prove "
            f"a rise of the FN rate below {delta:.3g} at level {level:.3g}"
        )
    if floor is not None and statistics.floor_p_value(baseline_fn, support, floor) > level:
        return (
            f"only a clear improvement can pass: the dense network itself, with {baseline_fn} of {support} positives "
            f"missed, does not prove a recall above {floor:g} at level {level:.3g}"
        )
    return None


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
    There is one segment with r = 0, at alpha / 2, and there are at most C(M, r) with r refusals among M =
    ``max_tests``, at (alpha / 2) / (R C(M, r)) each. The sum over all is at most alpha / 2 + R (alpha / 2) /
    R = alpha, whatever the dependence.

    ``alpha`` in (0, 0.5], or None for the point rule, which makes no such promise; ``max_tests`` >= 1 must be
    fixed before the first test. ValueError otherwise. Immutable: ``spend`` returns the state after a test.
    """

    alpha: float | None
    retries: int
    max_tests: int
    tests: int = 0
    refusals: int = 0

    def __post_init__(self) -> None:
        _check_level("alpha", self.alpha)
        for name, least in (("retries", 0), ("max_tests", 1), ("tests", 0), ("refusals", 0)):
            value = getattr(self, name)
            if not _is_number(value, Integral) or value < least:
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
            return self.alpha / 2
        return self.alpha / 2 / (self.retries * math.comb(self.max_tests, self.refusals))

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


def _is_number(value: object, kind: type) -> bool:
    # A bool is an integer to Python, but True is nobody's number of misses.
    return isinstance(value, kind) and not isinstance(value, bool)


def _fraction(value: float) -> Fraction:
    """The fraction meant by a float: 1/20 for .05, 1/3 for .333..., so that comparing counts is exact."""
    return Fraction(value).limit_denominator(10**9)


def _counts(e: Evidence) -> str:
    return (
        f"{e.newly_missed} newly missed, {e.newly_found} newly found of {e.support} "
        f"(dense missed {e.baseline_missed})"
    )


def _check_level(name: str, level: float | None) -> None:
    if level is not None and not 0 < level <= 0.5:
        raise ValueError(f"{name} must be in (0, 0.5] or None, got {level!r}")
