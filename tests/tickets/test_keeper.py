"""The keeper: what a run's ladder holds at its begin, after a ticket, and where it goes on."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lightning_classprune.ledger.rows import Row
from lightning_classprune.pruning.masks import pack
from lightning_classprune.tickets.keeper import LadderKeeper
from lightning_classprune.tickets.loading import load_ticket
from lightning_classprune.tickets.ticket import Ticket
from lightning_classprune.trainer.processes import Processes
from lightning_classprune.trainer.sharding import Sharding
from lightning_classprune.trainer.snapshots import capture_tensors
from tests.support.compare import assert_same, weights
from tests.support.rows import ledger_row

ONE = Processes()
WHOLE = Sharding(ONE)


class Net(nn.Module):
    """With a weight that has two names, and a buffer that is not saved."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.a = nn.Linear(4, 4)
        self.b = nn.Linear(4, 4)
        self.b.weight = self.a.weight
        self.register_buffer("seen", torch.tensor(3))
        self.register_buffer("scratch", torch.zeros(2), persistent=False)


def ticket(net: nn.Module) -> Ticket:
    mask = torch.eye(4).bool()
    net.a.weight.data.masked_fill_(~mask, 0)
    return Ticket({"a.weight": pack(mask)}, capture_tensors(net), None, [])


def row(number: int, verdict: str = "accepted") -> Row:
    return ledger_row(number, verdict, sparsity=number / 4)


def keeper(folder: Path | None) -> LadderKeeper:
    return LadderKeeper(folder, {"threshold": 0.5}, ONE)


def written(folder: Path, rounds: int) -> None:
    """A ladder of so many rounds, of a run before."""
    first, net = keeper(folder), Net()
    ledger: list[Row] = []
    first.begin(ledger, None, None, WHOLE, net)
    for number in range(rounds):
        ledger.append(row(number))
        first.keep(ticket(net), ledger, WHOLE, net)


def files(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name != "ladder.json")


def named(*rounds: int) -> list[str]:
    return [f"round={number:02d}.safetensors" for number in rounds]


def test_no_folder_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    none, net = keeper(None), Net()
    none.begin([], None, None, WHOLE, net)
    none.keep(ticket(net), [row(0)], WHOLE, net)
    assert none.folder is None
    assert os.listdir(tmp_path) == []


def test_a_file_is_complete_for_whoever_loads_it(tmp_path: Path) -> None:
    made, net = keeper(tmp_path), Net()
    made.begin([], None, None, WHOLE, net)
    made.keep(ticket(net), [row(0), row(1)], WHOLE, net)
    other = Net(seed=9)
    loaded = load_ticket(tmp_path, other)
    assert_same(weights(other), weights(net))
    assert set(loaded.state) == {"a.weight", "a.bias", "b.weight", "b.bias", "seen"}, "both names, no scratch"
    assert set(loaded.masks) == {"a.weight", "b.weight"}
    without: list[dict[str, Any]] = [{k: v for k, v in row(n).items() if k != "seconds"} for n in (0, 1)]
    assert loaded.card == {"threshold": 0.5, "verdict": without[1], "ledger": without}


def test_a_run_that_begins_keeps_aside_what_another_left_and_says_so(tmp_path: Path) -> None:
    for number in (1, 2):
        written(tmp_path, 2)
        before = {name: (tmp_path / name).read_bytes() for name in (*named(0, 1), "ladder.json")}
        with pytest.warns(UserWarning, match=rf"holds 2 tickets of another run, .*earlier-{number}"):
            keeper(tmp_path).begin([], None, None, WHOLE, Net())
        aside = tmp_path / f"earlier-{number}"
        assert {path.name: path.read_bytes() for path in aside.iterdir()} == before
        assert files(tmp_path) == [f"earlier-{n + 1}" for n in range(number)]


def test_a_run_that_goes_on_does_not_take_another_ones_tickets_for_its_own(tmp_path: Path) -> None:
    """The folder was used by another run meanwhile, whose round 1 is of another sparsity."""
    written(tmp_path, 3)
    other = row(1) | {"sparsity": 0.9}
    with pytest.warns(UserWarning, match="of another run|are lost"):
        keeper(tmp_path).begin([row(0), other], str(tmp_path), ticket(Net()), WHOLE, Net())
    assert files(tmp_path) == ["earlier-1", *named(1)]
    assert sorted(os.listdir(tmp_path / "earlier-1")) == ["ladder.json", *named(0, 1, 2)]


def test_what_is_not_listed_is_never_removed(tmp_path: Path) -> None:
    """Files of the user's that look like tickets: before, after and among those of the run."""
    for number in (1, 7):
        (tmp_path / named(number)[0]).write_bytes(b"mine")
    made, net = keeper(tmp_path), Net()
    made.begin([], None, None, WHOLE, net)
    made.keep(ticket(net), [row(0)], WHOLE, net)
    with pytest.warns(UserWarning, match=r"round=01\.safetensors is not in ladder\.json; it is kept as "):
        made.keep(ticket(net), [row(0), row(1)], WHOLE, net)
    keeper(tmp_path).begin([row(0)], str(tmp_path), ticket(net), WHOLE, net)
    assert files(tmp_path) == ["earlier-1", *named(0, 7)]
    assert (tmp_path / "earlier-1" / named(1)[0]).read_bytes() == b"mine"
    assert (tmp_path / named(7)[0]).read_bytes() == b"mine"


def test_a_folder_that_cannot_be_written_to_is_said_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "tickets"):
        with pytest.raises(ValueError, match=r"Files\.ladder='.*file.*' cannot be written to"):
            keeper(folder).begin([], None, None, WHOLE, Net())
    assert (tmp_path / "file").read_text() == "mine"


def test_a_run_that_goes_on_keeps_what_its_ledger_knows(tmp_path: Path) -> None:
    """A killed run may have written round 2, which is to be trained again."""
    written(tmp_path, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        keeper(tmp_path).begin(
            [row(0), row(1), row(2, "refused")], str(tmp_path), ticket(Net()), WHOLE, Net()
        )
    assert files(tmp_path) == named(0, 1)


def test_a_last_ticket_whose_file_is_gone_is_written_again(tmp_path: Path) -> None:
    written(tmp_path, 2)
    os.remove(tmp_path / named(1)[0])
    net = Net()
    keeper(tmp_path).begin([row(0), row(1), row(2, "refused")], None, ticket(net), WHOLE, net)
    assert files(tmp_path) == named(0, 1)
    assert load_ticket(tmp_path, Net()).card["verdict"]["round"] == 1


def test_earlier_tickets_that_are_gone_are_named(tmp_path: Path) -> None:
    net = Net()
    with pytest.warns(
        UserWarning, match=r"the tickets of rounds \[0\] are lost: .*gone no longer holds them"
    ):
        keeper(tmp_path / "new").begin([row(0), row(1)], str(tmp_path / "gone"), ticket(net), WHOLE, net)
    assert files(tmp_path / "new") == named(1)


def test_another_folder_takes_the_earlier_tickets_along(tmp_path: Path) -> None:
    written(tmp_path / "old", 2)
    keeper(tmp_path / "new").begin([row(0), row(1)], str(tmp_path / "old"), ticket(Net()), WHOLE, Net())
    assert files(tmp_path / "new") == files(tmp_path / "old") == named(0, 1)


def test_a_ladder_begins_once(tmp_path: Path) -> None:
    made, net = keeper(tmp_path), Net()
    made.begin([], None, None, WHOLE, net)
    made.keep(ticket(net), [row(0)], WHOLE, net)
    made.begin([], None, None, WHOLE, net)
    assert files(tmp_path) == named(0)


def test_what_cannot_be_written_is_raised(tmp_path: Path) -> None:
    (tmp_path / "ladder.json").write_text("[")
    with pytest.raises(ValueError, match="is not a list of tickets"):
        keeper(tmp_path).begin([], None, None, WHOLE, Net())
