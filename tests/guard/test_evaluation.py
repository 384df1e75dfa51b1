"""The pass over the guard data in a real fit: what it decides, and that it leaves nothing behind."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lightning_classprune.guard.classification import ClassesOrLabels
from lightning_classprune.guard.data import GuardData, shard_guard_data
from lightning_classprune.guard.evaluation import evaluate
from lightning_classprune.guard.task import Task
from lightning_classprune.trainer.forward import default_predict
from lightning_classprune.trainer.processes import Processes
from lightning_classprune.trainer.randomness import random_state
from tests.support.compare import assert_same, weights
from tests.support.inside import inside_fit
from tests.support.kit import dataset, guard_loader

pytestmark = pytest.mark.fit

TASK: Task = ClassesOrLabels(("0", "1"), [1], 0.0)


def guard_data(*loaders: Any) -> GuardData:
    return shard_guard_data(loaders or [guard_loader()], "argument", 0, 1)


def passes(
    data: GuardData, predict: Any = default_predict, task: Task = TASK, times: int = 1, **options: Any
) -> list[Any]:
    """Outcomes of so many passes, one after the other, when training starts."""

    def action(trainer: pl.Trainer, module: pl.LightningModule) -> list[Any]:
        seen = [evaluate(trainer, module, data, predict, task, Processes(), **options) for _ in range(times)]
        return [task.outcomes(columns, {}) for columns in seen]

    return inside_fit(action)


def test_every_case_is_decided_by_the_network_in_eval_mode() -> None:
    expected: list[Tensor] = []

    def action(trainer: pl.Trainer, module: pl.LightningModule) -> Any:
        columns = evaluate(trainer, module, guard_data(), default_predict, TASK, Processes())
        outcomes = TASK.outcomes(columns, {})
        with torch.no_grad():
            expected.append(module.eval()(dataset(120, 3).tensors[0]).argmax(1))
        module.train()
        return outcomes

    outcomes = inside_fit(action)
    assert torch.equal(outcomes.target, dataset(120, 3).tensors[1])
    assert torch.equal(outcomes.predicted, expected[0])


def test_several_loaders_are_one_set_and_a_limit_ends_it() -> None:
    two = guard_data(guard_loader(), guard_loader(n=7, seed=9))
    (both,) = passes(two)
    assert len(both) == 127
    assert torch.equal(both.target[120:], dataset(7, 9).tensors[1])
    (some,) = passes(two, limit=2)
    assert len(some) == 100
    assert torch.equal(some.predicted, both.predicted[:100])


def test_no_data_no_case() -> None:
    assert len(passes(guard_data([]))[0]) == 0


def test_nothing_is_left_behind() -> None:
    def action(trainer: pl.Trainer, module: pl.LightningModule) -> None:
        module.net[1].eval()  # a layer that the user holds in eval mode
        before = weights(module), random_state(), [part.training for part in module.modules()]
        stage = trainer.state.stage
        seen: list[Any] = []

        def predict(module: Any, batch: Any) -> tuple[Tensor, Tensor]:
            seen.append((module.training, torch.is_grad_enabled(), trainer.validating))
            torch.rand(3)
            return default_predict(module, batch)

        evaluate(trainer, module, guard_data(), predict, TASK, Processes())
        assert seen == [(False, False, True)] * 3
        after = weights(module), random_state(), [part.training for part in module.modules()]
        assert_same(before, after)
        assert trainer.state.stage == stage
        assert all(p.grad is None for p in module.parameters())

    inside_fit(action)


class Noisy(Dataset[Any]):
    """Samples with a random transform."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.randn(8), index % 2


def test_random_transforms_give_the_same_samples_each_time() -> None:
    first, second = passes(guard_data(DataLoader(Noisy(), batch_size=8)), times=2)
    assert torch.equal(first.predicted, second.predicted)
    assert len(first.predicted.unique()) == 2


def test_labels_are_told_from_classes_by_their_shapes() -> None:
    x, _ = dataset(30, 3).tensors
    loader = DataLoader(TensorDataset(x, (x[:, :2] > 0).long()), batch_size=7)
    (outcomes,) = passes(guard_data(loader))
    assert outcomes.predicted.shape == outcomes.target.shape == (30, 2)


@pytest.mark.parametrize(
    ("predict", "message"),
    [
        (lambda module, batch: module(batch[0]), r"predict must return \(scores, target\), got Tensor"),
        (lambda module, batch: (module(batch[0])[:, 0].long(), batch[1]), "real scores are needed"),
        (lambda module, batch: (module(batch[0]), batch[1] + 1), "targets from 1 to 2"),
    ],
)
def test_what_predict_does_wrong_is_said(predict: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        passes(guard_data(), predict)


def test_what_predict_raises_is_raised() -> None:
    def predict(module: Any, batch: Any) -> Any:
        raise KeyError("image")

    with pytest.raises(KeyError, match="image"):
        passes(guard_data(), predict)
