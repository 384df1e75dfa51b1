"""The dense network as a measure: whether it is one, and what no candidate could prove against it.

A network that calls every case positive, or none, cannot get worse on that side, so every pruning of it would be
"proven". Such a network is no measure, whatever a candidate's counts say.
"""

from __future__ import annotations

from scipy import special

from lightning_classprune.guard import statistics
from lightning_classprune.guard.evidence import Evidence
from lightning_classprune.guard.protected import Protected
from lightning_classprune.guard.verdict import POWER, confidence_text

#: One-sided level at which the dense network's recall must be better than chance to be a measure.
BETTER_THAN_CHANCE = 0.05


def unfit(misses: Evidence, alarms: Evidence) -> str | None:
    """Why the dense network is no measure for a class, if it is none.

    Its recall must be better than what calling as many cases positive at random would find (exact binomial test).

    Args:
        misses: Its own counts among the class' cases; some.
        alarms: Its own counts among the others.
    """
    if alarms.wrong is not None:  # predictions are counted, and nobody could call all that there might be
        if misses.fn == misses.support and misses.cases[0] == misses.cases[1]:
            return "the dense network finds none of them, so it cannot get worse at finding them"
        return None
    found, called = misses.support - misses.fn, misses.support - misses.fn + alarms.fn
    cases = misses.support + alarms.support
    if called == cases:
        return "the dense network calls every case this class, so it cannot get worse at finding it"
    if called == 0:
        return "the dense network calls no case this class, so it cannot get worse at finding it"
    if float(special.bdtrc(found - 1, misses.support, called / cases)) > BETTER_THAN_CHANCE:
        return (
            f"the dense network's recall, {misses.recall:.3g}, is not shown to be better than chance (it calls "
            f"{called / cases:.3g} of all cases this class)"
        )
    return None


def remarks(misses: Evidence) -> list[str]:
    """What a reader should know of the dense network's misses before any verdict."""
    if misses.fn * 2 > misses.support:
        return [f"it misses more than half of its cases ({misses.fn} of {misses.support})"]
    return []


def impossible(misses: Evidence, alarms: Evidence, limits: Protected, alpha: float | None) -> str | None:
    """Why no candidate whatever can be proven at `alpha`, if none can: not even one that misses nothing.

    Args:
        misses: The dense network's own counts among the class' cases.
        alarms: The same among the others.
        limits: Of the class.
        alpha: Error level of a single test; None for the point rule, under which nothing is impossible.
    """
    if not misses.support:
        return "the guard data have no positives of it"
    if limits.max_fp_rise is not None and not alarms.support:
        return (
            "the guard data have nothing but it, so false alarms cannot be judged; add negatives, or say "
            "Guard(max_fp_rise=None)"
        )
    if alpha is None:
        return None
    delta, floor = limits.tolerance.rise(misses.support, misses.fn), limits.tolerance.recall_floor
    sides = [("FN", misses, delta), ("false-alarm", alarms, limits.max_fp_rise)]
    for what, counts, rise in sides:
        if rise is None or rise >= 1:
            continue
        if statistics.exact_p_value(0, counts.fn, counts.support, rise) > alpha:
            return (
                f"with {_cases(counts)} not even a network without an error can prove a rise of the {what} rate "
                f"below {rise:.3g} at {confidence_text(alpha)} confidence; allow a larger rise, or collect cases"
            )
    if floor is not None and statistics.floor_p_value(0, misses.support, floor) > alpha:
        return f"with {_cases(misses)} not even a network without a miss proves a recall above {floor:g}"
    return None


def _cases(counts: Evidence) -> str:
    return f"{counts.support} {'cases' if counts.inside is None else 'units'}"


def power_warning(
    misses: Evidence, limits: Protected, level: float | None, shares: tuple[float, ...]
) -> str | None:
    """Warning where even a network no worse than the dense one is likely to fail; None if it has an even chance.

    Args:
        misses: The dense network's own counts.
        limits: Of the class.
        level: Of the first test; None for the point rule.
        shares: Of the positives on which such a network is supposed to differ from the dense one, the least first.
    """
    delta = limits.tolerance.rise(misses.support, misses.fn) if misses.support else 1.0
    if level is None or delta >= 1 or not misses.support:
        return None
    if delta == 0:
        return "no rise of the FN rate is allowed, so only a proven improvement can pass"
    chances = [statistics.chance_at_setup(misses.support, share, delta, level) for share in shares]
    if min(chances) >= 0.5:
        return None
    told = ", ".join(
        f"{chance:.2f} if it differs on {share:.2g} of them"
        for chance, share in zip(chances, shares, strict=True)
    )
    needed = statistics.positives_needed(shares[-1], delta, level, POWER)
    tolerance = statistics.smallest_tolerance(misses.support, shares[-1], level, POWER)
    return (
        f"a network no worse than the dense one passes with probability {told} ({misses.support} guard {misses.noun}, "
        f"tolerance {delta:.3g}, {confidence_text(level)} confidence); a tolerance of {tolerance:.2g}, or about "
        f"{needed} {misses.noun}, or a dense network that misses fewer, would be met four times out of five"
    )
