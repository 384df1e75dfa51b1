"""The judge of one run: compares what was decided on the guard data with the dense network, spends the error budget."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn

from lightning_classprune.guard.conditions import Throughout, plain, under
from lightning_classprune.guard.dense import impossible, power_warning, remarks, unfit
from lightning_classprune.guard.error_budget import ErrorBudget
from lightning_classprune.guard.evaluator import Evaluator
from lightning_classprune.guard.offset import Labels
from lightning_classprune.guard.protected import Protected
from lightning_classprune.guard.statistics import chance_at_setup
from lightning_classprune.guard.task import NaNScoresError, OfUnits, Outcomes
from lightning_classprune.guard.thresholds import fewest_positives
from lightning_classprune.guard.verdict import Verdict, confidence_text, throughout, verdict_on

#: Shares of the positives on which a harmless candidate is supposed to differ from the dense network.
DISCORDANCES = (0.05, 0.10, 0.20)


@dataclass
class Judge:
    """What is judged by, and what was spent.

    Attributes:
        evaluator: Decides the guard's cases.
        protected: The protected classes.
        budget: What is left of the error level.
        dense: The dense network's outcomes, once there are any.
        accepted: Those of the last network that was accepted; the dense network's at first.
        unfit: Why the dense network is no measure for a class, by name.
        unfit_under: The same under conditions, by the condition's name.
    """

    evaluator: Evaluator
    protected: tuple[Protected, ...]
    budget: ErrorBudget
    dense: Outcomes | None = None
    accepted: Outcomes | None = None
    unfit: dict[str, str] = field(default_factory=dict)
    unfit_under: dict[str, dict[str, str]] = field(default_factory=dict)

    def verdict(self, outcomes: Outcomes | None) -> Verdict:
        """The verdict on a candidate, the same on all ranks; it costs one test of the budget."""
        agreed = self.verdict_at(outcomes, self.budget.level())
        self.budget = self.budget.spend(agreed.accepted)
        if agreed.accepted:
            self.accepted = outcomes
        return agreed

    def verdict_at(self, outcomes: Outcomes | None, level: float | None) -> Verdict:
        """The verdict at a level that somebody else accounts for; the same on all ranks."""
        assert self.dense is not None
        try:
            if outcomes is None:
                raise NaNScoresError("the network's scores are NaN: its training diverged")
            verdict = throughout(
                self._verdict_under(None, self.protected, outcomes, level),
                {
                    one.name: self._verdict_under(one.name, one.protected, outcomes, level)
                    for one in self.evaluator.conditions
                },
            )
        except ValueError as error:
            verdict = Verdict("refused", str(error), {})
        agreed: Verdict = self.evaluator.processes.first(verdict)
        return agreed

    def _verdict_under(
        self, name: str | None, protected: tuple[Protected, ...], outcomes: Outcomes, level: float | None
    ) -> Verdict:
        """The verdict under one condition; without a name on the cases as they come."""
        now, before = under(outcomes, name), under(self.dense, name)
        pairs = {one.name: now.pairs(before, one.name) for one in protected}
        return verdict_on(pairs, protected, level, self.unfit if name is None else self.unfit_under.get(name))

    def _limits(self) -> Iterator[tuple[str | None, str, Protected]]:
        """Everything that is guarded: the condition's name, a place in words, and what a class may lose there."""
        for one in self.protected:
            yield None, f"protect[{one.name!r}]", one
        for condition in self.evaluator.conditions:
            for one in condition.protected:
                yield condition.name, f"protect[{one.name!r}] under {condition.name}", one

    def take_over(self, earlier: Mapping[str, Any], outcomes: Outcomes | None) -> str | None:
        """Go on judging for an earlier fit, whose pruned network this one starts from.

        Its dense network stays what is compared with, and what it spent of the error budget is spent: else damage
        would add up unseen from fit to fit.

        Args:
            earlier: The state that its run left.
            outcomes: Of the network that this fit starts from.

        Returns:
            What there is to say of that network; None if the earlier fit judged other cases, so that it cannot go on.
        """
        first = self._restored(earlier, "dense")
        if first is None or outcomes is None or not outcomes.same_cases(first):
            return None
        before = ErrorBudget.from_dict(earlier["budget"])
        if before.alpha is not None:
            # The level of a test after a refusal counts on the number of tests that was fixed before the first.
            more = before.tests + self.budget.max_tests if before.refusals == 0 else before.max_tests
            self.budget = replace(before, max_tests=max(more, before.max_tests))
        self.dense, self.accepted = first, outcomes
        self.unfit, self.unfit_under = dict(earlier["unfit"]), _copied(earlier.get("unfit_under", {}))
        told = []
        for one in self.protected:
            misses, alarms = outcomes.pairs(first, one.name)
            told.append(
                f"{one.name}: {misses.newly_missed} newly missed, {misses.newly_found} newly found of "
                f"{misses.support}, {alarms.newly_missed} new false alarms, {alarms.newly_found} gone of "
                f"{alarms.support}"
            )
        return (
            "the dense network of an earlier fit, against which every round is judged still; the pruned network that "
            f"this fit starts from differs from it by {'; '.join(told)}, which was not tested"
        )

    def take_dense(
        self, outcomes: Outcomes | None, *, rehearsal: bool, wrong_scores: str | None = None
    ) -> str | None:
        """Take the dense network's outcomes for all later comparisons; returns why that is impossible, if it is.

        Args:
            outcomes: Its outcomes; None if its scores were NaN.
            rehearsal: `fast_dev_run`: too little was looked at to say anything of support.
            wrong_scores: Why no decision can be made of its scores.
        """
        self.dense = self.accepted = outcomes
        if outcomes is None:
            return "the dense network's scores are NaN: nothing can be judged"
        if rehearsal:
            return "fast_dev_run: one guard batch was judged, nothing is pruned"
        if wrong_scores is not None:
            return wrong_scores
        for name, place, one in self._limits():
            own = under(outcomes, name)
            misses, alarms = own.pairs(own, one.name)
            if why := impossible(misses, alarms, one, self.budget.alpha):
                return f"protected class {one.name!r}{'' if name is None else f' under {name}'}: {why}"
            if no_measure := unfit(misses, alarms):
                rank_zero_warn(f"{place}: {no_measure}{self._what_follows(one)}")
                if one.max_fp_rise is not None:
                    known = self.unfit if name is None else self.unfit_under.setdefault(name, {})
                    known[one.name] = no_measure
            share = misses.fn / misses.support
            if warning := power_warning(misses, one, self.budget.level(), (share / 2, share)):
                rank_zero_warn(f"{place}: {warning}")
        return None

    @property
    def no_measure(self) -> str | None:
        """Why no candidate whatever can be accepted, where the dense network is no measure for a class."""
        found = [("", self.unfit), *((f" under {name}", one) for name, one in self.unfit_under.items())]
        told = (
            f"protected class {name!r}{place}: {why}, and no pruning of it can be accepted"
            for place, known in found
            for name, why in known.items()
        )
        return next(told, None)

    def tell_power(self, outcomes: Outcomes) -> None:
        """Say before any training what chance a harmless candidate has, by the guard's labels alone.

        Args:
            outcomes: Of whatever network; only their cases are looked at.
        """
        level = self.budget.level()
        for name, place, one in self._limits():
            misses, alarms = outcomes.pairs(outcomes, one.name)  # labels are the same under every condition
            if level is None or not misses.support:
                continue
            delta = one.rise_among(misses.support, 0, misses.support)
            if delta <= 0:
                continue  # only an improvement can pass
            if name is None and misses.inside is not None and delta < 1:
                needed = fewest_positives(delta, level)
                if misses.support < needed:
                    rank_zero_warn(
                        f"{place}: the guard has {misses.inside.cases} {misses.inside.noun} in "
                        f"{misses.support} independent units, and fewer than {needed} units prove nothing at tolerance "
                        f"{delta:.3g} and {confidence_text(level)} confidence, however many {misses.inside.noun} they "
                        "hold, unless the candidate finds more than the dense network; give more units, or allow a "
                        "larger rise"
                    )
            chances = [chance_at_setup(misses.support, share, delta, level) for share in DISCORDANCES]
            if name is not None and chances[0] >= 0.5:
                continue
            told = ", ".join(f"{p:.2f} ({d:.0%})" for p, d in zip(chances, DISCORDANCES, strict=True))
            say = rank_zero_warn if chances[0] < 0.5 else rank_zero_info
            beside = f"{alarms.support} negatives" if alarms.wrong is None else f"{alarms.support} in all"
            say(
                f"{place}: {misses.support} guard {misses.noun} and {beside}; a "
                f"network no worse than the dense one passes at tolerance {delta:.3g} with probability {told}, by the "
                f"share of {misses.noun} on which the two differ"
            )

    @staticmethod
    def _what_follows(one: Protected) -> str:
        if one.max_fp_rise is None:
            return ". False alarms are not guarded (max_fp_rise=None), so a verdict means little"
        return (
            ". Every candidate will be unproven; train the dense network better, or choose another threshold"
        )

    def describe_dense(self) -> str:
        """The dense network in words: support, misses, false alarms, accuracy, and what to know of it."""
        if self.dense is None:
            return ""
        told = []
        for one in self.protected:
            misses, alarms = self.dense.pairs(self.dense, one.name)
            counts = f"{one.name}: {misses.fn} of {misses.support} missed, {alarms.fn} false alarms of {alarms.support}"
            if misses.inside is not None and alarms.inside is not None:
                wrong, cases = misses.cases
                counts = (
                    f"{counts} units; {wrong} of {cases} {misses.inside.noun} missed, {alarms.inside.now} "
                    f"{alarms.inside.noun}{' wrong' if alarms.wrong is None else ''}"
                )
            no_measure = unfit(misses, alarms) if misses.support else None
            noted = [] if no_measure is None else [no_measure]
            told.append(", ".join([counts, *noted, *(remarks(misses) if misses.support else [])]))
        whole = self.dense.mistakes(self.dense)
        task, (wrong, cases) = self.evaluator.task, whole.cases
        measure = task.measure if isinstance(task, OfUnits) else "accuracy"
        accuracy = f"{measure} {1 - wrong / cases:.3g}" if cases else "no cases"
        for name, _, one in self._limits():
            if name is not None:
                own = under(self.dense, name)
                misses, alarms = own.pairs(own, one.name)
                told.append(
                    f"{one.name} under {name}: {misses.fn} of {misses.support} missed, {alarms.fn} false alarms"
                )
        return "; ".join([*told, ", ".join([accuracy, *self.dense.remarks()])])

    def labels(self) -> dict[str, Labels]:
        """The guard's positives and negatives by class: of its labels alone, nothing that a network makes of them."""
        assert self.dense is not None
        pairs = {one.name: self.dense.pairs(self.dense, one.name) for one in self.protected}
        return {name: Labels(misses.support, alarms.support) for name, (misses, alarms) in pairs.items()}

    def state_dict(self) -> dict[str, Any]:
        """Plain tensors and primitives."""
        saved: dict[str, Any] = {}
        for name, outcomes in (("dense", self.dense), ("accepted", self.accepted)):
            saved[f"{name}_outcomes"] = None if outcomes is None else plain(outcomes).state_dict()
            if isinstance(outcomes, Throughout):
                saved[f"{name}_under"] = {key: one.state_dict() for key, one in outcomes.under.items()}
        fitness = {"unfit": dict(self.unfit), "unfit_under": _copied(self.unfit_under)}
        return {"budget": self.budget.to_dict(), **fitness, **saved}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.budget = ErrorBudget.from_dict(state["budget"])
        self.unfit, self.unfit_under = dict(state["unfit"]), _copied(state.get("unfit_under", {}))
        self.dense, self.accepted = self._restored(state, "dense"), self._restored(state, "accepted")

    def _restored(self, state: Mapping[str, Any], whose: str) -> Outcomes | None:
        saved, beside = state.get(f"{whose}_outcomes"), state.get(f"{whose}_under")
        if saved is None:
            return None
        restored = self.evaluator.task.restored
        if beside is None:
            return restored(saved)
        return Throughout(restored(saved), {name: restored(one) for name, one in beside.items()})


def _copied(by_condition: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    return {name: dict(of_classes) for name, of_classes in by_condition.items()}
