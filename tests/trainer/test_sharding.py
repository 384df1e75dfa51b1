"""Wholes and pieces: how the first dimension is cut, and that nothing happens where nothing is cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_classprune.trainer.processes import Processes
from lightning_classprune.trainer.sharding import Sharding, copied, laid_out, local, reshard


@dataclass(frozen=True)
class Gathered(Processes):
    """One of several processes, whose collective gives these pieces."""

    pieces: tuple[Tensor, ...] = ()

    def gather_objects(self, share: Any) -> list[Any]:
        return list(self.pieces)

    def gather_to_first(self, share: Any) -> list[Any] | None:
        return None if self.rank else list(self.pieces)


def test_without_pieces_everything_stays_as_it_is() -> None:
    module = nn.Linear(3, 5)
    sharding = Sharding.of(module, Processes())
    assert not sharding
    tensors = dict(module.named_parameters())
    for change in (sharding.wholes, sharding.pieces, sharding.saved):
        assert all(tensor is tensors[name] for name, tensor in change(tensors).items())
    state = {"exp_avg": torch.ones(2), "step": 3}
    assert sharding.saved_state(state) is sharding.loaded_state(state) is laid_out(state, module) is state
    reshard(module)


@pytest.mark.parametrize(
    ("rows", "processes", "expected"), [(5, 2, [3, 2]), (4, 2, [2, 2]), (1, 2, [1, 0]), (5, 4, [2, 2, 1, 0])]
)
def test_pieces_are_the_chunks_of_the_first_dimension(rows: int, processes: int, expected: list[int]) -> None:
    whole = torch.arange(2.0 * rows).view(rows, 2)
    names = frozenset({"cut"})
    pieces = [
        Sharding(Processes(rank, processes), names).pieces({"cut": whole, "other": whole})
        for rank in range(processes)
    ]
    assert [len(piece["cut"]) for piece in pieces] == expected
    assert all(piece["other"] is whole for piece in pieces)
    assert torch.equal(torch.cat([piece["cut"] for piece in pieces]), whole)
    # A piece is a copy: training must not write into the whole.
    pieces[0]["cut"].zero_()
    assert whole.sum() == sum(range(2 * rows))


def test_a_checkpoint_has_wholes_where_it_is_written() -> None:
    pieces = (torch.ones(2, 1), torch.zeros(1, 1))
    for rank, expected in ((0, torch.tensor([[1.0], [1.0], [0.0]])), (1, pieces[1])):
        sharding = Sharding(Gathered(rank, 2, pieces), frozenset({"cut"}))
        assert torch.equal(sharding.saved({"cut": pieces[rank]})["cut"], expected)
        assert torch.equal(sharding.wholes({"cut": pieces[rank]})["cut"], torch.cat(pieces))


def test_a_captured_tensor_is_a_copy_on_its_own() -> None:
    parameter = nn.Parameter(torch.ones(2))
    taken = copied(parameter)
    with torch.no_grad():
        parameter.zero_()
    assert taken.tolist() == [1, 1]
    assert not taken.requires_grad
    assert local(parameter).data_ptr() == parameter.data_ptr()
    assert not local(parameter).requires_grad
