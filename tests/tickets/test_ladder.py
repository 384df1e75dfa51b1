"""Every accepted ticket of a run is kept, as it was judged; a device picks by budget."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import nn

from lightning_classprune import ClassAwarePruningCallback, load_ticket
from lightning_classprune.tickets.ladder import Ladder
from lightning_classprune.tickets.ticket_file import read_ticket
from tests.support.compare import assert_same, weights
from tests.support.kit import fit, pruner, refusing, tiny, verdicts
from tests.support.older import EMAWeightAveraging
from tests.support.witness import Keep, log_messages


def ladder_of(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "ladder.json").read_text())


def contents(folder: Path) -> dict[str, Any]:
    """Everything that a ladder says; its files must be those that it lists."""
    listed = ladder_of(folder)
    assert sorted(os.listdir(folder)) == sorted(["ladder.json", *(entry["file"] for entry in listed)])
    found = {entry["file"]: read_ticket(folder / entry["file"]) for entry in listed}
    return {
        "list": listed,
        "files": {n: [t.sha256, t.card, t.state, t.masks] for n, t in found.items()},
    }


class Judged(pl.Callback):
    """What the module held whenever the guard data were predicted last: the judged network of every verdict."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def predict(self, callback: list[ClassAwarePruningCallback]) -> Any:
        def function(module: Any, batch: Any) -> Any:
            if len(batch[1]) in (50, 20) and not module.training:
                ledger = len(callback[0].ledger)
                del self.seen[ledger:]
                self.seen.append(weights(module))
            return module(batch[0]), batch[1]

        return function


def watched(**options: Any) -> tuple[ClassAwarePruningCallback, Judged]:
    judged, holder = Judged(), []
    callback = pruner(predict=judged.predict(holder), **options)
    holder.append(callback)
    return callback, judged


@pytest.mark.parametrize("averaging", [False, True])
def test_every_accepted_round_is_kept_bit_for_bit_as_it_was_judged(averaging, tmp_path):
    folder = tmp_path / "tickets"
    callback, judged = watched(ladder=str(folder), class_names=["good", "crack"], protect={"crack": 1.0})
    module = tiny()
    more = [EMAWeightAveraging()] if averaging else []
    fit(module, callback, *more)
    assert verdicts(callback) == ["baseline", "accepted", "accepted", "accepted"]
    assert len(judged.seen) == 4
    for number, (row, network, entry) in enumerate(
        zip(callback.ledger, judged.seen, ladder_of(folder), strict=True)
    ):
        path = folder / f"round={number:02d}.safetensors"
        other = tiny(99)
        ticket = load_ticket(path, other)
        assert_same(weights(other), network)
        kept = sum(int(mask.sum()) for mask in ticket.masks.values())
        assert 1 - kept / 120 == pytest.approx(row["sparsity"])
        assert len(entry.pop("sha256")) == 64
        assert entry == {
            "file": path.name,
            "bytes": path.stat().st_size,
            "round": number,
            "sparsity": row["sparsity"],
            "verdict": row["verdict"],
            "classes": {"crack": {key: row["classes"]["crack"][key] for key in ("recall", "fn", "support")}},
        }
        without = [{k: v for k, v in one.items() if k != "seconds"} for one in callback.ledger]
        assert ticket.card == {
            "class_names": ["good", "crack"],
            "protect": {"crack": callback.settings.tolerances["crack"].to_dict()},
            "confidence": None,
            "threshold": 0.0,
            "verdict": without[number],
            "ledger": without[: number + 1],
        }
    contents(folder)
    other = tiny(99)
    last = load_ticket(folder, other)
    assert last.path.name == "round=03.safetensors"
    assert_same(weights(other), weights(module))
    assert_same(last.masks, callback.masks)


def test_refused_rounds_are_not_kept(tmp_path):
    callback = refusing(2, on_refusal="retry", retries=1, target_sparsity=0.55, ladder=str(tmp_path))
    fit(tiny(), callback)
    accepted = [row for row in callback.ledger if row["verdict"] in ("baseline", "accepted")]
    assert "refused" in verdicts(callback)
    listed = contents(tmp_path)["list"]
    assert [(e["round"], e["sparsity"]) for e in listed] == [(r["round"], r["sparsity"]) for r in accepted]


def test_no_ladder_and_no_rehearsal_write_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit(tiny(), pruner(max_rounds=1), default_root_dir=tmp_path)
    fit(
        tiny(), pruner(max_rounds=1, ladder=str(tmp_path / "x")), fast_dev_run=True, default_root_dir=tmp_path
    )
    assert os.listdir(tmp_path) == []


def test_a_ladder_that_is_no_path_is_refused():
    with pytest.raises(ValueError, match=r"Files\.ladder=True is not a folder"):
        pruner(ladder=True)


class Job:
    """Accepted, refused, accepted: everything made anew each time, as another process would."""

    def __init__(self, folder: Path, keep: Any = None, ckpt_path: str | None = None) -> None:
        self.callback = refusing(2, on_refusal="retry", retries=1, target_sparsity=0.55, ladder=str(folder))
        extra = [keep] if keep is not None else []
        module = tiny(11 if ckpt_path is None else 99)
        fit(module, self.callback, *extra, ckpt_path=ckpt_path, seed=7 if ckpt_path is None else 1)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """A whole run: its folder, its checkpoints, and what its ladder holds."""
    root = tmp_path_factory.mktemp("whole")
    (root / "files").mkdir()

    keep = Keep(root / "files", "epoch end")
    Job(root / "tickets", keep)
    return root, keep.files, contents(root / "tickets")


def test_resumed_from_any_checkpoint_in_the_same_folder_leaves_the_same_ladder(uninterrupted):
    """Though the folder is ahead of the checkpoint, by rounds that the killed run had written."""
    root, files, expected = uninterrupted
    assert [e["round"] for e in expected["list"]] == [0, 1, 2, 3]
    for path in (files[0], files[2], files[3], files[6], files[-1]):
        Job(root / "tickets", ckpt_path=path)
        assert_same(contents(root / "tickets"), expected)


def test_resumed_into_another_folder_takes_the_earlier_tickets_along(uninterrupted, tmp_path):
    _, files, expected = uninterrupted
    for path in (files[3], files[-1]):
        folder = tmp_path / Path(path).stem
        Job(folder, ckpt_path=path)
        assert_same(contents(folder), expected)


def test_resumed_where_the_earlier_folder_is_gone_has_the_last_ticket_and_says_what_is_lost(
    uninterrupted, tmp_path
):
    root, files, expected = uninterrupted
    moved = root.parent / "moved"
    shutil.move(root / "tickets", moved)
    try:
        with log_messages(), pytest.warns(UserWarning, match=r"ladder: the tickets of rounds \[0"):
            Job(tmp_path / "new", ckpt_path=files[-1])
    finally:
        shutil.move(moved, root / "tickets")
    found = contents(tmp_path / "new")
    assert [e["round"] for e in found["list"]] == [expected["list"][-1]["round"]]
    name = found["list"][0]["file"]
    assert_same(found["files"][name], expected["files"][name])


def test_a_new_run_in_an_old_folder_starts_a_new_ladder_and_says_so(tmp_path):
    fit(tiny(), pruner(ladder=str(tmp_path)))
    assert len(ladder_of(tmp_path)) == 4
    before = contents(tmp_path)
    with pytest.warns(UserWarning, match="ladder: .* holds 4 tickets of another run"):
        fit(tiny(), pruner(ladder=str(tmp_path), max_rounds=1))
    assert_same(contents((tmp_path / "earlier-1").rename(tmp_path.parent / "aside")), before)
    assert [e["round"] for e in contents(tmp_path)["list"]] == [0, 1]


def test_a_broken_ladder_is_said_before_training(tmp_path):
    (tmp_path / "ladder.json").write_text("[{")
    with pytest.raises(ValueError, match=r"ladder\.json is not a list of tickets"):
        fit(tiny(), pruner(ladder=str(tmp_path)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"file": "../../victim.txt"}, r"the file of round 0 is '\.\./\.\./victim\.txt', not 'round=00\.saf"),
        ({"file": "/etc/passwd"}, "the file of round 0 is '/etc/passwd'"),
        ({"file": "round=01.safetensors"}, "the file of round 0 is 'round=01"),
        ({"file": None}, "the file of round 0 is 'None'"),
        ({"round": "0"}, "an entry has no round"),
        ({"round": True}, "an entry has no round"),
        ({"bytes": -1}, "round 0 lacks its bytes"),
        ({"classes": {"a": {"recall": 2}}}, "classes' recall"),
        ({"classes": []}, "classes' recall"),
    ],
)
@pytest.mark.unit
def test_an_entry_that_is_none_is_refused_by_all_that_read_it(change, message, tmp_path):
    old, new = tmp_path / "deep" / "er" / "old", tmp_path / "new"
    old.mkdir(parents=True)
    (tmp_path / "deep" / "victim.txt").write_text("mine")
    (old / "ladder.json").write_text(json.dumps([entry(0, 5, a=0.9) | change]))
    for act in (Ladder(old).entries, Ladder(old).pick, lambda: Ladder(new).go_on([0], old)):
        with pytest.raises(ValueError, match=message):
            act()
    assert (tmp_path / "deep" / "victim.txt").read_text() == "mine"
    assert not new.exists()


@pytest.mark.unit
@pytest.mark.parametrize(
    "text", ["{}", "[[]]", "[" * 10_000, "[" + "[]," * 600_000 + "[]]", '[{"round": 1e400}]', ""]
)
def test_a_list_that_is_none_is_refused(text, tmp_path):
    (tmp_path / "ladder.json").write_text(text)
    with pytest.raises(ValueError, match=r"ladder\.json is not a list of tickets"):
        Ladder(tmp_path).entries()


@pytest.mark.unit
@pytest.mark.parametrize(("before", "after"), [("0.9", "0.8"), ("sha256", "sia256")])
def test_an_entry_that_was_changed_is_refused(before, after, tmp_path):
    row = {
        "round": 3,
        "sparsity": 0.5,
        "verdict": "accepted",
        "classes": {"a": {"recall": 0.9, "fn": 1, "support": 9}},
    }
    Ladder(tmp_path).add(row, {"w": torch.ones(2)}, {}, {})
    text = (tmp_path / "ladder.json").read_text()
    (tmp_path / "ladder.json").write_text(text.replace(before, after))
    with pytest.raises(ValueError, match=r"what it says of round 3 was changed"):
        Ladder(tmp_path).pick()


@pytest.mark.unit
def test_a_link_is_not_taken_along(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    (tmp_path / "secret").write_text("secret")
    (old / "round=00.safetensors").symlink_to(tmp_path / "secret")
    (old / "ladder.json").write_text(json.dumps([entry(0, 5, a=0.9)]))
    Ladder(new).go_on([0], old)
    assert not (new / "round=00.safetensors").exists()


def test_tied_weights_have_both_names_and_passing_buffers_none(tmp_path):
    """The files hold what `state_dict` holds."""

    class Tied(type(tiny())):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(width=8)
            self.net[1] = nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 8, bias=False))
            self.net[1][1].weight = self.net[0].weight
            self.register_buffer("passing", torch.ones(1), persistent=False)

    torch.manual_seed(0)
    module, callback = Tied(), pruner(ladder=str(tmp_path), max_rounds=1)
    fit(module, callback)
    other = Tied()
    ticket = load_ticket(tmp_path, other)
    assert_same(weights(other), weights(module))
    assert list(ticket.state) == list(module.state_dict())
    assert torch.equal(ticket.masks["net.1.1.weight"], callback.masks["net.0.weight"])


# -- picking --


def entry(number: int, size: int, **recalls: float | None) -> dict[str, Any]:
    classes = {name: {"recall": recall, "fn": 0, "support": 9} for name, recall in recalls.items()}
    said = {"file": f"round={number:02d}.safetensors", "bytes": size, "round": number, "classes": classes}
    return said | {"sha256": hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()}


@pytest.fixture
def steps(tmp_path):
    listed = [
        entry(0, 1000, a=0.90, b=0.99),
        entry(1, 600, a=0.95, b=0.92),
        entry(2, 300, a=0.92, b=0.94),
        entry(3, 301, a=0.92, b=0.99),
        entry(4, 100, a=0.97, b=0.80),
        entry(5, 50, a=None, b=0.99),
    ]
    (tmp_path / "ladder.json").write_text(json.dumps(listed[::-1]))
    return Ladder(tmp_path)


@pytest.mark.parametrize(
    ("max_bytes", "min_recall", "picked"),
    [
        (None, None, 5),  # the last accepted
        (10_000, None, 2),  # the best of the worst class; the smaller of equals
        (599, None, 2),
        (299, None, 4),
        (100, None, 4),  # a budget is kept if just met
        (99, None, 5),
        (None, 0.92, 2),
        (None, 0.9, 2),
        (None, 0.8, 4),
        (None, 0.0, 5),
        (300, 0.92, 2),
        (299, 0.5, 4),
    ],
)
def test_a_ticket_is_picked_by_budget(steps, max_bytes, min_recall, picked):
    assert steps.pick(max_bytes, min_recall).name == f"round={picked:02d}.safetensors"


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_bytes": 49}, r"keeps max_bytes=49; there are round=00.safetensors: 1000 bytes, recall 0.9; "),
        ({"min_recall": 0.93}, r"keeps min_recall=0.93; .*round=04.safetensors: 100 bytes, recall 0.8"),
        ({"max_bytes": 100, "min_recall": 0.9}, "keeps max_bytes=100 and min_recall=0.9"),
        ({"max_bytes": 0}, "max_bytes=0 is out of range"),
        ({"min_recall": 95}, "min_recall=95 is out of range"),
    ],
)
def test_limits_that_nothing_keeps_list_what_there_is(steps, limits, message):
    with pytest.raises(ValueError, match=message):
        load_ticket(steps.folder, tiny(), **limits)


def test_a_folder_without_a_ladder_and_limits_for_a_file(tmp_path):
    with pytest.raises(ValueError, match=r"holds no ladder"):
        load_ticket(tmp_path, tiny())
    file = tmp_path / "round=00.safetensors"
    file.touch()
    with pytest.raises(ValueError, match="pick from a folder"):
        load_ticket(file, tiny(), max_bytes=10)
