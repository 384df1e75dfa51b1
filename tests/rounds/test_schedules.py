"""The adaptive schedule: steps by hand, and what holds for every run whatever validation data and the guard say."""

from __future__ import annotations

import ast
import inspect
from fractions import Fraction
from itertools import pairwise
from math import comb

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_classprune.guard.error_budget import ErrorBudget
from lightning_classprune.rounds import plan as rounds
from lightning_classprune.rounds import schedules
from lightning_classprune.rounds.plan import (
    Plan,
    RoundState,
    after_abandonment,
    after_verdict,
    largest_number_of_tests,
)
from lightning_classprune.rounds.schedules import AdaptiveSteps, ListedSteps

HAND = AdaptiveSteps(
    to_try=(Fraction(4, 5), Fraction(1, 2), Fraction(1, 10)),
    first=Fraction(1, 10),
    later=Fraction(1, 2),
    deepest=Fraction(1, 100),
    smallest=Fraction(1, 5),
    abandons=2,
)


def plan(target: int = 9900, retries: int = 0, max_rounds: int | None = None) -> Plan:
    return Plan(10_000, target, 0.2, max_rounds, retries, HAND)


# --- by hand ---


def test_looks_are_shares_of_what_the_accepted_network_keeps() -> None:
    assert HAND.densities_to_try(10_000, 0, 9900) == [2000, 5000, 9000]
    assert HAND.densities_to_try(10_000, 6000, 9900) == [6800, 8000, 9600]
    assert HAND.densities_to_try(10_000, 9000, 9900) == [9200, 9500, 9900]
    assert HAND.densities_to_try(10_000, 9000, 9400) == [9200, 9400]
    assert HAND.densities_to_try(10_000, 9900, 9900) == []


def test_the_first_candidate_goes_beyond_what_holds_without_retraining() -> None:
    """Half of the weights hold without retraining: the first candidate keeps a tenth of that, 500 of 10,000."""
    assert after_verdict(plan(), RoundState(), True, 5000).candidate == 9500
    assert after_verdict(plan(), RoundState(), True, 0).candidate == 9000
    assert after_verdict(plan(), RoundState(), True, None).candidate == 9000
    assert after_verdict(plan(target=9300), RoundState(), True, 5000).candidate == 9300


def test_later_candidates_keep_half_of_what_holds() -> None:
    first = after_verdict(plan(), RoundState(), True, 5000)
    assert after_verdict(plan(), first, True, 9500).candidate == 9750
    assert after_verdict(plan(), first, True, 9700).candidate == 9850


def test_a_refused_or_abandoned_candidate_sends_the_next_half_way_back_in_ratios() -> None:
    """100% accepted and 4% refused: 20%, plus the one weight that keeps it off the bound; then between 20% and 4%."""
    first = after_verdict(plan(retries=1), RoundState(), True, 6000)
    assert first.candidate == 9600
    for after in (after_verdict(plan(retries=1), first, False), after_abandonment(plan(retries=1), first)):
        assert (after.candidate, after.round, after.attempt) == (7999, 1, 2)
        second = after_verdict(plan(retries=1), after, True, 9000)
        # half of 1000: beyond what failed, but from other weights
        assert (second.candidate, second.round, second.attempt) == (9500, 2, 1)
    assert first.refusals == 0
    assert after_abandonment(plan(), first).abandoned == 1
    assert after_verdict(plan(retries=1), first, False).abandoned == 0


def test_no_step_is_smaller_than_the_smallest() -> None:
    small = Plan(10_000, 9900, 0.2, adaptive=AdaptiveSteps(first=Fraction(1, 10), later=Fraction(1)))
    first = after_verdict(small, RoundState(), True, 0)
    assert (first.candidate, after_verdict(small, first, True, None).candidate) == (9000, 9200)


def test_no_step_is_larger_than_the_deepest() -> None:
    state = after_verdict(plan(), RoundState(), True, 9900)
    assert state.candidate == 9900
    deep = Plan(10_000, 9990, 0.2, adaptive=HAND)
    state = after_verdict(deep, RoundState(), True, 9900)
    assert state.candidate == 9900
    state = after_verdict(deep, RoundState(round=1, accepted=9000, candidate=9000), True, 9990)
    assert state.candidate == 9990


def test_the_run_ends_where_the_next_step_is_not_worth_a_round() -> None:
    """Between 1000 kept and 700 that failed there is 837 only, a step of 16%."""
    state = RoundState(round=3, attempts=3, accepted=9000, candidate=9300)
    assert after_abandonment(plan(), state).finished == "the next step is too small to be worth a round"


def test_abandoning_is_bounded() -> None:
    state = after_verdict(plan(), RoundState(), True, 5000)
    for candidate in (7763, 5270):
        state = after_abandonment(plan(), state)
        assert state.candidate == candidate
    assert after_abandonment(plan(), state).finished == "3 candidates were abandoned"


def test_abandoned_attempts_count_as_attempts_but_not_as_refusals() -> None:
    state = after_abandonment(plan(max_rounds=2), after_verdict(plan(max_rounds=2), RoundState(), True, 5000))
    assert (state.attempts, state.refusals) == (2, 0)
    assert after_abandonment(plan(max_rounds=2), state).finished == "max_rounds=2 attempts were made"


@pytest.mark.parametrize(
    ("target", "retries", "tests"),
    # 8000, 6400, 5120, 4096, 3276, 2620, 2096, 1676, 1340, 1072, 857, 685, 548, 438, 350, 280, 224, 179, 143, 114, 91
    [(9900, 0, 21), (9900, 2, 23), (2000, 0, 1), (2001, 0, 2), (9143, 0, 11)],
)
def test_the_largest_number_of_tests_by_hand(target: int, retries: int, tests: int) -> None:
    assert largest_number_of_tests(plan(target, retries)) == tests
    assert largest_number_of_tests(plan(target, retries, max_rounds=1)) == 1


# --- every run ---


@st.composite
def schedules_(draw: st.DrawFn) -> AdaptiveSteps:
    share = st.integers(1, 99).map(lambda n: Fraction(n, 100))
    return AdaptiveSteps(
        to_try=tuple(sorted(draw(st.lists(share, min_size=1, max_size=6, unique=True)), reverse=True)),
        first=draw(share),
        later=draw(st.one_of(share, st.just(Fraction(1)))),
        deepest=draw(share),
        smallest=draw(st.integers(5, 60).map(lambda n: Fraction(n, 100))),
        abandons=draw(st.integers(0, 4)),
    )


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    total = draw(st.one_of(st.integers(1, 60), st.integers(1, 10**7)))
    limit = draw(st.sampled_from([None, None, None, 1, 3, 8]))
    return Plan(total, draw(st.integers(1, total)), 0.2, limit, draw(st.integers(0, 3)), draw(schedules_()))


events = st.lists(
    st.tuples(st.sampled_from(["accepted", "accepted", "refused", "abandoned"]), st.floats(0, 1)),
    min_size=0,
    max_size=400,
)


def walk(made: Plan, script: list[tuple[str, float]]) -> list[tuple[str, RoundState]]:
    """(what happened, state after it); `script` gives the verdicts and how far of the looks validation holds."""
    adaptive = made.adaptive
    assert adaptive is not None

    def limit(state: RoundState, share: float) -> int | None:
        looks = [state.candidate, *adaptive.densities_to_try(made.total, state.candidate, made.target)]
        return looks[int(share * (len(looks) - 1))]

    state = RoundState()
    state = after_verdict(made, state, True, limit(state, script[0][1] if script else 0.0))
    states = [("baseline", state)]
    for what, share in script:
        if state.finished is not None:
            break
        if what == "abandoned":
            state = after_abandonment(made, state)
        else:
            state = after_verdict(made, state, what == "accepted", limit(state, share))
        states.append((what, state))
    return states


@settings(deadline=None, max_examples=300)
@given(plans(), events)
def test_every_candidate_is_between_the_accepted_ticket_and_the_target(
    made: Plan, script: list[tuple[str, float]]
) -> None:
    states = walk(made, script)
    for (_, before), (what, after) in pairwise(states):
        assert after.accepted == (before.candidate if what == "accepted" else before.accepted)
        assert after.refusals == before.refusals + (what == "refused")
        assert after.abandoned == before.abandoned + (what == "abandoned")
        assert what == "accepted" or after.finished or after.candidate < before.candidate
    for _, state in states:
        if state.finished is None:
            kept = made.total - state.accepted
            assert state.accepted < state.candidate <= made.target
            step = Fraction(state.candidate - state.accepted, kept)
            assert step >= made.adaptive.smallest or state.candidate == made.target


@settings(deadline=None, max_examples=300)
@given(plans(), events)
def test_every_run_ends_and_its_tests_are_known_before(made: Plan, script: list[tuple[str, float]]) -> None:
    """Also with nothing but acceptances at the end, the longest way there is."""
    script = script + [("accepted", 0.0)] * 400
    states = walk(made, script)
    assert states[-1][1].finished is not None
    tests = [what for what, _ in states if what in ("accepted", "refused")]
    assert len(tests) <= largest_number_of_tests(made)
    assert sum(what == "abandoned" for what, _ in states) <= made.adaptive.abandons + 1
    budget = ErrorBudget(0.05, made.retries, largest_number_of_tests(made))
    for what in tests:
        budget = budget.spend(what == "accepted")


@settings(deadline=None)
@given(plans(), events)
def test_states_come_back(made: Plan, script: list[tuple[str, float]]) -> None:
    for _, state in walk(made, script):
        assert RoundState.from_state_dict(state.state_dict()) == state


# --- the guarantee ---


def test_nothing_of_the_guard_but_its_verdict_reaches_the_schedule() -> None:
    """The functions that choose a candidate take counts of weights and one yes or no; no module of the guard."""
    for module in (schedules, rounds):
        tree = ast.parse(inspect.getsource(module))
        imported = {
            alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
        }
        imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not [name for name in imported if name.startswith("lightning_classprune.guard")]
    assert list(inspect.signature(after_verdict).parameters) == ["plan", "state", "accepted", "reach"]


@pytest.mark.parametrize("retries", [0, 1, 2])
def test_no_pattern_of_refusals_can_spend_more_than_the_level(retries: int) -> None:
    """Each segment between refusals is a fixed sequence: the levels of all that can be reached sum to alpha at most.

    After r refusals it can be reached if these are among the tests before the last one.
    """
    tests = largest_number_of_tests(plan(retries=retries))
    level = {r: ErrorBudget(0.05, retries, tests, tests=r, refusals=r).level() for r in range(retries + 1)}
    assert sum(comb(tests - 1, r) * level[r] for r in level) <= 0.05 + 1e-12


# --- a list of densities ---


def listed(*pruned: int, retries: int = 0) -> Plan:
    return Plan(1000, pruned[-1], 0.5, None, retries, listed=ListedSteps(pruned))


def test_a_list_is_gone_through_and_a_failure_is_tried_again_from_nearer() -> None:
    """Between 100 kept and 10 that failed lie 31.6, rounded up to 32; then the 10 once more."""
    made = listed(900, 990, 995)
    states = [after_verdict(made, RoundState(), True)]
    states.append(after_verdict(made, states[-1], True))
    states.append(after_abandonment(made, states[-1]))
    states.append(after_verdict(made, states[-1], True))
    assert [state.candidate for state in states] == [900, 990, 968, 990]
    assert (
        after_verdict(made, after_verdict(made, states[-1], True), True).finished
        == "the target sparsity is reached"
    )
    assert after_abandonment(made, states[-1]).finished == "2 candidates were abandoned"
    assert after_verdict(made, states[-1], False).finished == "a round was not accepted"


def test_a_run_that_starts_from_a_ticket_skips_what_it_has() -> None:
    assert after_verdict(listed(900, 990), RoundState(accepted=900, candidate=900), True).candidate == 990
    assert after_verdict(listed(900, 990), RoundState(accepted=950, candidate=950), True).candidate == 990


@pytest.mark.parametrize("retries", [0, 1, 2])
@pytest.mark.parametrize("pruned", [(500,), (900, 990), (900, 970, 990), (10, 20, 30)])
def test_no_run_over_a_list_has_more_tests_than_its_budget(pruned: tuple[int, ...], retries: int) -> None:
    made = listed(*pruned, retries=retries)

    def longest(state: RoundState) -> int:
        if state.finished is not None:
            return 0
        tested = 1 + max(longest(after_verdict(made, state, accepted)) for accepted in (True, False))
        return max(tested, longest(after_abandonment(made, state)))

    found = longest(after_verdict(made, RoundState(), True))
    assert len(pruned) <= found <= largest_number_of_tests(made) <= len(pruned) + 2 * retries + 1
