"""What is kept in files, as users say it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from lightning_classprune.tickets.options import Files


def test_nothing_is_kept_unless_asked() -> None:
    assert dataclasses.asdict(Files()) == {"ladder": None, "rewind_file": None, "judged": (), "nested": False}


def test_paths_become_text_so_that_they_can_be_saved() -> None:
    files = Files(ladder=Path("runs") / "ladder", rewind_file="rewind.pt")
    assert (files.ladder, files.rewind_file) == (str(Path("runs/ladder")), "rewind.pt")


@pytest.mark.parametrize("kinds", [[], ["int8"], ("fp16", "int8"), ["folded", "fp16", "int8"]])
def test_kinds_of_files_have_one_order(kinds: Any) -> None:
    assert Files(judged=kinds).judged == tuple(kind for kind in ("int8", "fp16", "folded") if kind in kinds)


@pytest.mark.parametrize("kinds", ["int8", ["int4"], ["int8", "int8"], None, [8]])
def test_what_is_no_kind_of_file_is_named(kinds: Any) -> None:
    with pytest.raises(
        ValueError, match=r"Files\.judged=.* must be a list of 'int8', 'fp16', 'folded', or empty"
    ):
        Files(judged=kinds)


@pytest.mark.parametrize("value", [True, 3, "", [], b"x"])
def test_what_is_no_path_is_named(value: Any) -> None:
    with pytest.raises(ValueError, match=r"Files\.ladder=.* is not a folder: a path, or None"):
        Files(ladder=value)
    with pytest.raises(ValueError, match=r"Files\.rewind_file=.* is not a file: a path, or None"):
        Files(rewind_file=value)


def test_options_are_given_by_name_and_stay_as_they_are() -> None:
    with pytest.raises(TypeError):
        Files("ladder")  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        Files().ladder = "x"  # type: ignore[misc]
