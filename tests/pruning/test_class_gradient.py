"""Gradients of the protected classes' loss: the loss of every task, and the scores by hand in a real fit."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lightning_classprune.pruning import class_gradient
from lightning_classprune.pruning.class_gradient import ClassGradient, class_loss
from tests.pruning.test_scoring import NAMES, drawn, scoring
from tests.support.compare import assert_same, weights
from tests.support.inside import inside_fit
from tests.support.kit import dataset, tiny


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_loss_of_every_task(dtype: torch.dtype) -> None:
    scores = torch.tensor([[0.0, 2.0, 1.0], [1.0, 0.0, 0.0]], dtype=dtype)
    target = torch.tensor([1, 0])
    log_odds = -torch.log_softmax(scores.float(), 1)
    expected = (log_odds[0, 1] + log_odds[1, 0]) / 2
    for given in (target, target[:, None]):
        assert torch.equal(class_loss(scores, given, [1]), expected)
    misses = torch.log1p(torch.exp(torch.tensor([-2.0, 1.0])))
    one = torch.tensor([2.0, 1.0], dtype=dtype)
    for given in (one, one[:, None]):
        assert class_loss(given, target, [1]).item() == pytest.approx(
            (misses[0] + misses[1] + 0.0).item() / 2
        )
    labels = torch.tensor([[1, 1, 0], [0, 0, 1]])
    only_second = class_loss(scores[:, 1], labels[:, 1], [1])
    assert torch.equal(class_loss(scores, labels, [1]), only_second)
    assert class_loss(scores, target, [1]).dtype == torch.float32


def by_hand(module: Any, batches: int) -> dict[str, Tensor]:
    """|w| sqrt(sum of g^2) on the positives of the first batches, without the package."""
    order, data = drawn(3), dataset(96, 1).tensors
    module.eval()
    parameters, total = [module.get_parameter(name) for name in NAMES], [0.0] * len(NAMES)
    for number in range(batches):
        x, target = (tensor[order[16 * number : 16 * (number + 1)]] for tensor in data)
        loss = cross_entropy(module(x)[target == 1], target[target == 1])
        total = [
            sum_ + g.square() for sum_, g in zip(total, torch.autograd.grad(loss, parameters), strict=True)
        ]
    module.train()
    return {
        name: p.detach().abs() * sum_.sqrt() for name, p, sum_ in zip(NAMES, parameters, total, strict=True)
    }


def scores(criterion: ClassGradient, module: Any) -> dict[str, Tensor]:
    found = {name: module.get_parameter(name).detach() for name in NAMES}
    return {name: criterion.score(name, weight, weight) for name, weight in found.items()}


def test_scores_by_hand_and_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(class_gradient, "BATCHES", 3)

    def action(trainer: pl.Trainer, module: pl.LightningModule) -> None:
        expected, before, random = by_hand(module, 3), weights(module), torch.get_rng_state()
        criterion = ClassGradient()
        criterion.prepare(scoring(trainer, module))
        assert_same(scores(criterion, module), expected)
        assert_same(weights(module), before)
        assert torch.equal(torch.get_rng_state(), random)
        assert module.training
        assert criterion.state_dict() == {}
        criterion.load_state_dict({})
        assert_same(scores(criterion, module), {name: before[name].abs() for name in NAMES})

    inside_fit(action, tiny(dropout=0.5))


def test_without_a_protected_sample_weights_count_by_their_size() -> None:
    def action(trainer: pl.Trainer, module: pl.LightningModule) -> None:
        criterion = ClassGradient()
        with pytest.warns(
            UserWarning, match="found no gradient of the protected classes in 16 training batches"
        ):
            criterion.prepare(scoring(trainer, module, protected=(7,)))
        sizes = {name: module.get_parameter(name).detach().abs() for name in NAMES}
        assert_same(scores(criterion, module), sizes)

    inside_fit(action)


def test_a_batch_whose_gradient_is_not_finite_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(class_gradient, "BATCHES", 2)

    def action(trainer: pl.Trainer, module: pl.LightningModule) -> None:
        look = scoring(trainer, module)
        calls: list[int] = []

        def overflowing(net: Any, batch: Any) -> Any:
            calls.append(1)
            factor = float("inf") if len(calls) == 2 else 1.0
            return net(batch[0]) * factor, batch[1]

        criterion = ClassGradient()
        criterion.prepare(scoring(trainer, module, predict=overflowing))
        assert len(calls) == 2
        assert_same(scores(criterion, module), by_hand(module, 1))
        assert look.seed == 3

    inside_fit(action)
