"""Evaluation mode for a while."""

from __future__ import annotations

import pytest
from torch import nn

from lightning_classprune.trainer.eval_mode import in_eval_mode


def modes(module: nn.Module) -> list[bool]:
    return [part.training for part in module.modules()]


def test_every_part_comes_back_in_its_own_mode() -> None:
    module = nn.Sequential(nn.BatchNorm1d(2), nn.Sequential(nn.Dropout(), nn.ReLU()))
    module[0].eval()  # a frozen normalisation
    module[1].training = False  # but not what is in it
    before = modes(module)
    assert before == [True, False, False, True, True]
    with in_eval_mode(module):
        assert modes(module) == [False] * 5
    assert modes(module) == before


def test_an_error_inside_brings_the_modes_back_too() -> None:
    module = nn.Sequential(nn.Dropout())
    with pytest.raises(KeyError), in_eval_mode(module):
        raise KeyError
    assert modes(module) == [True, True]
