"""The decision offset: chosen on validation data, so that a candidate is judged where it is best.

Retraining slides a network along its ROC curve; at the dense network's threshold that looks like a rise of misses or
of false alarms. An offset moves the candidate's threshold back. It depends on training and validation data only, so
given these the guard's test keeps its level. It is never chosen without a bound on false alarms: an offset alone
accepts nearly every network, at any price.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_classprune.guard import statistics
from lightning_classprune.guard.evidence import Evidence
from lightning_classprune.guard.protected import Protected

#: Thresholds that are tried where every one takes a look at all units.
SOME = 129

#: Chance of proof from which on a lower threshold, with more false alarms, is not worth having: maximising it would
#: use up what the tolerances allow.
WANT = 0.9

Booleans = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Sweep:
    """What is decided as the threshold of one class moves, of n cases and one protected class after another.

    Attributes:
        margin: `(n,)`: a case is decided for the class at a threshold t if its margin is at least t; may be infinite.
        truth: By protected class, `(n,)`: which cases belong to it.
        dense: By protected class, `(n,)`: which the dense network decides for it.
        claimed: By protected class, `(n,)`: which are decided for it where the margin reaches the threshold.
        unclaimed: By protected class, `(n,)`: which are where it does not.
    """

    margin: Floats
    truth: Mapping[str, Booleans]
    dense: Mapping[str, Booleans]
    claimed: Mapping[str, Booleans]
    unclaimed: Mapping[str, Booleans]

    @property
    def tried(self) -> Floats:
        """All thresholds that decide differently, ascending."""
        return thresholds(self.margin)

    def some(self) -> Floats:
        """At most `SOME` of them, at equal distances by rank, both ends among them."""
        tried = self.tried
        return tried[np.unique(np.linspace(0, len(tried) - 1, SOME).round().astype(np.int64))]

    def counts(self, name: str, tried: Floats) -> tuple[Tables, Tables]:
        """Paired counts of a class at every threshold: of misses and of false alarms."""
        return _tables(self, name, tried)


@dataclass(frozen=True)
class Counted:
    """What is decided as the threshold of one class moves, where it was counted beforehand.

    Attributes:
        tried: The thresholds, ascending.
        tables: By protected class, paired counts at every threshold: of misses and of false alarms.
    """

    tried: Floats
    tables: Mapping[str, tuple[Tables, Tables]]

    def counts(self, name: str, tried: Floats) -> tuple[Tables, Tables]:
        """Those of a class."""
        return self.tables[name]


def counted(tried: Floats, decide: Callable[[float], Any], dense: Any, names: Sequence[str]) -> Counted:
    """Count at every threshold what outcomes say.

    Args:
        tried: The thresholds, ascending.
        decide: Gives the outcomes at one.
        dense: The dense network's outcomes on the same cases.
        names: The protected classes.
    """
    found: dict[str, list[tuple[Evidence, Evidence]]] = {name: [] for name in names}
    for threshold in tried.tolist():
        outcomes = decide(threshold)
        for name in names:
            found[name].append(outcomes.pairs(dense, name))
    return Counted(
        tried, {name: (_stacked([m for m, _ in p]), _stacked([a for _, a in p])) for name, p in found.items()}
    )


def _stacked(seen: Sequence[Evidence]) -> Tables:
    return Tables(
        seen[0].support,
        seen[0].baseline_missed,
        np.array([e.newly_missed for e in seen]),
        np.array([e.newly_found for e in seen]),
        None if seen[0].wrong is None else np.array([e.wrong for e in seen]),
    )


@dataclass(frozen=True)
class Labels:
    """How many cases of a class the guard has, and of others: of its labels alone, nothing that a network says."""

    positives: int
    negatives: int


@dataclass(frozen=True)
class Choice:
    """A threshold for one class, and what validation data say of it.

    Attributes:
        threshold: On the margin; never at one that validation data have.
        chance: That the guard proves the candidate harmless on both sides, for all protected classes.
        misses: By protected class, paired counts of misses at that threshold.
        alarms: By protected class, paired counts of false alarms.
    """

    threshold: float
    chance: float
    misses: dict[str, Evidence]
    alarms: dict[str, Evidence]


def thresholds(margin: Floats) -> Floats:
    """All thresholds that decide differently, ascending: halfway between neighbours, and one beyond each end.

    Never at a margin: only so does a network with the offset folded into its bias decide alike in float32. No offset
    decides otherwise where a margin is infinite, as that of a score that was masked is.
    """
    known = np.unique(margin[np.isfinite(margin)])
    if not len(known):
        return np.zeros(1)
    between = known[:-1] + np.diff(known) / 2
    return np.concatenate(([known[0] - 1.0], between, [known[-1] + 1.0]))


def choose_offset(
    sweep: Sweep | Counted,
    protected: Sequence[Protected],
    labels: Mapping[str, Labels],
    level: float | None,
    want: float = WANT,
    under: Sequence[tuple[Sweep | Counted, Sequence[Protected]]] = (),
) -> Choice:
    """The threshold with the fewest false alarms whose chance of proof is `want`, or the best there is.

    The chance is the product over the protected classes of that for misses and that for false alarms. Of many cases it
    is good up to where most of a tolerance is used up. So among good thresholds those are preferred at which validation
    data have no more misses of protected classes than by the dense network. Of thresholds with as few false alarms the
    one with the fewest misses is taken, for a higher one would give cases away for nothing; where these are as many
    too, the middle one, away from the next alarm and the next miss.

    Args:
        sweep: Of the validation cases.
        protected: The protected classes, with their limits on both sides.
        labels: Of the guard, by protected class.
        level: Of the guard's test; None for the point rule.
        want: See `WANT`.
        under: The same cases under conditions in which the classes are guarded too, with their limits there; those of
            which other thresholds were counted have no say.
    """
    tried = sweep.tried
    tables = {one.name: sweep.counts(one.name, tried) for one in protected}
    chance = np.ones(len(tried))
    for one in protected:
        chance *= chance_on_both_sides(*tables[one.name], one, labels[one.name], level)
    for other, limits in under:
        if isinstance(other, Sweep) or np.array_equal(other.tried, tried):
            for one in limits:
                chance *= chance_on_both_sides(*other.counts(one.name, tried), one, labels[one.name], level)
    good = np.flatnonzero(chance >= min(want, float(chance.max())))
    more_misses = np.sum([misses.more for misses, _ in tables.values()], axis=0)
    more_alarms = np.sum([alarms.more for _, alarms in tables.values()], axis=0)
    no_more = good[more_misses[good] <= 0]
    best = no_more if len(no_more) else good
    for more in (more_alarms, more_misses):
        best = best[more[best] == more[best].min()]
    chosen = int(best[len(best) // 2])
    return Choice(
        float(tried[chosen]),
        float(chance[chosen]),
        {name: misses.at(chosen) for name, (misses, _) in tables.items()},
        {name: alarms.at(chosen) for name, (_, alarms) in tables.items()},
    )


def as_often(sweep: Sweep | Counted, name: str) -> float:
    """The threshold at which a class is decided as often as by the dense network, or nearly so.

    Args:
        sweep: Of the validation cases.
        name: The class.
    """
    tried = sweep.tried
    misses, alarms = sweep.counts(name, tried)
    apart = np.abs(alarms.more - misses.more)
    best = np.flatnonzero(apart == apart.min())
    return float(tried[best[len(best) // 2]])


@dataclass(frozen=True)
class Tables:
    """Paired counts at every threshold: of misses, or of false alarms."""

    support: int
    dense_wrong: int
    new: Ints
    gone: Ints
    wrong: Ints | None = None

    @property
    def more(self) -> Ints:
        """How many more than by the dense network."""
        return self.new - self.gone

    def at(self, place: int) -> Evidence:
        """Those at one threshold."""
        wrong = None if self.wrong is None else int(self.wrong[place])
        return Evidence(self.support, self.dense_wrong, int(self.new[place]), int(self.gone[place]), wrong)


def _tables(sweep: Sweep, name: str, tried: Floats) -> tuple[Tables, Tables]:
    truth, dense = sweep.truth[name], sweep.dense[name]
    claimed, unclaimed = sweep.claimed[name], sweep.unclaimed[name]

    def count(cases: Booleans, decided: bool) -> Ints:
        """At every threshold, how many of the cases are decided for the class, or are not."""
        below = np.searchsorted(np.sort(sweep.margin[cases & (unclaimed == decided)]), tried)
        reached = sweep.margin[cases & (claimed == decided)]
        return below + len(reached) - np.searchsorted(np.sort(reached), tried)

    misses = Tables(
        int(truth.sum()),
        int((truth & ~dense).sum()),
        count(truth & dense, False),
        count(truth & ~dense, True),
    )
    alarms = Tables(
        int((~truth).sum()),
        int((~truth & dense).sum()),
        count(~truth & ~dense, True),
        count(~truth & dense, False),
    )
    return misses, alarms


def chance_on_both_sides(
    misses: Tables, alarms: Tables, limits: Protected, labels: Labels, level: float | None
) -> Floats:
    """Chance that the guard proves a class harmless, in misses and, where they are guarded, in false alarms.

    0 where validation data or the guard have no cases to tell by.

    Args:
        misses: Counts on validation data, one or more tables.
        alarms: The same of false alarms.
        limits: Of the class.
        labels: Of the guard.
        level: Of the guard's test; None for the point rule.
    """
    sides = [
        (misses, labels.positives, limits.rise_among(misses.support, misses.dense_wrong, labels.positives))
    ]
    if limits.max_fp_rise is not None:
        sides.append((alarms, labels.negatives, limits.max_fp_rise))
    chance = np.ones(len(misses.new))
    for tables, cases, rise in sides:
        if not tables.support or not cases:
            return np.zeros(len(misses.new))
        most = round(tables.dense_wrong / tables.support * cases)
        chance = chance * statistics.chances_of_proof(
            tables.new, tables.gone, tables.support, rise, level, cases, most
        )
    return chance


def one_table(e: Evidence) -> Tables:
    """Evidence as tables of one threshold."""
    return Tables(e.support, e.baseline_missed, np.array([e.newly_missed]), np.array([e.newly_found]))


def biases(offsets: Mapping[str, float], names: Sequence[str], outputs: int) -> list[float]:
    """What to add to the scores of a network: one value a class, or, of one logit, that of the second class.

    Args:
        offsets: Bias to add to a class' score, by name; 0 for those not named.
        names: Of all classes.
        outputs: Number of scores a case.
    """
    if outputs == 1:
        return [offsets.get(names[1], 0.0) - offsets.get(names[0], 0.0)]
    return [offsets.get(name, 0.0) for name in names]
