"""benchmarks/search/guard.py: the guard whose word is not heeded."""

from __future__ import annotations

import torch

from benchmarks.search.guard import UnheededJudge
from lightning_classprune import FNTolerance
from lightning_classprune.guard.classification import Classes
from lightning_classprune.guard.error_budget import ErrorBudget
from lightning_classprune.guard.evaluator import Evaluator
from lightning_classprune.guard.judge import Judge
from lightning_classprune.guard.outcomes import Decisions
from lightning_classprune.guard.protected import Protected
from lightning_classprune.trainer.forward import default_predict
from lightning_classprune.trainer.processes import Processes


def test_a_candidate_that_the_guard_refuses_goes_on_and_costs_no_level():
    target = torch.ones(100, dtype=torch.int64)
    dense, ruined = (Decisions(target, target * found, 2, ("ok", "sick")) for found in (1, 0))
    evaluator = Evaluator(Classes(("ok", "sick"), [1], 0.0), default_predict, Processes(0, 1))
    protected = (Protected(1, "sick", FNTolerance(rate=0.05)),)
    judge = Judge(evaluator, protected, ErrorBudget(0.05, 0, 3), dense, dense)
    unheeded = UnheededJudge(**vars(judge))
    told, heeded = unheeded.verdict(ruined), judge.verdict(ruined)
    assert (told.outcome, heeded.outcome) == ("accepted", "refused")
    assert told.reason == heeded.reason
    assert unheeded.accepted is ruined
    assert unheeded.budget == ErrorBudget(0.05, 0, 3, tests=1)
    assert unheeded.budget.level() == ErrorBudget(0.05, 0, 3).level() == 0.05
