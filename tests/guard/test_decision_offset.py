"""The module that adds decision offsets."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_classprune.guard.classification import Classes
from lightning_classprune.guard.decision_offset import DecisionOffset


def test_scores_of_classes_are_shifted_by_name() -> None:
    shifted = DecisionOffset({"b": 0.5}, ["a", "b", "c"])(torch.zeros(2, 3))
    assert shifted.tolist() == [[0.0, 0.5, 0.0]] * 2


def test_one_logit_is_shifted_by_the_difference() -> None:
    offset = DecisionOffset({"a": 0.25, "b": 1.0}, ["a", "b"])
    assert offset(torch.zeros(3)).tolist() == [0.75] * 3
    assert offset(torch.zeros(2, 1)).tolist() == [[0.75]] * 2


def test_it_follows_a_network_and_keeps_its_precision() -> None:
    net = nn.Sequential(nn.Linear(2, 2, bias=False), DecisionOffset({"b": 0.5}, ["a", "b"])).bfloat16()
    assert net(torch.zeros(1, 2, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert set(net.state_dict()) == {"0.weight", "1.bias"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_decides_as_the_guard_does(dtype: torch.dtype) -> None:
    """Neighbours of half precision around a threshold halfway between: rounded to half it would be at one of them."""
    scores = torch.tensor([3.0, 3.0], dtype=dtype).nextafter(torch.tensor([3.0, 4.0], dtype=dtype))
    scores = torch.stack([torch.zeros_like(scores), scores], 1)
    halfway = float(scores[:, 1].double().mean())
    task = Classes(("a", "b"), [1], 0.0)
    offsets = {"b": -halfway}
    columns = task.columns(scores, torch.tensor([0, 1]))
    assert task.outcomes(columns, offsets).predicted.tolist() == [0, 1]
    module = DecisionOffset(offsets, ("a", "b"))
    assert module(scores).argmax(1).tolist() == [0, 1]
    assert (module(scores[:, 1]) >= 0).tolist() == [False, True]


def test_an_unknown_class_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown classes .'d'.; there are 'a', 'b'"):
        DecisionOffset({"d": 1.0}, ["a", "b"])


def test_scores_of_pixels_and_tokens_are_shifted_at_every_one() -> None:
    two, three = DecisionOffset({"b": 0.5}, ["a", "b"]), DecisionOffset({"b": 0.5}, ["a", "b", "c"])
    assert three(torch.zeros(2, 3, 4, 5)).sum((0, 2, 3)).tolist() == [0, 20, 0]
    assert three(torch.zeros(2, 4, 3)).sum((0, 1)).tolist() == [0, 4, 0]
    for shape in ((2, 1, 4, 5), (2, 4, 5), (2, 4, 1)):
        assert two(torch.zeros(shape)).unique().tolist() == [0.5]
