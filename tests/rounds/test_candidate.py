"""The candidate: views are put on from the inside out and taken off again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from lightning_classprune.rounds.candidate import Candidate
from lightning_classprune.trainer.processes import Processes


class Times:
    """Looks as if every weight were multiplied, then raised by one."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    @contextmanager
    def swapped_in(self, module: nn.Linear) -> Iterator[None]:
        held = module.weight.data.clone()
        module.weight.data.mul_(self.factor).add_(1)
        try:
            yield
        finally:
            module.weight.data.copy_(held)


def layer(value: float) -> nn.Linear:
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, value)
    return module


@pytest.mark.parametrize(
    ("views", "looks"),
    [((), 3.0), ((Times(2),), 7.0), ((Times(2), Times(5)), 36.0), ((Times(5), Times(2)), 33.0)],
)
def test_views_go_from_the_inside_out(views: tuple[Times, ...], looks: float) -> None:
    module = layer(3.0)
    candidate = Candidate(module, Processes(), views)
    for way in (candidate.swapped_in, candidate.as_judged):
        with way():
            assert module.weight.item() == looks
        assert module.weight.item() == 3.0


class FirstOf(Processes):
    """Stands for one of two processes, whose first one's buffers are all 7."""

    def equalize_buffers(self, module: nn.Module) -> None:
        for buffer in module.buffers():
            buffer.fill_(7)


class OwnStatistics:
    """Looks with buffers of its own, which differ between processes: those of an average."""

    @contextmanager
    def swapped_in(self, module: nn.BatchNorm1d) -> Iterator[None]:
        held = [buffer.clone() for buffer in module.buffers()]
        for buffer in module.buffers():
            buffer.fill_(3)
        yield
        for buffer, before in zip(module.buffers(), held, strict=True):
            buffer.copy_(before)


def test_what_is_judged_has_the_first_process_buffers_whatever_view_has_own_ones() -> None:
    module = nn.BatchNorm1d(2)
    with Candidate(module, FirstOf(0, 2), (OwnStatistics(),)).as_judged():
        assert all(bool((buffer == 7).all()) for buffer in module.buffers())
    assert all(bool((buffer == 7).all()) for buffer in module.buffers())


def test_an_error_inside_takes_every_view_off() -> None:
    module = layer(3.0)
    with pytest.raises(KeyError), Candidate(module, Processes(), (Times(2), Times(5))).as_judged():
        raise KeyError
    assert torch.equal(module.weight, layer(3.0).weight)
