"""Which sample is which: written and read again."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_classprune.job.samples_file import read_samples, write_samples

SAMPLES = {"train": [("a, b.png", 1)], "test": [('with "quotes"', 0), ("x/y.png", 1)]}


def test_names_of_any_kind_come_back(tmp_path: Path) -> None:
    write_samples(tmp_path / "s.csv", SAMPLES, ["no", "yes"])
    assert read_samples(tmp_path / "s.csv", ["no", "yes"]) == SAMPLES
    lines = (tmp_path / "s.csv").read_text().splitlines()
    assert lines[0] == "split,number,sample,class"
    assert lines[3] == "test,1,x/y.png,yes"


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("a,b\n1,2\n")
    with pytest.raises(KeyError, match="split"):
        read_samples(tmp_path / "s.csv", ["no", "yes"])


def test_samples_that_hold_objects_have_a_unit(tmp_path: Path) -> None:
    samples = {"guard": [("a.png", 7), ("b.png", 7)]}
    write_samples(tmp_path / "s.csv", samples, None)
    assert (tmp_path / "s.csv").read_text().splitlines()[:2] == [
        "split,number,sample,unit",
        "guard,0,a.png,7",
    ]
    assert read_samples(tmp_path / "s.csv", ["background", "cell"]) == samples
