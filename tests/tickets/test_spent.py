"""Tests that were spent are given once, whatever checkpoint a run goes on from."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lightning_classprune.guard.outcomes import Decisions
from lightning_classprune.tickets.spent import SpentTests
from lightning_classprune.trainer.processes import Processes


def decided(*predicted: int) -> Decisions:
    return Decisions(torch.arange(4) % 2, torch.tensor(predicted), 2)


GOOD, BAD = decided(0, 1, 0, 1), decided(0, 0, 0, 0)


def spent(folder: Path, state: dict[str, Any] | None = None) -> SpentTests:
    made = SpentTests(folder, "ab12", Processes())
    if state is not None:
        made.load_state_dict(state)
    return made


def test_nothing_is_written_before_there_is_a_checkpoint(tmp_path: Path) -> None:
    tests = spent(tmp_path)
    tests.take(0, GOOD, "accepted", 0.05)
    assert list(tmp_path.iterdir()) == []
    tests.a_checkpoint_is_written()
    tests.take(1, BAD, "refused", 0.05)
    (file,) = tmp_path.iterdir()
    assert file.name == "tests-ab12.json"
    assert {k: (v["verdict"], v["level"]) for k, v in json.loads(file.read_text()).items()} == {
        "0": ("accepted", 0.05),
        "1": ("refused", 0.05),
    }


def test_a_test_that_was_made_gives_the_same_to_the_same_decisions_and_is_refused_to_others(
    tmp_path: Path,
) -> None:
    first = spent(tmp_path)
    first.a_checkpoint_is_written()
    first.take(0, GOOD, "accepted", 0.05)
    early = first.state_dict()
    first.take(1, BAD, "refused", 0.05)
    again = spent(tmp_path, early)
    assert again.any_refused  # which this checkpoint does not know
    again.take(0, GOOD, "accepted", 0.05)
    before = (tmp_path / "tests-ab12.json").read_bytes()
    again.take(1, BAD, "refused", 0.05)
    assert (tmp_path / "tests-ab12.json").read_bytes() == before
    for outcomes, verdict, level in (
        (GOOD, "accepted", 0.05),
        (None, "refused", 0.05),
        (BAD, "refused", 0.025),
        (decided(0, 0, 0, 1), "refused", 0.05),
    ):
        with pytest.raises(
            MisconfigurationException, match=r"guard test 2 .*tests-ab12\.json.*was refused.*last"
        ):
            spent(tmp_path, early).take(1, outcomes, verdict, level)
    again.take(2, None, "refused", 0.05)
    assert set(spent(tmp_path, early).state_dict()["tests"]) == {"0", "1", "2"}


def test_a_copy_of_the_folder_is_the_same_run(tmp_path: Path) -> None:
    first = spent(tmp_path / "first")
    first.a_checkpoint_is_written()
    early = first.state_dict()
    first.take(0, BAD, "refused", 0.05)
    copy = spent(tmp_path / "copy", early)
    assert copy.any_refused
    copy.take(1, GOOD, "accepted", 0.05)
    assert not (tmp_path / "copy").exists()
    assert set(spent(tmp_path / "first", early).state_dict()["tests"]) == {"0", "1"}


def test_a_file_that_is_gone_is_said(tmp_path: Path) -> None:
    first = spent(tmp_path)
    first.a_checkpoint_is_written()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not spent(tmp_path, first.state_dict()).any_refused
    first.take(0, GOOD, "accepted", 0.05)
    (tmp_path / "tests-ab12.json").unlink()
    with pytest.warns(UserWarning, match=r"tests-ab12\.json.*not beside its checkpoints"):
        again = spent(tmp_path, first.state_dict())
    with pytest.raises(MisconfigurationException, match="guard test 1"):
        again.take(0, BAD, "refused", 0.05)
