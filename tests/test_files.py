"""A file is written whole or not at all."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from lightning_classprune import files


def test_text_is_written_into_a_new_folder(tmp_path: Path) -> None:
    target = tmp_path / "new" / "page.html"
    files.write_text(target, "größer")
    assert target.read_bytes() == "größer".encode()
    assert stat.S_IMODE(target.stat().st_mode) == 0o644
    assert list(target.parent.iterdir()) == [target]


def test_the_old_file_stays_until_the_block_has_ended(tmp_path: Path) -> None:
    target = tmp_path / "weights.bin"
    target.write_text("old")
    with files.replacing(target) as part:
        part.write_text("new")
        assert target.read_text() == "old"
        assert (part.parent, part.suffix) == (tmp_path, ".part")
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_block_that_raises_leaves_everything_as_it_was(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "weights.bin"
    target.write_text("old")

    def write() -> None:
        with files.replacing(str(target)) as part:
            part.write_text("half")
            raise error

    with pytest.raises(type(error)):
        write()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]
