import itertools
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lightning_classprune.guard.error_budget import ErrorBudget
from lightning_classprune.rounds.plan import Plan, RoundState, after_verdict, largest_number_of_tests


def walk(plan, verdicts, state=None):
    """States after the dense round and after each verdict, until the run ends."""
    state = after_verdict(plan, RoundState() if state is None else state, accepted=True)
    states = [state]
    for accepted in verdicts:
        if state.finished is not None:
            break
        state = after_verdict(plan, state, accepted)
        states.append(state)
    return states


def candidates(states):
    return [state.candidate for state in states if state.finished is None]


# --- steps by hand ---


def test_a_run_in_which_all_is_accepted():
    """20% of 100, 16 of 80, 12.8 of 64, 10.2 of 51, 8 of 40, 6.4 of 32, 5 of 25, 4 of 20, 3.2 of 16, then to 90."""
    states = walk(Plan(100, 90, 0.2), itertools.repeat(True))
    assert candidates(states) == [20, 36, 49, 60, 68, 75, 80, 84, 88, 90]
    assert [s.round for s in states] == [*range(1, 11), 10]
    assert [s.accepted for s in states] == [0, 20, 36, 49, 60, 68, 75, 80, 84, 88, 90]
    assert all(s.attempt == 1 for s in states)
    assert states[-1] == RoundState(10, 1, 10, 0, 90, 90, "the target sparsity is reached")


def test_the_last_step_is_shortened_to_the_target():
    assert candidates(walk(Plan(10, 6, 0.5), [True] * 9)) == [5, 6]
    assert candidates(walk(Plan(10, 5, 0.5), [True] * 9)) == [5]
    assert candidates(walk(Plan(10, 1, 0.5), [True] * 9)) == [1]
    assert candidates(walk(Plan(3, 3, 0.9), [True] * 9)) == [3]


def test_fractions_are_decimals():
    """In floats 0.07 * 100 is 7.000000000000001 and would prune 8."""
    assert candidates(walk(Plan(100, 7, 0.07), [True])) == [7]
    assert walk(Plan(100, 50, 0.07), [])[0].candidate == 7
    assert walk(Plan(1000, 500, 0.29), [])[0].candidate == 290


def test_without_retries_the_first_refusal_ends_the_run():
    states = walk(Plan(100, 90, 0.2), [True, False])
    assert states[-1] == RoundState(2, 1, 2, 1, 20, 36, "a round was not accepted")


def test_a_retry_halves_the_step_from_the_last_accepted_ticket_and_all_later_steps():
    states = walk(Plan(100, 90, 0.2, retries=2), [True, False, True, False, True, True])
    #                                    20   36 refused, so 28, then 10% of 72 is 7.2: 36 refused again, so 32
    assert candidates(states) == [20, 36, 28, 36, 32, 36, 40]
    assert [(s.round, s.attempt) for s in states] == [(1, 1), (2, 1), (2, 2), (3, 1), (3, 2), (4, 1), (5, 1)]
    assert [s.refusals for s in states] == [0, 0, 1, 1, 2, 2, 2]
    assert [s.attempts for s in states] == [1, 2, 3, 4, 5, 6, 7]
    assert walk(Plan(100, 90, 0.2, retries=2), [False] * 3)[-1].finished == "a round was not accepted"


def test_retries_at_one_round_halve_again_and_round_up():
    assert candidates(walk(Plan(100, 90, 0.25, retries=9), [False] * 9)) == [25, 13, 7, 4, 2, 1]
    assert walk(Plan(100, 90, 0.25, retries=9), [False] * 9)[-1].finished == (
        "a round was not accepted and its step is a single weight"
    )


@pytest.mark.parametrize("verdicts", [(True, True, True), (True, False, True), (False, True, False)])
def test_attempts_are_limited_whatever_their_verdicts(verdicts):
    *before, last = walk(Plan(1000, 900, 0.1, max_rounds=3, retries=5), verdicts)
    assert all(state.finished is None for state in before)
    assert last.finished == "max_rounds=3 attempts were made"
    assert last.attempts == 3


def test_reaching_the_target_in_the_last_attempt_is_reaching_it():
    assert walk(Plan(10, 6, 0.5, max_rounds=2), [True, True])[-1].finished == "the target sparsity is reached"
    assert walk(Plan(10, 6, 0.5, max_rounds=2), [True, False])[-1].finished == "a round was not accepted"


def test_a_run_may_start_from_a_ticket():
    start = RoundState(accepted=40, candidate=40)
    assert candidates(walk(Plan(100, 90, 0.2), [True], start)) == [52, 62]
    assert walk(Plan(100, 40, 0.2), [], start)[0].finished == "the target sparsity is reached"


@pytest.mark.parametrize("values", [(10, 0, 0.5), (10, 11, 0.5), (0, 0, 0.5), (10, 5, 0.0), (10, 5, 1.0)])
def test_what_is_no_plan(values):
    with pytest.raises(ValueError, match="not a plan"):
        Plan(*values)


# --- properties ---

fractions = st.one_of(st.integers(1, 99).map(lambda p: p / 100), st.floats(0.001, 0.999))


@st.composite
def plans(draw, most=60, rounds=(None, None, 1, 2, 3, 5, 8)):
    total = draw(st.integers(1, most))
    target, fraction = draw(st.integers(1, total)), draw(fractions)
    return Plan(total, target, fraction, draw(st.sampled_from(rounds)), draw(st.integers(0, 3)))


@settings(deadline=None)
@given(plans(most=2000), st.lists(st.booleans(), max_size=60))
def test_every_state_of_every_run_makes_sense(plan, verdicts):
    states = walk(plan, verdicts)
    for before, after, accepted in zip(states, states[1:], verdicts, strict=False):
        assert after.accepted == (before.candidate if accepted else before.accepted)
        assert after.refusals == before.refusals + (not accepted)
        if after.finished is None:
            assert after.attempts == before.attempts + 1
            assert after.accepted < after.candidate <= plan.target
            step = after.candidate - after.accepted
            assert (
                step <= plan.fraction / 2**after.refusals * (plan.total - after.accepted) + 1 or not accepted
            )
            if not accepted:
                assert 2 * step - (before.candidate - before.accepted) in (0, 1)
                assert (after.round, after.attempt) == (before.round, before.attempt + 1)
            else:
                assert (after.round, after.attempt) == (before.round + 1, 1)
        else:
            assert after is states[-1]
            assert (after.accepted == plan.target) == (after.finished == "the target sparsity is reached")
        assert after.refusals <= plan.retries + 1


@settings(deadline=None)
@given(plans(most=10**7, rounds=(None,)))
def test_what_is_delivered_is_exactly_the_target_if_all_is_accepted(plan):
    last = walk(replace(plan, fraction=max(plan.fraction, 0.1)), itertools.repeat(True))[-1]
    assert last.accepted == plan.target


@given(plans(), st.lists(st.booleans(), max_size=6))
def test_states_come_back(plan, verdicts):
    for state in walk(plan, verdicts):
        saved = state.state_dict()
        assert all(value is None or type(value) in (int, str) for value in saved.values())
        assert RoundState.from_state_dict(saved) == state


# --- the largest number of tests ---


def exhaustive(plan, state):
    """Tests of the longest run over all patterns of verdicts from a state on."""

    @cache
    def longest(state):
        if state.finished is not None:
            return 0
        return 1 + max(longest(after_verdict(plan, state, accepted)) for accepted in (True, False))

    return longest(state)


@pytest.mark.parametrize(
    ("plan", "tests"),
    [
        (Plan(100, 90, 0.2), 10),
        (Plan(100, 90, 0.2, max_rounds=4), 4),
        (Plan(100, 90, 0.2, max_rounds=40), 10),
        (Plan(10, 10, 0.9, retries=1), 5),  # 9 refused, 5, 8, 9, 10
        (Plan(10, 1, 0.5, retries=3), 1),  # a single weight is not halved
        # Refusing as early as possible is not the longest where the target cuts the steps: 10 refused, 5 refused, 3, 10
        # are four tests; 10 refused, 5, 10 refused, 8, 10 are five.
        (Plan(97, 10, 0.74, retries=2), 5),
    ],
)
def test_the_largest_number_of_tests_by_hand(plan, tests):
    assert largest_number_of_tests(plan) == tests


@settings(max_examples=250, deadline=None)
@given(plans())
@example(Plan(113, 15, 0.8986530998235474, retries=3))
@example(Plan(60, 60, 0.01, retries=3))
def test_the_largest_number_of_tests_is_that_of_all_patterns(plan):
    assert largest_number_of_tests(plan) == exhaustive(plan, after_verdict(plan, RoundState(), True))


@settings(deadline=None)
@given(plans(), st.data())
def test_a_run_that_starts_from_a_ticket_has_no_more_tests(plan, data):
    accepted = data.draw(st.integers(0, plan.target))
    start = after_verdict(plan, RoundState(accepted=accepted, candidate=accepted), True)
    assert exhaustive(plan, start) <= largest_number_of_tests(plan)


@settings(deadline=None)
@given(plans(most=3000), st.lists(st.booleans(), max_size=200), st.sampled_from([None, 0.05]))
def test_no_run_asks_for_more_tests_than_its_budget_has(plan, verdicts, alpha):
    budget = ErrorBudget(alpha, plan.retries, largest_number_of_tests(plan))
    for _, accepted in zip(candidates(walk(plan, verdicts)), verdicts, strict=False):
        budget = budget.spend(accepted)


def test_huge_plans_are_bounded_without_walking_through_them():
    """After 15 halvings a run could come to millions of tests, one of a few weights each."""
    plan = Plan(10**9, 990_000_000, 0.2, retries=15)
    assert largest_number_of_tests(plan) == 990_000_015
    assert largest_number_of_tests(replace(plan, max_rounds=50)) == 50
    # ln(0.01) / ln(1 - 0.2 / 8) = 182 steps, and three refusals.
    assert largest_number_of_tests(replace(plan, retries=3)) == 185


def test_the_bound_for_huge_plans_is_never_too_small(monkeypatch):
    monkeypatch.setattr("lightning_classprune.rounds.plan._COUNTED", 4)
    for target, retries, fraction in itertools.product(range(1, 13), range(4), (0.05, 0.3, 0.9)):
        plan = Plan(13, target, fraction, retries=retries)
        assert largest_number_of_tests(plan) >= exhaustive(plan, after_verdict(plan, RoundState(), True))
