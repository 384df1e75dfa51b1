"""The judge: which comparisons it makes, what they cost, and its way through a checkpoint."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import pytest
import torch

from lightning_classprune.guard.classification import ClassesOrLabels
from lightning_classprune.guard.conditions import Condition, Throughout
from lightning_classprune.guard.error_budget import ErrorBudget
from lightning_classprune.guard.evaluator import Evaluator
from lightning_classprune.guard.judge import Judge
from lightning_classprune.guard.offset import Labels
from lightning_classprune.guard.outcomes import Decisions
from lightning_classprune.guard.protected import read_protected
from lightning_classprune.guard.tolerance import FNTolerance
from lightning_classprune.trainer.forward import default_predict
from lightning_classprune.trainer.processes import Processes
from tests.support.compare import assert_same
from tests.support.witness import log_messages

NAMES = ("a", "b", "c")
TARGET = [1] * 10 + [2] * 5 + [0] * 5


def decided(missed: int = 0, missed_c: int = 0, target: list[int] = TARGET) -> Decisions:
    """Of ten cases of `b` and five of `c` so many are missed, the first ones; all else is found."""
    predicted = [0] * missed + target[missed:10] + [0] * missed_c + target[10 + missed_c :]
    return Decisions(torch.tensor(target), torch.tensor(predicted), 3, NAMES)


def judge(
    protect: Any = {"b": 0.2},  # noqa: B006
    alpha: float | None = None,
    retries: int = 1,
    max_fp_rise: float | None = None,
) -> Judge:
    evaluator = Evaluator(ClassesOrLabels(NAMES, [1, 2], 0.0), default_predict, Processes())
    return Judge(evaluator, read_protected(protect, NAMES, None, max_fp_rise), ErrorBudget(alpha, retries, 5))


def begun(dense: Decisions | None = None, **options: Any) -> Judge:
    made = judge(**options)
    assert made.take_dense(dense or decided(1), rehearsal=False) is None
    return made


# --- the dense network ---


def test_the_dense_network_is_what_all_are_compared_with() -> None:
    made, dense = judge(), decided(1)
    assert made.take_dense(dense, rehearsal=False) is None
    assert made.dense is made.accepted is dense
    assert (made.budget.tests, made.budget.refusals) == (0, 0), "it costs no test"


@pytest.mark.parametrize(
    ("outcomes", "rehearsal", "why"),
    [
        (None, False, "the dense network's scores are NaN"),
        (None, True, "the dense network's scores are NaN"),
        (decided(), True, "fast_dev_run: one guard batch was judged"),
        (decided(target=[0] * 20), False, "protected class 'b': the guard data have no positives of it"),
    ],
)
def test_why_nothing_can_be_judged(outcomes: Decisions | None, rehearsal: bool, why: str) -> None:
    made = judge()
    assert why in str(made.take_dense(outcomes, rehearsal=rehearsal))
    assert made.dense is outcomes


def test_what_nothing_can_prove_ends_the_run_once_the_level_is_known() -> None:
    """Not even (0, 1) of 10 excludes a rise of .2 at .05: .8^10 + ... > .05; all else is said under the point rule."""
    why = judge(alpha=0.05).take_dense(decided(1), rehearsal=False)
    assert str(why).startswith(
        "protected class 'b': with 10 cases not even a network without an error can prove"
    )
    assert judge().take_dense(decided(1), rehearsal=False) is None


def test_little_power_is_warned_of() -> None:
    with pytest.warns(
        UserWarning, match=r"protect\['b'\]: a network no worse than the dense one passes with"
    ):
        assert judge(protect={"b": 0.4}, alpha=0.05).take_dense(decided(4), rehearsal=False) is None


NOBODY = Decisions(torch.tensor(TARGET), torch.zeros(20, dtype=torch.int64), 3, NAMES)
EVERYBODY = Decisions(torch.tensor(TARGET), torch.ones(20, dtype=torch.int64), 3, NAMES)


@pytest.mark.parametrize(("dense", "why"), [(NOBODY, "calls no case"), (EVERYBODY, "calls every case")])
def test_a_dense_network_that_is_no_measure_leaves_every_candidate_unproven(
    dense: Decisions, why: str
) -> None:
    made = judge(max_fp_rise=0.5)
    with pytest.warns(UserWarning, match=f"{why}.*Every candidate will be unproven"):
        assert made.take_dense(dense, rehearsal=False) is None
    assert why in made.unfit["b"]
    assert str(made.no_measure).startswith(f"protected class 'b': the dense network {why}")
    for candidate in (dense, decided()):
        verdict = made.verdict_at(candidate, None)
        assert verdict.outcome in ("unproven", "refused")
        assert why in verdict.reason
    assert made.verdict_at(dense, None).outcome == "unproven", "also of the very same network"


def test_one_that_is_no_measure_is_only_warned_of_where_false_alarms_are_not_guarded() -> None:
    made = judge()
    with pytest.warns(UserWarning, match="not guarded .max_fp_rise=None., so a verdict means little"):
        made.take_dense(EVERYBODY, rehearsal=False)
    assert made.unfit == {}
    assert made.no_measure is None
    assert made.verdict_at(EVERYBODY, None).accepted


def test_the_dense_network_in_words() -> None:
    made = begun(decided(6))
    assert made.describe_dense() == (
        "b: 6 of 10 missed, 0 false alarms of 10, the dense network's recall, 0.4, is not shown to be better than "
        "chance (it calls 0.2 of all cases this class), it misses more than half of its cases (6 of 10); accuracy 0.7"
    )
    assert judge().describe_dense() == ""


def test_chances_are_said_before_any_training_by_labels_alone() -> None:
    target = torch.tensor([1] * 205 + [0] * 300)
    said = []
    for predicted in (target, 1 - target):
        outcomes = Decisions(target, predicted, 3, NAMES)
        with log_messages() as messages:
            judge(protect={"b": 0.05}, alpha=0.05, retries=0).tell_power(outcomes)
        said.append(messages)
    assert said[0] == said[1]
    assert said[0] == [
        "protect['b']: 205 guard positives and 300 negatives; a network no worse than the dense one passes at "
        "tolerance 0.05 with probability 0.88 (5%), 0.69 (10%), 0.46 (20%), by the share of positives on which the two "
        "differ"
    ]


def test_labels_are_the_guards_whatever_was_decided() -> None:
    for dense in (decided(), decided(7, 3)):
        assert begun(dense, protect={"c": 0.2, "b": 0.2}).labels() == {
            "c": Labels(5, 15),
            "b": Labels(10, 10),
        }


# --- verdicts ---


def test_the_point_rule_by_hand() -> None:
    """.2 of 10 positives are two more misses than the dense network's one."""
    made, candidate = begun(), decided(3)
    verdict = made.verdict(candidate)
    assert verdict.accepted
    assert "2 newly missed, 0 newly found of 10 (dense missed 1)" in verdict.reason
    assert made.accepted is candidate
    assert (made.budget.tests, made.budget.refusals) == (1, 0)


def test_a_refused_candidate_is_not_kept_and_costs_a_refusal() -> None:
    made = begun()
    assert made.verdict(decided(4)).outcome == "refused"
    assert made.accepted is made.dense
    assert (made.budget.tests, made.budget.refusals) == (1, 1)


def test_every_candidate_is_compared_with_the_dense_network_not_with_the_one_before() -> None:
    made = begun()
    assert [made.verdict(decided(n)).accepted for n in (3, 5)] == [True, False]


def test_the_level_is_that_of_the_budget() -> None:
    made = begun(protect={"b": 0.5}, alpha=0.4, retries=1)
    levels = [made.verdict(decided()).classes["b"].level, made.verdict(decided(5)).classes["b"].level]
    assert levels == pytest.approx([0.3, 0.3])
    assert made.budget.refusals == 1
    assert made.verdict(decided()).classes["b"].level == pytest.approx(0.1 / 4)


def test_each_class_has_its_own_tolerance_and_all_must_pass() -> None:
    made = begun(decided(), protect={"b": 0.2, "c": FNTolerance(count=0)})
    verdict = made.verdict(decided(2, 1))
    assert (verdict.classes["b"].outcome, verdict.classes["c"].outcome) == ("accepted", "refused")
    assert verdict.outcome == "refused"


def test_other_classes_are_not_judged_nor_false_alarms_unless_they_are_guarded() -> None:
    made = begun(decided())
    assert made.verdict(decided(0, 5)).accepted
    alarms = Decisions(torch.tensor(TARGET), torch.tensor([1] * 15 + [0] * 5), 3, NAMES)
    assert begun(decided()).verdict(alarms).accepted
    assert begun(decided(), max_fp_rise=0.5).verdict(alarms).accepted, "5 of 10 negatives"
    assert begun(decided(), max_fp_rise=0.4).verdict(alarms).outcome == "refused"


def test_a_verdict_at_a_level_that_another_accounts_for_costs_nothing() -> None:
    made = begun(protect={"b": 0.5}, alpha=0.4, retries=1)
    assert made.verdict_at(decided(9), 0.1).classes["b"].level == 0.1
    assert (made.budget.tests, made.accepted is made.dense) == (0, True)


@pytest.mark.parametrize(
    ("candidate", "why"),
    [
        (None, "the network's scores are NaN: its training diverged"),
        (decided(target=[1] * 9 + [2] * 11), "the guard data changed between"),
    ],
)
def test_what_cannot_be_compared_is_refused_and_costs_a_test(candidate: Decisions | None, why: str) -> None:
    made = begun()
    verdict = made.verdict(candidate)
    assert (verdict.outcome, verdict.classes) == ("refused", {})
    assert why in verdict.reason
    assert (made.budget.tests, made.budget.refusals) == (1, 1)
    assert made.accepted is made.dense


def test_no_test_beyond_the_budget() -> None:
    made = begun(retries=0)
    made.verdict(decided(9))
    with pytest.raises(RuntimeError, match="no test is left"):
        made.verdict(decided())


# --- saving ---


def test_a_judge_goes_on_from_a_checkpoint() -> None:
    made = begun()
    made.verdict(decided(2))
    made.verdict(decided(9))
    file = io.BytesIO()
    torch.save(made.state_dict(), file)
    file.seek(0)
    other = judge()
    other.load_state_dict(torch.load(file, weights_only=True))
    assert other.budget == made.budget
    assert_same(other.state_dict(), made.state_dict())
    assert other.dense is not None
    assert other.labels() == {"b": Labels(10, 10)}
    assert dataclasses.astuple(other.verdict(decided(3))) == dataclasses.astuple(made.verdict(decided(3)))


def test_a_judge_that_has_seen_nothing_saves_nothing() -> None:
    state = judge().state_dict()
    assert (state["dense_outcomes"], state["accepted_outcomes"]) == (None, None)
    other = begun()
    other.load_state_dict(state)
    assert (other.dense, other.accepted) == (None, None)


# --- under conditions ---


def in_fog(tolerance: float = 0.2, alpha: float | None = None, max_fp_rise: float | None = None) -> Judge:
    """A judge who also looks at cases in fog."""
    made = judge(alpha=alpha, max_fp_rise=max_fp_rise)
    limits = read_protected({"b": tolerance}, NAMES, None, max_fp_rise)
    made.evaluator = dataclasses.replace(
        made.evaluator, conditions=(Condition("fog", lambda batch: batch, limits),)
    )
    return made


def seen(clean: int, fog: int) -> Throughout:
    return Throughout(decided(clean), {"fog": decided(fog)})


@pytest.mark.parametrize(
    ("clean", "fog", "outcome"),
    [(2, 4, "accepted"), (3, 5, "accepted"), (4, 3, "refused"), (1, 6, "refused"), (9, 9, "refused")],
)
def test_dense_and_candidate_are_compared_under_the_same_condition(
    clean: int, fog: int, outcome: str
) -> None:
    """The dense network misses one of ten, three in fog; two more are allowed in either."""
    made = in_fog()
    assert made.take_dense(seen(1, 3), rehearsal=False) is None
    verdict = made.verdict(seen(clean, fog))
    assert verdict.outcome == outcome
    assert verdict.under["fog"].classes["b"].reason.startswith(f"{max(fog - 3, 0)} newly missed")
    assert made.budget.tests == 1, "an intersection-union test is one test"
    assert (made.accepted is not made.dense) == verdict.accepted


def test_each_condition_has_its_own_limit() -> None:
    made = in_fog(tolerance=0.5)
    made.take_dense(seen(1, 3), rehearsal=False)
    assert made.verdict(seen(2, 8)).accepted
    assert not made.verdict(seen(4, 3)).accepted


def test_a_dense_network_that_is_no_measure_in_fog_proves_nothing_there() -> None:
    """It calls everything `b` there, so it cannot get worse; clean it is a measure."""
    everything = Decisions(torch.tensor(TARGET), torch.ones(20).long(), 3, NAMES)
    made = in_fog(max_fp_rise=0.5)
    with pytest.warns(UserWarning, match=r"protect\['b'\] under fog: the dense network calls every case"):
        made.take_dense(Throughout(decided(1), {"fog": everything}), rehearsal=False)
    assert str(made.no_measure).startswith(
        "protected class 'b' under fog: the dense network calls every case"
    )
    verdict = made.verdict(Throughout(decided(1), {"fog": everything}))
    assert (verdict.outcome, verdict.under["fog"].outcome) == ("unproven", "unproven")
    assert "under" not in verdict.classes["b"].reason


def test_what_nothing_can_prove_in_fog_ends_the_run() -> None:
    made = in_fog(tolerance=0.01, alpha=0.2)
    why = str(made.take_dense(seen(1, 0), rehearsal=False))
    assert why.startswith("protected class 'b' under fog: with 10 cases not even a network without an error")


def test_conditions_go_through_a_checkpoint() -> None:
    made, other = in_fog(), in_fog()
    made.take_dense(seen(1, 3), rehearsal=False)
    assert made.verdict(seen(2, 4)).accepted
    made.unfit_under["fog"] = {"b": "too dark"}
    saved = io.BytesIO()
    torch.save(made.state_dict(), saved)
    saved.seek(0)
    state = torch.load(saved, weights_only=True)
    other.load_state_dict(state)
    assert_same(other.state_dict(), state)
    assert other.unfit_under == {"fog": {"b": "too dark"}}
    assert other.accepted is not None
    assert other.accepted.same_decisions(seen(2, 4))
    assert not other.accepted.same_decisions(seen(2, 5))
    assert "b under fog: 3 of 10 missed, 0 false alarms" in other.describe_dense()
