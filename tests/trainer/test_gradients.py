"""What an optimizer is about to use: of which parameters, without a scale, and never what is not finite."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_classprune.trainer.gradients import are_finite, loss_scale, upcoming_gradients
from tests.support.compare import assert_same


def trainer(scale: float | None = None) -> Any:
    scaler = None if scale is None else SimpleNamespace(get_scale=lambda: scale)
    return SimpleNamespace(precision_plugin=SimpleNamespace(scaler=scaler))


def parameters(*gradients: Tensor | None) -> dict[str, nn.Parameter]:
    found = {}
    for name, gradient in zip("abc", gradients, strict=False):
        found[name] = nn.Parameter(torch.zeros(2) if gradient is None else torch.zeros(gradient.shape))
        found[name].grad = gradient
    return found


def names(found: dict[str, nn.Parameter]) -> dict[int, str]:
    return {id(parameter): name for name, parameter in found.items()}


def sgd(*groups: list[nn.Parameter]) -> torch.optim.SGD:
    return torch.optim.SGD([{"params": group} for group in groups], lr=0.1)


def test_those_of_the_optimizer_that_have_names_and_gradients() -> None:
    found = parameters(torch.ones(2), None, torch.full((2,), 3.0))
    other = nn.Parameter(torch.zeros(2))
    optimizer = sgd([found["a"], other], [found["b"]])
    assert_same(upcoming_gradients(trainer(), optimizer, names(found), {}), {"a": torch.ones(2)})
    assert upcoming_gradients(trainer(), sgd([other]), names(found), {}) == {}


def test_of_some_only_what_is_asked_for() -> None:
    found = parameters(torch.tensor([1.0, float("inf"), 3.0]), torch.ones(2))
    told = upcoming_gradients(trainer(), sgd(list(found.values())), names(found), {"a": torch.tensor([0, 2])})
    assert_same(told, {"a": torch.tensor([1.0, 3.0]), "b": torch.ones(2)})


def test_sparse_ones_are_told_as_dense() -> None:
    embedding = nn.Embedding(4, 2, sparse=True)
    embedding(torch.tensor([2])).sum().backward()
    (found,) = upcoming_gradients(
        trainer(), sgd([embedding.weight]), {id(embedding.weight): "w"}, {}
    ).values()
    assert found.tolist() == [[0, 0], [0, 0], [1, 1], [0, 0]]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_step_with_one_that_is_not_finite_is_left_out(bad: float) -> None:
    found = parameters(torch.ones(2), torch.tensor([1.0, bad]))
    assert upcoming_gradients(trainer(), sgd(list(found.values())), names(found), {}) == {}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_large_ones_are_finite_in_every_precision(dtype: torch.dtype) -> None:
    assert are_finite([torch.full((99,), 6e4, dtype=dtype), torch.zeros(0, dtype=dtype)])
    assert are_finite([torch.ones(2, dtype=dtype), torch.ones(2)])
    assert are_finite([])


def test_only_a_fused_optimizers_gradients_have_a_scale_still() -> None:
    assert (loss_scale(trainer()), loss_scale(trainer(8.0))) == (1.0, 8.0)
    assert loss_scale(SimpleNamespace(precision_plugin=object())) == 1.0
    found = parameters(torch.full((2,), 24.0))
    plain = sgd([found["a"]])
    fused = torch.optim.AdamW([found["a"]], fused=True)
    for scale, optimizer, expected in ((8.0, fused, 3.0), (8.0, plain, 24.0), (None, fused, 24.0)):
        (gradient,) = upcoming_gradients(trainer(scale), optimizer, names(found), {}).values()
        assert gradient.tolist() == [expected, expected]
    assert found["a"].grad is not None
    assert found["a"].grad.tolist() == [24.0, 24.0], "the optimizer's own are left alone"
