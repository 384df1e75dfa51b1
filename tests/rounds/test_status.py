"""Where a run stands: exact figures, and the line that says them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from lightning_classprune.guard.error_budget import ErrorBudget
from lightning_classprune.guard.protected import Protected
from lightning_classprune.guard.tolerance import FNTolerance
from lightning_classprune.live import line
from lightning_classprune.rounds.plan import Plan, RoundState, after_verdict
from lightning_classprune.rounds.status import ClassStatus, Status, rounds_after, status
from lightning_classprune.trainer.horizon import Horizon

PLAN = Plan(total=1000, target=875, fraction=0.5)  # 500, 750, 875: three rounds after the dense one
START = RoundState()
FIRST = after_verdict(PLAN, START, accepted=True)


def row(verdict: str, seconds: float, epochs: int = 8, fn: int = 25, support: int = 100) -> dict[str, Any]:
    counts = {"support": support, "fn": fn, "recall": 1 - fn / support if support else None}
    counts |= {"fp": 20, "negatives": 400}
    return {"verdict": verdict, "seconds": seconds, "epochs": epochs, "classes": {"crack": counts}}


def at(**changes: Any) -> Status:
    """In the third of eight epochs of round 1, after a dense round of 40 s."""
    arguments: dict[str, Any] = {
        "plan": PLAN,
        "state": FIRST,
        "horizon": Horizon(start_epoch=8, start_step=80, epochs=8, steps=-1),
        "epochs": 10,
        "steps": 105,
        "share": 0.5,
        "budget": ErrorBudget(0.05, 0, 3),
        "protected": [Protected(1, "crack", FNTolerance(rate=0.05), 0.1)],
        "judges_once": False,
        "recall": {"crack": 0.71},
        "rows": [row("baseline", 40.0)],
        "seconds": 10.0,
        "max_total_epochs": None,
    }
    return status(**(arguments | changes))


def test_in_the_middle_of_a_round() -> None:
    assert at() == Status(
        round=1, attempt=1, sparsity=0.5, unit="epoch", done=2, length=8,
        classes=(ClassStatus("crack", 0.71, 0.75, 0.05, 0.05, 0.1),),
        level=0.05, tests_left=3, retries_left=0, epochs_left=None,
        seconds_left=30.0 + 2 * 40.0,  # the rest of this round, and rounds 2 and 3
    )  # fmt: skip
    assert line(at()).plain == (
        "round 1 | epoch 3/8 | sparsity 50.0% | recall crack 0.710 (dense 0.750, tolerance 0.05), "
        "false alarms dense 0.050 (may rise 0.1) | confidence 95%, 3 tests | 1:50 left"
    )


def test_while_a_mask_shrinks_both_densities_are_told() -> None:
    found = at(shrunk=421)
    assert (found.shrunk, found.sparsity) == (0.421, 0.5)
    assert "| sparsity 42.1% of 50.0% |" in line(found).plain


def test_the_line_fits_a_terminal() -> None:
    def fitted(found: Status, width: int) -> str:
        plain: str = line(found, width).plain
        assert cell_len(plain) <= width
        return plain

    waiting = at(judges_once=True, rows=[row("baseline", 40.0), row("kept", 20.0)])
    assert fitted(waiting, 200) == line(waiting).plain
    assert fitted(waiting, 140) == (
        "round 1 | epoch 3/8 | sparsity 50.0% | recall crack 0.710 (dense 0.750, tolerance 0.05) | "
        "confidence 95%, 1 kept for the guard | 1:20 left"
    )
    assert fitted(waiting, 100) == (
        "round 1 | epoch 3/8 | sparsity 50.0% | recall crack 0.710 (dense 0.750) | 1 kept | 1:20 left"
    )
    one = waiting.classes[0]
    several = replace(waiting, classes=(replace(one, name="far", recall=0.8), one, replace(one, recall=None)))
    assert fitted(several, 100) == (
        "round 1 | epoch 3/8 | sparsity 50.0% | recall crack 0.710 (dense 0.750) | 2 more | 1:20 left"
    )
    long = replace(waiting, classes=(replace(one, name="裂" * 99),) * 3, seconds_left=9e5, sparsity=0.99912)
    for width in range(1, 200):
        fitted(long, width)
    assert "recall 裂裂裂裂裂裂裂" in fitted(long, 100)
    assert fitted(replace(waiting, classes=()), 40).startswith("round 1 | epoch 3/8 | sparsity 50.0% |")


def test_in_round_0_nothing_is_known_but_the_pace() -> None:
    known = at(
        state=START, horizon=Horizon(0, 0, 8, -1), epochs=0, share=0.0, seconds=0.1, rows=[], recall={}
    )
    assert known.classes == (ClassStatus("crack", None, None, None, None, 0.1),)
    assert known.seconds_left is None
    assert line(known).plain == (
        "round 0 | epoch 1/8 | sparsity 0.0% | recall crack - (dense -, tolerance -) | "
        "confidence 95%, 3 tests | - left"
    )
    # A quarter of round 0 took 10 s: 40 s a round, three more of them.
    assert at(state=START, horizon=Horizon(0, 0, 8, -1), epochs=2, share=0.0, rows=[]).seconds_left == 150


@pytest.mark.parametrize(
    ("rows", "seconds", "left"),
    [
        ([row("baseline", 40), row("accepted", 20)], 10.0, 20 + 2 * 30),  # mean 30
        ([row("baseline", 40)], 55.0, 2 * 40),  # this round takes longer than the mean: at least the others
        ([row("baseline", 0.2, epochs=0)], 10.0, 22 + 2 * 32),  # judged as it came; 2.5 of 8 epochs in 10 s
    ],
)
def test_time_to_the_end_is_that_of_the_rounds_left(rows: Any, seconds: float, left: float) -> None:
    assert at(rows=rows, seconds=seconds).seconds_left == pytest.approx(left)


@pytest.mark.parametrize(
    ("horizon", "unit", "done", "length", "place", "left"),
    [
        (Horizon(8, 80, -1, 100), "step", 25, 100, "step 26/100", 3 * 40 - 10),  # a quarter in 10 s
        (Horizon(8, 80, -1, -1), "epoch", 2, None, "epoch 3", None),  # EarlyStopping ends it
        (Horizon(8, 80, 8, 50), "epoch", 2, 8, "epoch 3/8", 3 * 20 - 10),  # steps end it first: half is done
    ],
)
def test_rounds_of_every_kind_of_length(
    horizon: Horizon, unit: str, done: int, length: int | None, place: str, left: float | None
) -> None:
    found = at(horizon=horizon, rows=[])
    assert (found.unit, found.done, found.length) == (unit, done, length)
    assert f"| {place} |" in line(found).plain
    assert found.seconds_left == left


@pytest.mark.parametrize(
    ("budget", "level", "tests", "retries", "said"),
    [
        (ErrorBudget(0.05, 0, 3, tests=2), 0.05, 1, 0, "confidence 95%, 1 test"),
        (ErrorBudget(0.05, 1, 6), pytest.approx(0.0375), 6, 1, "confidence 96.25%, 6 tests, 1 retry"),
        # alpha / 4 / (2 C(5, 1))
        (
            ErrorBudget(0.05, 2, 6, tests=1, refusals=1),
            pytest.approx(0.0125 / 10),
            5,
            1,
            "confidence 99.88%, 5 tests, 1 retry",
        ),
        (ErrorBudget(0.05, 0, 3, tests=1, refusals=1), None, 0, 0, "no test left"),
        (ErrorBudget(None, 2, 4), None, 4, 2, "point rule, 4 tests, 2 retries"),
    ],
)
def test_what_is_left_of_the_error_budget(
    budget: ErrorBudget, level: float | None, tests: int, retries: int, said: str
) -> None:
    found = at(budget=budget)
    assert (found.level, found.tests_left, found.retries_left) == (pytest.approx(level), tests, retries)
    assert f"| {said} |" in line(found).plain


def test_tolerances_are_said_as_rates() -> None:
    for tolerance, rise in ((FNTolerance(count=3), 0.03), (FNTolerance(factor=1.2), 0.05)):
        assert at(protected=[Protected(1, "crack", tolerance)]).classes[0].tolerance == pytest.approx(rise)
    nothing = at(rows=[row("baseline", 40, fn=0, support=0)])
    assert nothing.classes == (ClassStatus("crack", 0.71, None, None, None, 0.1),)


def test_colour_tells_where_the_recall_is_below_what_is_allowed() -> None:
    def colour(recall: float) -> str:
        text = line(at(recall={"crack": recall}))
        (span,) = [s for s in text.spans if text.plain[s.start : s.end] == f"{recall:.3f}"]
        return str(span.style)

    assert [colour(r) for r in (0.9, 0.71, 0.699, float("nan"))] == ["green", "green", "yellow", "yellow"]


def test_hours_and_attempts() -> None:
    slow = at(state=replace(FIRST, attempt=2), rows=[row("baseline", 4000)], seconds=3999.0)
    assert line(slow).plain.startswith("round 1.2 | ")
    assert line(slow).plain.endswith(" | 2:13:21 left")  # 8001 s


def test_a_finished_run_has_nothing_left() -> None:
    assert at(state=replace(FIRST, finished="a round was not accepted")).seconds_left == 0


@given(
    st.integers(1, 400), st.floats(0.05, 0.9), st.floats(0.1, 1), st.none() | st.integers(1, 12)
)  # fmt: skip
def test_rounds_after_are_those_that_a_run_of_acceptances_comes_to(
    total: int, fraction: float, share: float, max_rounds: int | None
) -> None:
    plan = Plan(total, max(1, int(share * total)), fraction, max_rounds)
    states = [RoundState()]
    while states[-1].finished is None:
        states.append(after_verdict(plan, states[-1], accepted=True))
    running = states[:-1]
    assert [rounds_after(plan, s) for s in running] == list(range(len(running)))[::-1]


def test_nobody_waits_for_ten_thousand_rounds() -> None:
    plan = Plan(total=20_000, target=20_000, fraction=1e-9)
    assert rounds_after(plan, START) is None
    assert at(plan=plan, state=START).seconds_left is None


def test_a_limit_to_all_epochs_is_counted_down() -> None:
    assert at(max_total_epochs=16).epochs_left == 6
    assert " | confidence 95%, 3 tests | 6 epochs left | " in line(at(max_total_epochs=16)).plain
    assert " | 1 epoch left | " in line(at(max_total_epochs=11)).plain
    assert at(max_total_epochs=9).epochs_left == 0


def test_candidates_that_wait_for_the_guard_are_counted_where_it_looks_once() -> None:
    waiting = at(judges_once=True, rows=[row("baseline", 40.0), row("kept", 20.0), row("abandoned", 5.0)])
    assert waiting.kept == 1
    assert " | confidence 95%, 1 kept for the guard | " in line(waiting).plain
    assert at().kept is None


def test_false_alarms_that_nobody_guards_are_shown_as_such() -> None:
    unguarded = at(protected=[Protected(1, "crack", FNTolerance(rate=0.05), None)])
    assert "false alarms dense 0.050 (not guarded) | " in line(unguarded).plain
