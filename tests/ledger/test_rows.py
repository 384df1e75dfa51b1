"""Rows: by hand from outcomes and verdicts, and that every row of a real fit has the keys and types that it says."""

from __future__ import annotations

import json
import typing
from types import NoneType, UnionType
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from lightning_classprune.guard.conditions import Throughout
from lightning_classprune.guard.error_budget import ErrorBudget
from lightning_classprune.guard.outcomes import Decisions
from lightning_classprune.guard.protected import Protected
from lightning_classprune.guard.tolerance import FNTolerance
from lightning_classprune.guard.verdict import Verdict, throughout, verdict_on
from lightning_classprune.ledger.rows import (
    ClassCounts,
    Row,
    abandoned_row,
    baseline_row,
    delivered_row,
    dense_row,
    kept_row,
    round_label,
    round_metrics,
    stands,
    units_of,
    verdict_row,
)
from tests.support.kit import dataset, fit, loader, pruner, refusing, tiny, verdicts
from tests.support.rows import counts

FACTS: dict[str, Any] = {
    "round": 2,
    "attempt": 1,
    "sparsity": 0.5,
    "units": "weights",
    "confidence": 0.95,
    "epochs": 8,
    "seconds": 1.5,
    "seed": 7,
    "validation_passes": 0,
}
NAMES = ("a", "b")
# Of `b` one is missed at first; of the candidate three, one of them found before.
DENSE = Decisions(torch.tensor([1, 1, 1, 1, 0]), torch.tensor([0, 1, 1, 1, 0]), 2, NAMES)
CANDIDATE = Decisions(torch.tensor([1, 1, 1, 1, 0]), torch.tensor([1, 0, 0, 1, 1]), 2, NAMES)


def judged(level: float | None = None, max_fp_rise: float | None = None) -> Verdict:
    limits = Protected(1, "b", FNTolerance(rate=0.5), max_fp_rise)
    return verdict_on({"b": CANDIDATE.pairs(DENSE, "b")}, (limits,), level)


def candidate_row(verdict: Verdict, offsets: Any = None, chance: Any = None) -> Row:
    return verdict_row(FACTS, CANDIDATE, DENSE, verdict, offsets or {}, chance or {})


# --- by hand ---


def test_the_row_of_the_dense_network() -> None:
    row = baseline_row(FACTS, DENSE, ["b", "a"], "so it is")
    assert row == FACTS | {
        "verdict": "baseline",
        "reason": "so it is",
        "level": None,
        "classes": {
            "b": counts(4, 1, negatives=1),
            "a": counts(1, 0, negatives=4, fp=1),
        },
        "corruptions": {},
    }
    assert baseline_row(FACTS, None, ["b"], "NaN")["classes"] == {}


def test_the_row_of_a_candidate() -> None:
    """Its one negative is a false alarm that the dense network did not give."""
    verdict = judged()
    row = candidate_row(verdict)
    assert (row["verdict"], row["reason"], row["level"], row["confidence"]) == (
        "accepted",
        verdict.reason,
        None,
        0.95,
    )
    alarms = {"fp": 1, "negatives": 1, "new_alarms": 1}
    assert row["classes"] == {"b": counts(4, 2, newly_missed=2, newly_found=1, tolerance=0.5, **alarms)}


def test_the_row_of_a_candidate_that_was_tested_on_both_sides() -> None:
    verdict = judged(0.05, 0.2)
    row, of_class = candidate_row(verdict, {"b": -0.5}, {"b": 0.75}), verdict.classes["b"]
    told = row["classes"]["b"]
    assert (row["level"], told["tolerance"], told["max_fp_rise"]) == (0.05, 0.5, 0.2)
    assert (told["p_value"], told["upper_bound"]) == (of_class.p_value, of_class.upper_bound)
    assert (told["fp_p_value"], told["fp_upper_bound"]) == (of_class.fp_p_value, of_class.fp_upper_bound)
    assert (told["offset"], told["chance"], told["fp_risen"]) == (-0.5, 0.75, False)


def test_the_row_of_what_could_not_be_compared() -> None:
    row = verdict_row(FACTS, None, None, Verdict("refused", "its training diverged", {}), {}, {})
    assert (row["verdict"], row["reason"], row["classes"], row["level"]) == (
        "refused",
        "its training diverged",
        {},
        None,
    )


def test_the_row_of_what_was_given_up() -> None:
    row = abandoned_row(FACTS, "hopeless")
    assert (row["verdict"], row["reason"]) == ("abandoned", "hopeless; no guard test was made")
    assert (row["classes"], row["level"]) == ({}, None)


def test_the_row_of_what_waits_for_its_judgement() -> None:
    row = kept_row(FACTS, "later")
    assert (row["verdict"], row["reason"], row["classes"], row["level"]) == ("kept", "later", {}, None)
    assert not stands(row)


def rows(*said: tuple[int, int, str]) -> list[Row]:
    blank = abandoned_row(FACTS, "")
    return [
        typing.cast(Row, {**blank, "round": number, "attempt": attempt, "verdict": verdict})
        for number, attempt, verdict in said
    ]


def test_which_row_is_dense_and_which_is_delivered() -> None:
    ledger = rows((0, 1, "baseline"), (1, 1, "accepted"), (2, 1, "refused"), (2, 2, "unproven"))
    assert [stands(row) for row in ledger] == [True, True, False, False]
    assert dense_row(ledger) is ledger[0]
    assert delivered_row(ledger) is ledger[1]
    assert delivered_row(ledger[:1]) is ledger[0]
    assert dense_row([]) is delivered_row([]) is delivered_row(ledger[2:]) is None
    assert [round_label(row, ledger) for row in ledger] == ["0", "1", "2.1", "2.2"]


def test_what_rows_count() -> None:
    assert units_of([]) == units_of(rows((0, 1, "baseline"))) == "weights"
    assert units_of([typing.cast(Row, {**rows((0, 1, "baseline"))[0], "units": "channels"})]) == "channels"


def test_numbers_for_loggers() -> None:
    row = candidate_row(judged(), {"b": 0.25})
    assert round_metrics(row, ErrorBudget(None, 1, 5, tests=2)) == {
        "classprune/round": 2.0,
        "classprune/sparsity": 0.5,
        "classprune/accepted": 1.0,
        "classprune/tests_left": 3.0,
        "classprune/guard_fn/b": 2.0,
        "classprune/guard_recall/b": 0.5,
        "classprune/newly_missed/b": 2.0,
        "classprune/newly_found/b": 1.0,
        "classprune/guard_fp/b": 1.0,
        "classprune/new_alarms/b": 1.0,
        "classprune/gone_alarms/b": 0.0,
        "classprune/offset/b": 0.25,
    }
    verdict = judged(0.05, 0.2)
    tested = round_metrics(candidate_row(verdict), ErrorBudget(0.05, 0, 5))
    assert tested["classprune/level_left"] == 0.05
    assert tested["classprune/guard_bound/b"] == verdict.classes["b"].upper_bound
    assert tested["classprune/guard_fp_bound/b"] == verdict.classes["b"].fp_upper_bound
    spent = round_metrics(abandoned_row(FACTS, ""), ErrorBudget(0.05, 0, 5, tests=1, refusals=1))
    assert (spent["classprune/tests_left"], spent["classprune/level_left"]) == (0, 0)
    assert spent["classprune/accepted"] == 0


# --- what a fit writes is what the types say ---


def differences(value: Any, hint: Any, place: str = "row") -> list[str]:
    """Where a value is not exactly of a type: of a TypedDict all keys and no others, no int for a float."""
    if typing.is_typeddict(hint):
        may_lack = hint.__optional_keys__ - set(value)
        fields = {key: kind for key, kind in typing.get_type_hints(hint).items() if key not in may_lack}
        if type(value) is not dict or list(value) != list(fields):
            return [f"{place}: {list(value)}"]
        return [d for key, kind in fields.items() for d in differences(value[key], kind, f"{place}[{key!r}]")]
    if isinstance(hint, UnionType):
        of_each = [differences(value, kind, place) for kind in typing.get_args(hint)]
        return [] if [] in of_each else [f"{place}: {value!r} is not {hint}"]
    if typing.get_origin(hint) is dict:
        key_kind, kind = typing.get_args(hint)
        return [d for key, one in value.items() for d in differences(key, key_kind, place)] + [
            d for key, one in value.items() for d in differences(one, kind, f"{place}[{key!r}]")
        ]
    return [] if type(value) is hint else [f"{place}: {value!r} is not exactly {hint}"]


def test_the_comparison_is_exact() -> None:
    row = baseline_row(FACTS, DENSE, ["b"], "")
    assert differences(row, Row) == []
    for wrong in ({"level": 0}, {"epochs": 8.0}, {"seed": True}, {"units": None}, {"more": 1}):
        assert differences(row | wrong, Row), wrong
    assert differences({"b": {"support": 1}}, dict[str, ClassCounts])
    assert typing.get_args(typing.get_type_hints(Row)["level"]) == (float, NoneType)


def hopeless(module: Any, batch: Any) -> Any:
    """After the dense network every positive of the validation data is missed."""
    scores, sparse = module(batch[0]), bool((module.net[0].weight == 0).any())
    return scores - torch.tensor([0.0, 1e6]) * (sparse and len(batch[1]) == 20), batch[1]


def diverging(module: Any, batch: Any) -> Any:
    sparse = bool((module.net[0].weight == 0).any())
    return module(batch[0]) * (float("nan") if sparse else 1.0), batch[1]


FITS: dict[str, tuple[Any, list[str]]] = {
    "point rule": (pruner, ["baseline", "accepted", "accepted", "accepted"]),
    "tested": (lambda: pruner(protect={1: 0.5, 0: 0.5}, confidence=0.9, max_rounds=1), ["baseline", "accepted"]),
    "tested on both sides": (
        lambda: pruner(protect={1: 0.5}, confidence=0.9, max_fp_rise=0.9, max_rounds=1),
        ["baseline", "accepted"],
    ),
    "refused": (lambda: refusing(1, confidence=0.9), ["baseline", "refused"]),
    "retried": (lambda: refusing(1, on_refusal="retry", retries=1, max_rounds=2), ["baseline", "refused", "accepted"]),
    "diverged": (lambda: pruner(predict=diverging), ["baseline", "refused"]),
    "abandoned": (
        lambda: pruner(search="adaptive", predict=hopeless, protect={1: 0.1}, max_rounds=1),
        ["baseline", "abandoned"],
    ),
    "no positives": (
        lambda: pruner(guard_dataloader=DataLoader([one for one in dataset(40, 3) if not one[1]])),
        ["baseline"],
    ),
    "2:4": (
        lambda: pruner(granularity="2:4", target_sparsity=0.5, fraction=0.5),
        ["baseline", "accepted"],
    ),
}  # fmt: skip


@pytest.mark.fit
@pytest.mark.parametrize("kind", FITS)
def test_every_row_of_a_fit_has_exactly_these_keys_and_types(kind: str) -> None:
    make, said = FITS[kind]
    callback = make()
    fit(tiny(), callback, val=loader(n=40, seed=2, batch_size=20), max_epochs=1)
    assert verdicts(callback) == said
    for row in callback.ledger:
        assert differences(row, Row) == []
    assert json.loads(json.dumps(callback.ledger, allow_nan=False)) == callback.ledger


def test_conditions_are_told_beside() -> None:
    limits = Protected(1, "b", FNTolerance(rate=0.5), None)
    dense, now = Throughout(DENSE, {"fog": CANDIDATE}), Throughout(CANDIDATE, {"fog": DENSE})
    there = verdict_on({"b": DENSE.pairs(CANDIDATE, "b")}, (limits,), None)
    row = verdict_row(FACTS, now, dense, throughout(judged(), {"fog": there}), {"b": 0.5}, {})
    told = row["corruptions"]["fog"]
    assert (told["verdict"], told["reason"]) == ("accepted", there.reason)
    assert told["classes"]["b"] == counts(
        4, 1, newly_missed=1, newly_found=2, tolerance=0.5, negatives=1, gone_alarms=1, offset=0.5
    )
    assert row["classes"] == candidate_row(judged(), {"b": 0.5})["classes"]
    metrics = round_metrics(row, ErrorBudget(None, 0, 5))
    assert (metrics["classprune/guard_fn/b"], metrics["classprune/guard_fn/b/fog"]) == (2, 1)
    first = baseline_row(FACTS, dense, ["b"], "")["corruptions"]["fog"]
    assert (first["verdict"], first["classes"]["b"]["fn"]) == ("baseline", 2)
