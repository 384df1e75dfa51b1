"""One process is the same code as many: what collectives give where there is nobody else."""

from __future__ import annotations

import pickle
import traceback
import weakref
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from lightning_classprune.trainer import processes
from lightning_classprune.trainer.processes import Processes, _portable, _reachable, forget_locals

ALONE = Processes()


def test_alone_everything_is_ones_own() -> None:
    assert ALONE.gather_objects({"a": 1}) == [{"a": 1}]
    assert ALONE.first("mine") == "mine"
    assert [ALONE.any(flag) for flag in (True, False)] == [True, False]
    assert ALONE.gather_to_first({"a": 1}) == [{"a": 1}]
    assert torch.equal(ALONE.gather(torch.arange(3)), torch.tensor([[0, 1, 2]]))
    module = nn.BatchNorm1d(2)
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    ALONE.equalize_buffers(module)
    assert all(torch.equal(buffer, before[name]) for name, buffer in module.named_buffers())


def test_alone_an_error_is_ones_own_error() -> None:
    ALONE.raise_together(None)
    error = LookupError("no such file")
    with pytest.raises(LookupError) as raised:
        ALONE.raise_together(error)
    assert raised.value is error


class Activations:
    """Stands for what the frames of a forward pass hold."""


def failing(seen: list[weakref.ref[Activations]]) -> None:
    held = Activations()
    seen.append(weakref.ref(held))
    raise LookupError("in a forward pass")


def chained(seen: list[weakref.ref[Activations]]) -> None:
    try:
        failing(seen)
    except LookupError as error:
        raise ValueError("because of it") from error


@pytest.mark.parametrize("raises", [failing, chained])
def test_an_error_that_waits_keeps_its_lines_and_nothing_that_was_computed(raises: Any) -> None:
    seen: list[weakref.ref[Activations]] = []
    kept: Exception | None = None
    try:
        raises(seen)
    except Exception as caught:
        kept = caught
    assert kept is not None
    assert seen[0]() is not None
    forget_locals(kept)
    assert seen[0]() is None
    assert "in failing" in "".join(traceback.format_exception(kept))


@pytest.mark.parametrize(
    ("backends", "here", "there"),
    [
        ("cuda:nccl", "cpu", "cuda"),
        ("cuda:nccl", "cuda", "cuda"),
        ("cpu:gloo,cuda:nccl", "cpu", "cpu"),
        ("cpu:gloo,cuda:gloo", "cuda", "cuda"),
    ],
)
def test_tensors_meet_where_their_processes_can(
    backends: str, here: str, there: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offloaded weights lie on the CPU, which NCCL does not reach."""
    monkeypatch.setattr(processes.dist, "get_backend_config", lambda: backends)
    with FakeTensorMode():
        tensor = torch.ones(2, device=here)
        sent = _reachable(tensor)
        assert sent.device.type == there
        assert (sent is tensor) == (here == there)


class TwoArguments(Exception):
    """Cannot be made again from its message, as many errors of libraries cannot."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"{what} in {where}")


def test_an_error_that_cannot_travel_says_the_same_elsewhere() -> None:
    error = LookupError("no such file")
    assert _portable(error) is error
    assert _portable(None) is None
    told = _portable(TwoArguments("nothing", "here"))
    assert str(pickle.loads(pickle.dumps(told))) == "TwoArguments in another process: nothing in here"


def test_what_the_first_process_does_alone_is_done_once_and_its_error_is_everybodys() -> None:
    done: list[int] = []
    Processes(0, 1).on_first(lambda: done.append(1))
    assert done == [1]
    with pytest.raises(OSError, match="no space"):
        Processes(0, 1).on_first(lambda: (_ for _ in ()).throw(OSError("no space")))
