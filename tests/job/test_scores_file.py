"""What both networks say, written and read again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lightning_classprune.job.scores_file import read_scores, write_scores
from tests.job.report.pages import DENSE, answers


def test_round_trip(tmp_path: Path) -> None:
    written = {"test": {"dense": answers(DENSE, "a/b ü")}}
    write_scores(tmp_path / "scores.npz", written)
    read = read_scores(tmp_path / "scores.npz")
    assert list(read) == ["test"]
    one, other = read["test"]["dense"], written["test"]["dense"]
    assert one.decisions.names == ("sound", "a/b ü")
    assert one.decisions.same_decisions(other.decisions)
    assert torch.equal(one.margins["a/b ü"], other.margins["a/b ü"])


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "scores.npz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="pickle"):
        read_scores(tmp_path / "scores.npz")
