"""Kept candidates: files, hashes, and a judgement that is final."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn

from lightning_classprune.pruning.masks import pack
from lightning_classprune.tickets.kept import KeptTickets
from lightning_classprune.tickets.ticket import Ticket
from lightning_classprune.trainer.processes import Processes
from lightning_classprune.trainer.sharding import Sharding
from lightning_classprune.trainer.snapshots import capture_tensors

ONE = Processes(0, 1)


def kept(folder: Path, candidates: int = 2) -> tuple[KeptTickets, list[nn.Linear]]:
    tickets, nets = KeptTickets(str(folder), "run", ONE), []
    for number in range(candidates + 1):
        torch.manual_seed(number)
        net = nn.Linear(3, 2)
        mask = torch.ones(2, 3, dtype=torch.bool)
        mask[0, :number] = False
        with torch.no_grad():
            net.weight[~mask] = 0
        ticket = Ticket({"weight": pack(mask)}, capture_tensors(net), None, [], {"1": 0.5 * number})
        tickets.keep(ticket, number, {"1": 0.9}, Sharding(ONE), net)
        nets.append(net)
    return tickets, nets


def test_the_first_is_the_dense_network_and_each_comes_back(tmp_path: Path) -> None:
    tickets, nets = kept(tmp_path)
    assert tickets.dense is not None
    assert [one.place for one in (tickets.dense, *tickets.candidates)] == [0, 1, 2]
    assert tickets.candidates[1].offsets == {"1": 1.0}
    state, masks = tickets.load(tickets.candidates[1])
    assert torch.equal(state["weight"], nets[2].weight.detach())
    assert masks["weight"].tolist() == [[False, False, True], [True, True, True]]


def test_the_list_survives_a_checkpoint_and_a_moved_folder(tmp_path: Path) -> None:
    tickets, _ = kept(tmp_path / "here")
    other = KeptTickets(str(tmp_path / "there"), "another", ONE)
    other.load_state_dict(json.loads(json.dumps(tickets.state_dict())))
    assert (other.run, other.dense, other.candidates) == ("run", tickets.dense, tickets.candidates)
    assert other.load(other.candidates[0])[0].keys() == {"weight", "bias"}


@pytest.mark.parametrize("damage", ["gone", "another network", "cut short"])
def test_what_is_not_what_was_kept_is_not_judged(tmp_path: Path, damage: str) -> None:
    tickets, _ = kept(tmp_path)
    first, second = (tmp_path / one.file for one in tickets.candidates)
    if damage == "gone":
        first.unlink()
    else:
        first.write_bytes(second.read_bytes() if damage == "another network" else second.read_bytes()[:100])
    with pytest.raises(MisconfigurationException, match=r"cannot be judged|not the network that was kept"):
        tickets.load(tickets.candidates[0])


def test_a_judgement_is_final(tmp_path: Path) -> None:
    tickets, _ = kept(tmp_path)
    tickets.refuse_if_judged()
    tickets.open_guard()
    tickets.refuse_if_judged()  # interrupted: the same networks may be judged once more
    tickets.open_guard()
    tickets.close_guard()
    for action in (tickets.refuse_if_judged, tickets.open_guard):
        with pytest.raises(MisconfigurationException, match="a judgement is final"):
            action()


def test_a_guard_that_was_opened_is_not_opened_for_others(tmp_path: Path) -> None:
    tickets, _ = kept(tmp_path)
    tickets.open_guard()
    tickets.candidates.pop()
    with pytest.raises(MisconfigurationException, match="a judgement is final"):
        tickets.open_guard()
    tickets.candidates = [tickets.candidates[0]] * 3
    with pytest.raises(MisconfigurationException, match="a judgement is final"):
        tickets.refuse_if_judged()


def test_removing_what_says_that_a_run_was_judged_gives_no_second_judgement(tmp_path: Path) -> None:
    tickets, _ = kept(tmp_path)
    tickets.open_guard()
    (tmp_path / "judged-run.json").unlink()
    tickets.open_guard()  # for the same ones
    (tmp_path / "judged-run.json").unlink()
    tickets.candidates.pop()
    with pytest.raises(MisconfigurationException, match=r"\.judged-run\.json.*a judgement is final"):
        tickets.open_guard()
    tickets, _ = kept(tmp_path)
    tickets.close_guard()
    (tmp_path / "judged-run.json").unlink()
    with pytest.raises(MisconfigurationException, match="a judgement is final"):
        tickets.refuse_if_judged()


def test_discarded_files_are_gone_and_no_others(tmp_path: Path) -> None:
    tickets, _ = kept(tmp_path)
    (tmp_path / "mine.safetensors").write_bytes(b"mine")
    tickets.discard()
    assert [path.name for path in tmp_path.iterdir()] == ["mine.safetensors"]


def test_a_judgement_that_was_interrupted_is_made_again_of_the_same_files_only(tmp_path: Path) -> None:
    tickets, _ = kept(tmp_path)
    tickets.open_guard(["ab"])
    tickets.open_guard(["ab"])
    for others in ([], ["ab", "cd"], ["cd"]):
        with pytest.raises(MisconfigurationException, match="the guard was opened for other candidates"):
            tickets.open_guard(others)
    tickets.close_guard()
    assert json.loads((tmp_path / "judged-run.json").read_text())["files"] == ["ab"]
    resumed, _ = kept(tmp_path)
    resumed.load_state_dict(tickets.state_dict())
    resumed.close_guard()  # by a process that was resumed after the verdicts
    assert json.loads((tmp_path / "judged-run.json").read_text())["files"] == ["ab"]
