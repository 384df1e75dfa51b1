"""A task that this package does not have, as somebody else would write it: evaluated, judged, saved."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_classprune.guard.data import GuardData, shard_guard_data
from lightning_classprune.guard.error_budget import ErrorBudget
from lightning_classprune.guard.evaluator import Evaluator
from lightning_classprune.guard.evidence import Evidence, paired
from lightning_classprune.guard.judge import Judge
from lightning_classprune.guard.offset import Labels, Sweep, choose_offset
from lightning_classprune.guard.protected import read_protected
from lightning_classprune.guard.task import Columns, Outcomes, Task
from lightning_classprune.guard.validation_recall import ValidationRecall
from lightning_classprune.trainer.processes import Processes
from tests.support.compare import assert_same
from tests.support.inside import inside_fit
from tests.support.kit import dataset

pytestmark = pytest.mark.fit


@dataclass(frozen=True)
class Alarms:
    """Measured quantities: above one they are dangerous, and an alarm must be raised."""

    target: Tensor
    raised: Tensor

    def __len__(self) -> int:
        return len(self.target)

    def same_cases(self, other: Any) -> bool:
        return torch.equal(self.target, other.target)

    def same_decisions(self, other: Any) -> bool:
        return self.same_cases(other) and torch.equal(self.raised, other.raised)

    def pairs(self, dense: Any, name: str) -> tuple[Evidence, Evidence]:
        assert name == "danger"
        if not self.same_cases(dense):
            raise ValueError("other measurements")
        danger = self.target > 1
        return paired(danger, dense.raised, self.raised), paired(~danger, ~dense.raised, ~self.raised)

    def mistakes(self, dense: Any) -> Evidence:
        danger = self.target > 1
        return paired(torch.ones_like(danger), dense.raised == danger, self.raised == danger)

    def remarks(self) -> list[str]:
        return []

    def state_dict(self) -> dict[str, Any]:
        return {"target": self.target, "raised": self.raised}


class Measurements:
    """The network tells how large each quantity is."""

    names = ("danger",)

    def columns(self, scores: Tensor, target: Tensor, case: Any = None) -> Columns:
        if scores.shape != target.shape:
            raise ValueError("predict must return one number for each measurement")
        return target, scores

    def outcomes(self, columns: Columns, offsets: Mapping[str, float]) -> Alarms:
        target, scores = columns or (torch.zeros(0), torch.zeros(0))
        return Alarms(target, scores + offsets.get("danger", 0.0) > 1)

    def sweep(self, columns: Columns, offsets: Mapping[str, float], name: str, dense: Any) -> Sweep:
        target, scores = columns
        everywhere = torch.ones(len(target), dtype=torch.bool).numpy()
        return Sweep(
            (scores - 1).double().numpy(),
            {name: (target > 1).numpy()},
            {name: dense.raised.numpy()},
            {name: everywhere},
            {name: ~everywhere},
        )

    def wrong_targets(self, columns: Columns) -> str | None:
        return None

    def wrong_scores(self, columns: Columns) -> str | None:
        return None

    def exclusive(self, columns: Columns) -> bool:
        return False

    def restored(self, state: Mapping[str, Any]) -> Alarms:
        return Alarms(state["target"], state["raised"])


TASK: Task = Measurements()


def measured(n: int = 40, batch_size: int = 15) -> DataLoader[Any]:
    x, _ = dataset(n, 5).tensors
    return DataLoader(TensorDataset(x, 2 * x[:, 0]), batch_size=batch_size)


def guard_data() -> GuardData:
    return shard_guard_data([measured()], "argument", 0, 1)


def off_by(error: float) -> Any:
    """A network that tells the truth and so much more or less."""
    return lambda module, batch: (batch[1] + error, batch[1])


def evaluator(error: float) -> Evaluator:
    return Evaluator(TASK, off_by(error), Processes())


def test_a_task_of_ones_own_is_evaluated_and_judged() -> None:
    truth = 2 * dataset(40, 5).tensors[0][:, 0]
    danger, missed = int((truth > 1).sum()), int(((truth > 1) & (truth <= 1.5)).sum())
    assert danger > missed > 0
    false = int(((truth <= 1) & (truth > 0.5)).sum())

    def action(trainer: pl.Trainer, module: pl.LightningModule) -> list[Outcomes | None]:
        return [evaluator(error).outcomes(trainer, module, guard_data(), {}) for error in (0.0, -0.5, 0.5)]

    dense, low, high = inside_fit(action)
    assert low.pairs(dense, "danger") == (
        Evidence(danger, 0, missed, 0),
        Evidence(40 - danger, 0, 0, 0),
    )
    assert high.pairs(dense, "danger")[1] == Evidence(40 - danger, 0, false, 0)
    protected = read_protected({"danger": missed / danger - 0.01}, ("danger",), None, None)
    judge = Judge(evaluator(0.0), protected, ErrorBudget(None, 1, 3))
    assert judge.take_dense(dense, rehearsal=False) is None
    assert judge.labels() == {"danger": Labels(danger, 40 - danger)}
    assert [judge.verdict(one).outcome for one in (high, low)] == ["accepted", "refused"]

    file = io.BytesIO()
    torch.save(judge.state_dict(), file)
    file.seek(0)
    other = Judge(evaluator(0.0), protected, ErrorBudget(None, 1, 3))
    other.load_state_dict(torch.load(file, weights_only=True))
    assert isinstance(other.dense, Alarms)
    assert_same(other.state_dict(), judge.state_dict())


def test_an_offset_shifts_its_decisions() -> None:
    columns = TASK.columns(torch.ones(2), torch.tensor([2.0, 0.0]))
    assert TASK.outcomes(columns, {}).pairs(TASK.outcomes(columns, {"danger": 0.5}), "danger") == (
        Evidence(1, 0, 1, 0),
        Evidence(1, 1, 0, 1),
    )


def test_an_offset_is_chosen_for_it() -> None:
    """A network that tells .5 too little is moved back by just that: its alarms are those of the truth."""
    truth = 2 * dataset(400, 5).tensors[0][:, 0]
    dense = TASK.outcomes((truth, truth), {})
    columns = TASK.columns(truth - 0.5, truth)
    protected = read_protected({"danger": 0.05}, ("danger",), 0.95, 0.05)
    sweep = TASK.sweep(columns, {}, "danger", dense)
    choice = choose_offset(sweep, protected, {"danger": Labels(300, 300)}, 0.05)
    assert TASK.outcomes(columns, {"danger": -choice.threshold}).pairs(dense, "danger") == (
        choice.misses["danger"],
        choice.alarms["danger"],
    )
    assert 0.4 < -choice.threshold <= 0.55
    assert choice.misses["danger"].newly_missed <= 4


def test_its_recall_is_seen_at_every_validation() -> None:
    truth = 2 * dataset(40, 5).tensors[0][:, 0]
    danger, missed = int((truth > 1).sum()), int(((truth > 1) & (truth <= 1.5)).sum())

    def action(trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, float]:
        recall = ValidationRecall(TASK.names, TASK, off_by(-0.5))
        for batch in measured():
            recall.add(trainer, module, batch, 0)
        return recall.metrics(trainer)

    assert inside_fit(action, hook="on_validation_end") == {
        "classprune/fn/danger": missed,
        "classprune/support/danger": danger,
        "classprune/recall/danger": (danger - missed) / danger,
    }
