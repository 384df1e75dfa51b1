"""The verdict: judges a pruned candidate against the dense network, one protected class at a time, on both sides.

Evidence (paired counts on the same cases, of misses and of false alarms) and limits go in, a verdict with its reason
comes out. Without a level the plain point rule compares counts; with one, the exact paired test decides what is proven
at that error level.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Literal, TypeAlias

from scipy import special

from lightning_classprune.guard import statistics
from lightning_classprune.guard.betting import betting_p_value, betting_upper
from lightning_classprune.guard.error_budget import check_level
from lightning_classprune.guard.evidence import Evidence
from lightning_classprune.guard.protected import Protected
from lightning_classprune.guard.tolerance import FNTolerance, fraction

Outcome: TypeAlias = Literal["accepted", "refused", "unproven"]

_WORST_FIRST: tuple[Outcome, ...] = ("refused", "unproven")
POWER = 0.8
#: At this one-sided level more false alarms than the dense network's are said to be more, guarded or not.
SHOWN = 0.05
#: Beyond, no bound is reported: the exact one takes seconds, and another one may contradict the exact decision.
BOUND_UP_TO = 5000


@dataclass(frozen=True)
class ClassVerdict:
    """The judgement of one protected class.

    ``p_value`` (the larger one where a recall floor is tested too) and ``fp_p_value`` are at most ``level`` exactly
    when accepted; ``upper_bound`` and ``fp_upper_bound`` are those of the rise of either rate, None above 5000 cases.
    All, and ``level``, are None under the point rule; those of false alarms too where these are not guarded.
    ``tolerance`` and ``fp_tolerance`` are the allowed rises as rates, None without cases or unguarded. ``fp_risen``:
    more false alarms than the dense network's are shown, guarded or not.
    """

    outcome: Outcome
    reason: str
    p_value: float | None = None
    upper_bound: float | None = None
    level: float | None = None
    tolerance: float | None = None
    fp_p_value: float | None = None
    fp_upper_bound: float | None = None
    fp_tolerance: float | None = None
    fp_risen: bool = False

    @property
    def largest_p(self) -> float | None:
        """The larger of the p-values: at a level from it on, the class is accepted; None under the point rule."""
        known = [p for p in (self.p_value, self.fp_p_value) if p is not None]
        return max(known, default=None)


@dataclass(frozen=True)
class Verdict:
    """The judgement of a candidate: accepted if every class is, refused if any is, else unproven.

    ``under`` holds the verdicts under conditions by name, which ``outcome`` and ``reason`` take in.
    """

    outcome: Outcome
    reason: str
    classes: dict[str, ClassVerdict]
    under: dict[str, Verdict] = field(default_factory=dict)

    @property
    def accepted(self) -> bool:
        """Whether the candidate stands; unproven acts as refused."""
        return self.outcome == "accepted"

    @property
    def largest_p(self) -> float:
        """The largest p-value of any test; 1 where one could not be made."""
        own = (1.0 if one.largest_p is None else one.largest_p for one in self.classes.values())
        return max([max(own, default=1.0), *(one.largest_p for one in self.under.values())])


def throughout(plain: Verdict, under: Mapping[str, Verdict]) -> Verdict:
    """The verdict on a candidate that must pass under conditions too, each at the level of the plain one.

    P(accepted | some limit is violated) <= level, as in `verdict_on`.

    Args:
        plain: On the cases as they come.
        under: Under conditions, by name.
    """
    outcomes = {one.outcome for one in (plain, *under.values())}
    outcome: Outcome = next((o for o in _WORST_FIRST if o in outcomes), "accepted")
    told = [plain.reason] if outcome == "accepted" or not plain.accepted else []
    told += [
        f"Under {name}: {one.reason}"
        for name, one in under.items()
        if outcome == "accepted" or not one.accepted
    ]
    return replace(plain, outcome=outcome, reason=" ".join(told), under=dict(under))


def verdict_on(
    pairs: Mapping[str, tuple[Evidence, Evidence]],
    protected: tuple[Protected, ...],
    level: float | None,
    unfit: Mapping[str, str] | None = None,
) -> Verdict:
    """Judge every protected class at the full ``level``, misses and false alarms; all must pass.

    P(accepted | some class violates a limit) <= level, whatever the dependence, because that limit alone must be
    proven to hold (intersection-union test; Berger, Technometrics 24 (1982) 295-300).

    Args:
        pairs: Of each protected class, paired counts of misses and of false alarms.
        protected: The protected classes and their limits.
        level: In (0, 0.5], or None for the point rule.
        unfit: Why the dense network is no measure for a class, by name; such a class is unproven whatever the counts.

    Raises:
        ValueError: Evidence and limits name different classes, or none.
    """
    names = [one.name for one in protected]
    if not names or set(pairs) != set(names):
        raise ValueError(
            f"evidence and tolerances must name the same protected classes, at least one, got {sorted(pairs)} "
            f"and {sorted(names)}"
        )
    classes = {
        one.name: judge_class(*pairs[one.name], one, level, (unfit or {}).get(one.name)) for one in protected
    }
    outcomes = {verdict.outcome for verdict in classes.values()}
    outcome: Outcome = next((o for o in _WORST_FIRST if o in outcomes), "accepted")
    told = {name: v for name, v in classes.items() if outcome == "accepted" or v.outcome != "accepted"}
    return Verdict(outcome, " ".join(f"{name}: {verdict.reason}." for name, verdict in told.items()), classes)


def judge_class(
    misses: Evidence, alarms: Evidence, limits: Protected, level: float | None, unfit: str | None = None
) -> ClassVerdict:
    """Judge one protected class: by the exact tests at ``level``, or by the point rule if it is None.

    ``level`` in (0, 0.5]. ValueError outside it, or for a factor with a level. Sources: see ``statistics``.
    """
    check_level("level", level)
    limits.tolerance.check_confidence(None if level is None else 1 - level)
    risen = shown_to_rise(alarms)
    if misses.support == 0:
        reason = "the guard data hold no positives of this class, so nothing can be said"
        return ClassVerdict("unproven", reason, level=level, fp_risen=risen)
    fn = (
        _point_misses(misses, limits.tolerance) if level is None else _misses(misses, limits.tolerance, level)
    )
    fp = _alarms(alarms, limits.max_fp_rise, level)
    outcomes = [side.outcome for side in (fn, fp)] + (["unproven"] if unfit else [])
    # First what makes the rest worth nothing.
    reasons = [*([unfit] if unfit else []), fn.reason, fp.reason]
    return ClassVerdict(
        next((o for o in _WORST_FIRST if o in outcomes), "accepted"),
        "; ".join(reasons),
        fn.p_value,
        fn.upper_bound,
        level,
        limits.tolerance.rise(misses.support, misses.baseline_missed),
        fp.p_value,
        fp.upper_bound,
        limits.max_fp_rise if alarms.support else None,
        risen,
    )


def shown_to_rise(alarms: Evidence) -> bool:
    """Whether more false alarms than the dense network's are shown: the exact one-sided test of McNemar."""
    changed = alarms.newly_missed + alarms.newly_found
    return bool(changed) and float(special.bdtrc(alarms.newly_missed - 1, changed, 0.5)) <= SHOWN


@dataclass(frozen=True)
class _Side:
    """What one of the two tests says."""

    outcome: Outcome
    reason: str
    p_value: float | None = None
    upper_bound: float | None = None


@dataclass(frozen=True)
class _Rise:
    """The exact tests of a rise: that it is below a limit, and that it is above."""

    p_value: float
    upper_bound: float | None
    harmful: bool
    told: str


def _misses(e: Evidence, tolerance: FNTolerance, level: float) -> _Side:
    n, delta, floor = e.support, tolerance.rise(e.support, e.baseline_missed), tolerance.recall_floor
    rise = _rise(e, delta, level, "FN rate")
    told = [_missed(e), rise.told]
    p_floor, too_low = 0.0, False
    if floor is not None:
        p_floor = statistics.floor_p_value(e.fn, n, floor)
        too_low = statistics.rate_upper(n - e.fn, n, level) < floor
        is_what = "proven" if p_floor <= level else "refuted" if too_low else "not proven"
        told.append(f"a recall above {floor:g} is {is_what} (recall {e.recall:.4g}, p = {p_floor:.3g})")
    p_value = max(rise.p_value, p_floor)
    outcome: Outcome = (
        "accepted" if p_value <= level else "refused" if rise.harmful or too_low else "unproven"
    )
    if outcome == "unproven":
        told.append(_advice(e, delta, floor, level, rise.p_value > level, p_floor > level))
    return _Side(outcome, "; ".join(told), p_value, rise.upper_bound)


def _alarms(e: Evidence, max_rise: float | None, level: float | None) -> _Side:
    what = "false alarms" if e.inside is None else "units with false alarms"
    said = f"{e.newly_missed} new {what}, {e.newly_found} gone of {e.support} (dense had {e.baseline_missed})"
    if e.wrong is not None and e.inside is not None:
        said = (
            f"{e.newly_missed} units with more false alarms, {e.newly_found} with fewer of {e.support} (all in all "
            f"{e.inside.now} {e.inside.noun}, dense had {e.inside.before})"
        )
    shown = ": more are shown" if shown_to_rise(e) else ""
    if max_rise is None:
        return _Side("accepted", f"false alarms are not guarded ({said}{shown})")
    if e.support == 0:
        return _Side(
            "unproven", "the guard data hold nothing but this class, so nothing can be said of false alarms"
        )
    if level is None:
        extra, allowed = e.newly_missed - e.newly_found, fraction(max_rise) * e.support
        what = "false alarms" if e.inside is None else "units"
        told = f"{said}; {extra:+d} {what} in all, +{float(allowed):.4g} allowed"
        return _Side("refused" if extra > allowed else "accepted", told)
    rise = _rise(e, max_rise, level, "false-alarm rate")
    outcome: Outcome = "accepted" if rise.p_value <= level else "refused" if rise.harmful else "unproven"
    return _Side(outcome, f"{said}; {rise.told}", rise.p_value, rise.upper_bound)


def _rise(e: Evidence, delta: float, level: float, rate: str) -> _Rise:
    n, at = e.support, f"at {confidence_text(level)} confidence"
    if e.rises is not None:
        upper: float | None = betting_upper(e.rises, level)
    else:
        upper = statistics.exact_upper(e.newly_missed, e.newly_found, n, level) if n <= BOUND_UP_TO else None
    bound = "" if upper is None else f", upper bound {upper:.3g}"
    if delta >= 1:  # no rate can rise by more than 1, so nothing is left to prove
        return _Rise(0.0, upper, False, f"a tolerance of {delta:g} allows any rise of the {rate}")
    if e.rises is not None:
        p_value = betting_p_value(e.rises, delta)
        harmful = p_value > level and betting_p_value([-rise for rise in e.rises], -delta) <= level
    else:
        p_value = statistics.exact_p_value(e.newly_missed, e.newly_found, n, delta)
        opposite = (e.newly_found, e.newly_missed, n, -delta)
        harmful = p_value > level and statistics.exact_p_value(*opposite) <= level
    claim = f"a rise of the {rate} below {delta:.3g}" if delta > 0 else f"a fall of the {rate}"
    if p_value <= level:
        told = f"{claim} is proven {at}"
    elif harmful:
        told = f"a rise of the {rate} above {delta:.3g} is shown {at}"
    else:
        told = f"{claim} is not proven {at}"
    return _Rise(p_value, upper, harmful, f"{told} (p = {p_value:.3g}{bound})")


def confidence_text(level: float) -> str:
    """An error level as people read it: .05 is 95%."""
    return f"{100 * (1 - level):.4g}%"


def _point_misses(e: Evidence, tolerance: FNTolerance) -> _Side:
    allowed = tolerance.extra_misses(e.support, e.baseline_missed)
    floor = tolerance.recall_floor
    extra = e.newly_missed - e.newly_found
    below_floor = floor is not None and Fraction(e.support - e.fn) < fraction(floor) * e.support
    reason = f"{_missed(e)}; {extra:+d} misses in all, +{float(allowed):.4g} allowed"
    if floor is not None:
        reason += f"; recall {e.recall:.4g} is {'below' if below_floor else 'not below'} the floor {floor:g}"
    return _Side("refused" if extra > allowed or below_floor else "accepted", reason)


def _advice(
    e: Evidence, delta: float, floor: float | None, level: float, rise_open: bool, floor_open: bool
) -> str:
    """What would settle an open question about misses, promising nothing that more positives cannot do."""
    if rise_open and delta == 0:
        return f"no rise is allowed, so only a proven improvement can pass, at any number of {e.noun}"
    needed, seen = 0, max(e.newly_missed - e.newly_found, 0) / e.support
    if rise_open and seen >= delta:
        return f"the rise in this sample, {seen:.3g}, is not below the tolerance: more {e.noun} are no remedy"
    if rise_open:
        differing = (e.newly_missed + e.newly_found) / e.support
        needed = statistics.positives_needed(differing, delta - seen, level, POWER)
    if floor_open and floor is not None:
        for_floor = statistics.floor_positives_needed(e.fn / e.support, floor, level, POWER)
        if for_floor is None:
            return f"at this recall no number of {e.noun} would prove the floor"
        needed = max(needed, for_floor)
    if needed > e.support:
        return f"about {needed} {e.noun} would be needed, there are {e.support}"
    return f"{needed} {e.noun} are enough for such a candidate four times out of five, there are {e.support}"


def _missed(e: Evidence) -> str:
    counts = (
        f"{e.newly_missed} newly missed, {e.newly_found} newly found of {e.support} "
        f"(dense missed {e.baseline_missed})"
    )
    if e.inside is None:
        return counts
    inside, rule = e.inside, "" if e.inside.rule is None else f", {e.inside.rule}"
    return (
        f"{counts}, units of {inside.cases} {inside.noun} ({inside.how}): of these {inside.new} newly missed, "
        f"{inside.gone} newly found (dense missed {inside.before}){rule}"
    )
