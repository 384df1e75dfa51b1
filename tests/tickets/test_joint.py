"""Tickets of a ladder together: each value once, and every ticket as it was."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_classprune.tickets.joint import Joining, JointLadder, Member
from lightning_classprune.tickets.joint_file import read_ladder
from lightning_classprune.tickets.ladder import Ladder
from lightning_classprune.tickets.packing import TensorInfo
from lightning_classprune.tickets.ticket_file import digest, save_ticket
from tests.support.compare import assert_same
from tests.support.ladders import card, network, written


def own_values(ladder: JointLadder) -> list[int]:
    """How many values each member holds itself."""
    return [
        sum(len(part.values) for part in parts if part.of == number)
        for number, parts in enumerate(ladder.parts)
    ]


@pytest.mark.parametrize("nested", [True, False])
def test_every_ticket_is_what_its_file_holds(nested: bool, tmp_path: Path) -> None:
    made = written(tmp_path, nested)
    ladder = read_ladder(tmp_path)
    for number, (state, masks) in enumerate(made):
        found, found_masks = ladder.network(number)
        assert_same(found, state)
        assert_same(found_masks, masks)
        assert ladder.members[number].sha256 == digest(state, masks)
        assert ladder.members[number].bytes == (tmp_path / f"round={number:02d}.safetensors").stat().st_size
    assert [one.verdict["classes"]["crack"]["recall"] for one in ladder.members] == [0.9, 0.8, 0.7]
    assert [one.verdict["round"] for one in ladder.members] == [0, 1, 2]
    assert "ledger" not in ladder.members[2].card


def test_values_that_agree_are_held_once(tmp_path: Path) -> None:
    everything = 800 + 20 + 20 + 20 + 20 + 20 + 1 + 40 + 2
    written(tmp_path / "nested", nested=True)
    # What BatchNorm measured is each one's own.
    assert own_values(read_ladder(tmp_path / "nested")) == [everything, 20, 20]
    made = written(tmp_path / "own", nested=False)
    kept = [int(masks["0.weight"].sum()) for _, masks in made]
    # Gamma, beta, running variance and the counter began alike.
    assert own_values(read_ladder(tmp_path / "own")) == [
        everything,
        *(k + 20 + 20 + 40 + 2 for k in kept[1:]),
    ]


def test_a_ticket_that_is_gone_damaged_swapped_or_of_another_network(tmp_path: Path) -> None:
    written(tmp_path / "whole")
    one, two = (f"round={number:02d}.safetensors" for number in (1, 2))

    def spoiled(name: str) -> Path:
        return Path(shutil.copytree(tmp_path / "whole", tmp_path / name))

    gone = spoiled("gone")
    (gone / one).unlink()
    with pytest.raises(FileNotFoundError, match=r"round=01\.safetensors is gone, which ladder\.json lists"):
        read_ladder(gone)
    damaged = spoiled("damaged")
    content = (damaged / one).read_bytes()
    (damaged / one).write_bytes(content[:-3] + b"abc")
    with pytest.raises(ValueError, match=r"round=01\.safetensors"):
        read_ladder(damaged)
    swapped = spoiled("swapped")
    (swapped / one).write_bytes((swapped / two).read_bytes())
    with pytest.raises(ValueError, match=r"round=01\.safetensors .* no verdict of round 1"):
        read_ladder(swapped)
    other = spoiled("other")
    save_ticket(other / two, {"w": torch.ones(3)}, {}, card=card(2, 0.5))
    with pytest.raises(ValueError, match=r"round=02\.safetensors is a ticket of another network than"):
        read_ladder(other)
    with pytest.raises(ValueError, match="holds no ladder"):
        read_ladder(tmp_path)
    with pytest.raises(ValueError, match=r"does not fit the model: 4\.weight is missing in the file"):
        read_ladder(tmp_path / "whole", torch.nn.Sequential(*network(), torch.nn.Linear(2, 2)))


def test_a_card_without_a_verdict_is_no_member(tmp_path: Path) -> None:
    state = network().state_dict()
    told = card(0, 0.5)
    for wrong in ({}, {"verdict": {}}, told | {"offsets": {"crack": "much"}}):
        Ladder(tmp_path).add(told["verdict"], state, {}, wrong)
        with pytest.raises(ValueError, match=r"is damaged: (its card has no verdict of|.* has offsets)"):
            read_ladder(tmp_path)


def test_a_member_tells_its_offsets() -> None:
    one = Member(0, 1, "", card(0, 0.5, offsets={"crack": 0.5}))
    assert one.offsets == {"crack": 0.5}
    assert Member(0, 1, "", card(0, 0.5)).offsets == {}


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_tickets_come_back_bit_for_bit(data: st.DataObject) -> None:
    """Values from a few, so that they agree by chance, with NaN, -0.0 and masks that are there or not."""
    size = data.draw(st.integers(0, 12))
    joining = Joining([TensorInfo("w", torch.float32, (size,), torch.float32, False)])
    networks: list[tuple[Tensor, Tensor | None]] = []
    for _ in range(data.draw(st.integers(1, 5))):
        picked = data.draw(
            st.lists(st.sampled_from([0.0, -0.0, 1.0, float("nan")]), min_size=size, max_size=size)
        )
        values = torch.tensor(picked, dtype=torch.float32)
        mask = None
        if data.draw(st.booleans()):
            mask = torch.tensor(
                data.draw(st.lists(st.booleans(), min_size=size, max_size=size)), dtype=torch.bool
            )
            values = torch.where(mask, values, 0.0)
        networks.append((values, mask))
        joining.add({"w": values}, {} if mask is None else {"w": mask})
    members = tuple(Member(number, 1, "", {}) for number in range(len(networks)))
    ladder = JointLadder(Path(), members, joining.tensors, tuple(joining.parts))
    for number, (values, mask) in enumerate(networks):
        state, masks = ladder.network(number)
        assert np.array_equal(state["w"].view(torch.int32), values.view(torch.int32))
        assert (mask is None) == (not masks)
        assert mask is None or torch.equal(masks["w"], mask)
