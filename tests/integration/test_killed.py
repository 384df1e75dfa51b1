"""Killed (SIGKILL) and resumed from the last file on disk is the same run, bit for bit."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from tests.support import killed_job
from tests.support.compare import assert_same, weights, without_seconds
from tests.support.ddp_job import Net, train_loader, val_loader
from tests.support.forked import SERVER
from tests.support.processes import shared_folder


def run_job(folder: Path, *arguments: str) -> int | None:
    """The exit code of one process that trains in `folder`."""
    folder.mkdir(exist_ok=True)
    process = SERVER.Process(target=killed_job.run, args=(str(folder), *arguments))
    process.start()
    process.join(timeout=90)
    if process.exitcode is None:
        process.kill()
    return process.exitcode


def result(folder: Path, rank: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(folder / f"result-{rank}.pt", weights_only=False)
    return found


def assert_same_run(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert_same(without_seconds(a["ledger"]), without_seconds(b["ledger"]))
    assert_same(a["masks"], b["masks"])
    assert_same(a["weights"], b["weights"])
    assert_same(a["budget"], b["budget"])
    assert a["best"] == b["best"]
    assert a["ladder"] == b["ladder"] != []


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The run that nobody interrupts."""

    def fill(folder: Path) -> None:
        assert run_job(folder) == 0

    found = result(shared_folder(tmp_path_factory, "uninterrupted", fill))
    verdicts = [row["verdict"] for row in found["ledger"]]
    assert verdicts == [
        "baseline",
        "accepted",
        "refused",
        "accepted",
        "refused",
        "accepted",
        "accepted",
        "accepted",
    ]
    return found


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("batch:45", id="inside a round"),
        pytest.param("judged:16", id="while a round is judged"),
        pytest.param("refused:1", id="just after a refusal"),
        pytest.param("write:9", id="while a checkpoint is written"),
    ],
)
def test_killed_and_resumed_is_the_same_run(moment: str, whole: dict[str, Any], tmp_path: Path) -> None:
    assert run_job(tmp_path, moment) == -signal.SIGKILL
    assert not (tmp_path / "result-0.pt").exists()
    done = torch.load(tmp_path / "files" / "last.ckpt", weights_only=True)["epoch"] + 1
    assert run_job(tmp_path) == 0
    resumed = result(tmp_path)
    assert resumed["counts"]["begun"] == 16 - done  # it did go on, and did not begin anew
    assert 0 < done < 16
    assert_same_run(resumed, whole)


def test_killed_again_and_again(whole: dict[str, Any], tmp_path: Path) -> None:
    for moment in ("verdict:3", "saved:2", "rename:9"):
        assert run_job(tmp_path, moment) == -signal.SIGKILL
    assert run_job(tmp_path) == 0
    assert_same_run(result(tmp_path), whole)


def test_a_cut_file_is_refused_whole_and_the_accepted_one_goes_on(
    whole: dict[str, Any], tmp_path: Path
) -> None:
    """Where the folder for temporary files is on another disk, Lightning's rename is a copy that can be cut short."""
    assert run_job(tmp_path, "batch:75") == -signal.SIGKILL
    last = tmp_path / "files" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:20_000])
    pruner = killed_job.make(killed_job.Killer(""), str(tmp_path))
    trainer = pl.Trainer(
        callbacks=[pruner], max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False
    )
    net = Net()
    before = weights(net)
    with pytest.raises(MisconfigurationException, match=r"last\.ckpt (was changed|cannot be read)"):
        trainer.fit(net, train_loader(), val_loader(), ckpt_path=str(last))
    assert_same(weights(net), before)
    assert pruner.ledger == []
    assert trainer.max_epochs == 2
    assert trainer.callbacks[0] is pruner
    assert run_job(tmp_path, "", "auto", str(tmp_path / "files" / "accepted-round=01.ckpt")) == 0
    assert_same_run(result(tmp_path), whole)


@pytest.fixture(scope="module")
def judged_once(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The run that nobody interrupts, and that the guard judges at its end."""

    def fill(folder: Path) -> None:
        assert run_job(folder, "", "auto", "last", "end") == 0

    found = result(shared_folder(tmp_path_factory, "judged-once", fill))
    assert [row["verdict"] for row in found["ledger"]] == ["baseline", "accepted", "accepted"]
    return found


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("batch:45", id="inside a round"),
        pytest.param("saved:4", id="after a candidate was kept"),
        pytest.param("judged:24", id="while the guard judges"),
    ],
)
def test_killed_before_the_one_judgement_it_is_the_same(
    moment: str, judged_once: dict[str, Any], tmp_path: Path
) -> None:
    assert run_job(tmp_path, moment, "auto", "last", "end") == -signal.SIGKILL
    # What the guard was opened for lies on disk before its first look at a candidate.
    assert len(list((tmp_path / "tickets").glob("judged-*.json"))) == moment.startswith("judged")
    assert run_job(tmp_path, "", "auto", "last", "end") == 0
    assert_same_run(result(tmp_path), judged_once)


def test_killed_and_resumed_in_two_processes(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run_job(whole, "", "ddp_fork") == 0
    # Both processes kill themselves; the launching one, in which the results are looked at, fails.
    assert run_job(cut, "refused:3", "ddp_fork") == 1
    assert not (cut / "result-0.pt").exists()
    assert torch.load(cut / "files" / "last.ckpt", weights_only=True)["epoch"] + 1 == 6
    assert run_job(cut, "", "ddp_fork") == 0
    assert [row["verdict"] for row in result(whole)["ledger"]].count("refused") == 2
    assert_same_run(result(cut), result(whole))


def test_killed_while_a_mask_shrinks(tmp_path: Path) -> None:
    """In the second epoch of the first and of the third round, both after a file from the middle of a mask."""
    gradual = ("auto", "last", "round", "gradual")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run_job(whole, "", *gradual) == 0
    verdicts = [row["verdict"] for row in result(whole)["ledger"]]
    assert verdicts == ["baseline", "accepted", "refused", "accepted"]
    for moment in ("batch:44", "refused:17"):
        assert run_job(cut, moment, *gradual) == -signal.SIGKILL
        saved = torch.load(cut / "files" / "last.ckpt", weights_only=True)["callbacks"]
        assert saved["ClassAwarePruningCallback"]["gradual"]["shrinking"]["every"] == 1
    assert run_job(cut, "", *gradual) == 0
    assert_same_run(result(cut), result(whole))
