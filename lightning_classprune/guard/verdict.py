"""The guard: judges a pruned candidate against the dense network, one protected class at a time.

Evidence (paired counts on the same samples) and a tolerance go in, a verdict with its reason comes out.
Without a level the plain point rule compares counts; with one, the exact paired test decides what is proven
at that error level.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, TypeAlias

from lightning_classprune.guard import statistics
from lightning_classprune.guard.error_budget import check_level
from lightning_classprune.guard.evidence import Evidence
from lightning_classprune.guard.tolerance import FNTolerance, fraction

Outcome: TypeAlias = Literal["accepted", "refused", "unproven"]

_WORST_FIRST: tuple[Outcome, ...] = ("refused", "unproven")
POWER = 0.8
# Beyond, the reported bound is Tango's: the two agree to 1e-4 by then, and the exact one takes a second or more.
EXACT_BOUND_UP_TO = 5000


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


def verdict_on(
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
    check_level("level", level)
    tolerance.check_confidence(None if level is None else 1 - level)
    if evidence.support == 0:
        reason = "the guard data hold no positives of this class, so nothing can be said"
        return ClassVerdict("unproven", reason, level=level)
    return _point(evidence, tolerance) if level is None else _confident(evidence, tolerance, level)


def _point(e: Evidence, tolerance: FNTolerance) -> ClassVerdict:
    allowed = tolerance.extra_misses(e.support, e.baseline_missed)
    floor = tolerance.recall_floor
    extra = e.newly_missed - e.newly_found
    below_floor = floor is not None and Fraction(e.support - e.fn) < fraction(floor) * e.support
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


def power_warning(tolerance: FNTolerance, support: int, baseline_fn: int, level: float | None) -> str | None:
    """Warning, before any candidate, where an unchanged one cannot be accepted at ``level``; None if it can.

    ``level`` in (0, 0.5] or None (point rule); ValueError outside it, or for a factor with a level.
    """
    check_level("level", level)
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


def _counts(e: Evidence) -> str:
    return (
        f"{e.newly_missed} newly missed, {e.newly_found} newly found of {e.support} "
        f"(dense missed {e.baseline_missed})"
    )
