"""Rounds: the state machine of iterative pruning as pure functions of (plan, state, verdict).

train --(round is over)--> judge --accepted--> prune further, rewind --> train ...
     \\                           \\--refused---> smaller step from the last accepted ticket, or finish
      \\--abandoned-------------------------------^
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from math import ceil
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException

from lightning_classprune.pruning.masks import Masks
from lightning_classprune.pruning.units import Units
from lightning_classprune.rounds.options import Gradual
from lightning_classprune.rounds.schedules import AdaptiveSteps, ListedSteps
from lightning_classprune.rounds.settings import Settings

_COUNTED = 10_000
#: Candidates of fixed steps that validation data may give up before the run ends; no guarantee rests on it.
ABANDONS = 3


@dataclass(frozen=True)
class Plan:
    """What does not change during a run.

    Attributes:
        total: Number of prunable weights.
        target: Number of them to be pruned in the end.
        fraction: Share of the remaining weights that a round prunes, in (0, 1).
        max_rounds: Attempts after round 0; None for no limit.
        retries: Refusals that the run survives, each with half the step.
        adaptive: Chooses steps by validation evidence instead of `fraction`.
        listed: Names the steps instead of `fraction`.
    """

    total: int
    target: int
    fraction: float
    max_rounds: int | None = None
    retries: int = 0
    adaptive: AdaptiveSteps | None = None
    listed: ListedSteps | None = None

    def __post_init__(self) -> None:
        if not (0 < self.target <= self.total and 0 < self.fraction < 1):
            raise ValueError(f"not a plan: {self}")

    @property
    def chosen(self) -> AdaptiveSteps | ListedSteps | None:
        """What chooses the steps; None for `fraction`."""
        return self.adaptive if self.adaptive is not None else self.listed


@dataclass(frozen=True)
class RoundState:
    """Where a run stands.

    Attributes:
        round: Round of the candidate in training; 0 is dense.
        attempt: Attempts at this round so far, the present one included.
        attempts: Attempts after round 0, over all rounds, the present one included.
        refusals: Refusals so far.
        accepted: Weights pruned in the last accepted ticket.
        candidate: Weights pruned in the candidate.
        finished: None while rounds go on, else why they ended.
        abandoned: Candidates so far that were given up without a test.
    """

    round: int = 0
    attempt: int = 1
    attempts: int = 0
    refusals: int = 0
    accepted: int = 0
    candidate: int = 0
    finished: str | None = None
    abandoned: int = 0

    def state_dict(self) -> dict[str, Any]:
        """Primitives only."""
        return asdict(self)

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> RoundState:
        """The state that `state_dict` stored."""
        return cls(**state)


def after_verdict(plan: Plan, state: RoundState, accepted: bool, reach: int | None = None) -> RoundState:
    """The state in which the next attempt trains, or a finished one.

    Args:
        plan: The plan.
        state: The state whose candidate was judged.
        accepted: The verdict.
        reach: Where steps are adaptive and the candidate was accepted: the weights up to which it can be pruned
            without retraining, by validation data; None if nothing is known.
    """
    if accepted:
        first, state = state.round == 0, replace(state, accepted=state.candidate)
        if state.accepted >= plan.target:
            return replace(state, finished="the target sparsity is reached")
        candidate = _further(plan, state, state.accepted if reach is None else reach, first)
        return _next(plan, state, replace(state, round=state.round + 1, attempt=1, candidate=candidate))
    state = replace(state, refusals=state.refusals + 1)
    if state.refusals > plan.retries:
        return replace(state, finished="a round was not accepted")
    return _smaller(plan, state)


def after_abandonment(plan: Plan, state: RoundState) -> RoundState:
    """As `after_verdict`, for a candidate that was given up on validation evidence, without a test."""
    state = replace(state, abandoned=state.abandoned + 1)
    if state.abandoned > (plan.chosen.abandons if plan.chosen is not None else ABANDONS):
        return replace(state, finished=f"{state.abandoned} candidates were abandoned")
    return _smaller(plan, state)


def ended_by_limits(state: RoundState) -> bool:
    """Whether the run ended because it had come as far as it was allowed to."""
    limits = ("the target sparsity is reached", "max_rounds=", "max_total_epochs=")
    return state.finished is not None and state.finished.startswith(limits)


def reopened(plan: Plan, state: RoundState, *, tried: bool, reach: int | None) -> RoundState:
    """The state in which a run that limits had ended goes on under new ones, or is finished again.

    Args:
        plan: With the new limits.
        state: As the run ended.
        tried: The candidate was trained; otherwise it is the one whose round was not started.
        reach: As for `after_verdict`.
    """
    state = replace(state, finished=None)
    if not tried:
        return state
    return (
        after_verdict(plan, state, True, reach)
        if state.candidate == state.accepted
        else _smaller(plan, state)
    )


def _further(plan: Plan, state: RoundState, reach: int, first: bool) -> int:
    if plan.listed is not None:
        return plan.listed.after_acceptance(state.accepted)
    if plan.adaptive is None:
        return _step(plan, state.accepted, plan.fraction / 2**state.refusals)
    return plan.adaptive.after_acceptance(plan.total, plan.target, state.accepted, reach, first=first)


def _smaller(plan: Plan, state: RoundState) -> RoundState:
    candidate: int | None
    if plan.chosen is None:
        candidate = state.accepted + (state.candidate - state.accepted + 1) // 2
        if candidate >= state.candidate:
            return replace(state, finished="a round was not accepted and its step is a single weight")
    else:
        candidate = plan.chosen.after_failure(plan.total, plan.target, state.accepted, state.candidate)
        if candidate is None:
            return replace(state, finished="the next step is too small to be worth a round")
    return _next(plan, state, replace(state, attempt=state.attempt + 1, candidate=candidate))


def _next(plan: Plan, state: RoundState, following: RoundState) -> RoundState:
    if plan.max_rounds is not None and state.attempts >= plan.max_rounds:
        return replace(state, finished=f"max_rounds={plan.max_rounds} attempts were made")
    return replace(following, attempts=following.attempts + 1)


def _step(plan: Plan, pruned: int, fraction: float) -> int:
    """Weights pruned after one more step: rounded up, so that rounds are never more than the fraction promises."""
    return min(plan.target, pruned + ceil((plan.total - pruned) * Fraction(str(fraction))))


def largest_number_of_tests(plan: Plan) -> int:
    """The most guard tests that a run can come to: known before round 1, as an error budget must be.

    Exact below 10,000 tests, an upper bound beyond. Of two tickets accepted after as many tests and refusals, the one
    with less pruned has the longer way: whatever verdicts come, its steps are no shorter and end no further. So of all
    patterns only those that have pruned least are followed. (The tests compare this with all patterns.)
    """
    # Every acceptance prunes a weight or more, and the run survives `retries` refusals.
    most = plan.target + plan.retries
    if plan.adaptive is not None:
        most = plan.adaptive.most_accepted(plan.total, plan.target) + plan.retries
    if plan.listed is not None:
        most = plan.listed.most_accepted(plan.retries) + plan.retries
    if plan.max_rounds is not None:
        most = min(most, plan.max_rounds)
    if plan.chosen is not None:
        return most
    least: list[dict[int, int]] = [{0: 0}]  # fewest weights pruned, by tests, then by refusals
    for tests in range(min(most + 1, _COUNTED)):
        if tests == len(least):
            return tests - 1
        for refusals, pruned in least[tests].items():
            step = _step(plan, pruned, plan.fraction / 2**refusals) - pruned
            for after in range(refusals, plan.retries + 1 if step else 0):
                end = tests + after - refusals + 1
                least += [{} for _ in range(end + 1 - len(least))]
                least[end][after] = min(pruned + step, least[end].get(after, plan.target))
                if step == 1:
                    break
                step = (step + 1) // 2
    return most


def make_plan(settings: Settings, masks: Masks, units: Units) -> Plan:
    """The plan in whole units.

    Raises:
        MisconfigurationException: The target is below what is pruned already, or more than can be.
    """
    total, what = units.total, units.name
    zeros = units.zeros()
    target, name = settings.target(total), f"target_sparsity={settings.target_sparsity}"
    if zeros > target and not units.pruned(masks):
        raise MisconfigurationException(
            f"{name} is below the module's current sparsity: {zeros} of {total} prunable {what} are zero already "
            f"({zeros / total:.4f}); raise the target"
        )
    if target > units.most:
        places = (
            "tensors and gates, and every one" if what == "weights" else "groups of channels, and every group"
        )
        raise MisconfigurationException(
            f"{name} leaves {total - target} of {total} {what} for {total - units.most} {places} "
            f"must keep at least one; at most {units.most / total:.6f} is possible here"
        )
    return planned(settings, total, target)


def planned(settings: Settings, total: int, target: int) -> Plan:
    """The plan of so many units, of which so many are to be pruned in the end."""
    search = settings.search
    listed = ListedSteps.to(search.densities, total, target) if isinstance(search, Gradual) else None
    return Plan(total, target, search.fraction, search.max_rounds, search.retries, settings.steps, listed)
