"""A file is written whole or not at all."""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
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


def test_a_folder_is_filled_at_once_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "new" / "out"

    def write() -> None:
        with files.filling(target) as part:
            (part / "a").write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write()
    assert list((tmp_path / "new").iterdir()) == []
    with files.filling(target) as part:
        (part / "a").write_text("a")
        assert not target.exists()
    assert [(path.name, path.read_text()) for path in target.iterdir()] == [("a", "a")]
    assert stat.S_IMODE(target.stat().st_mode) == 0o755
    assert list((tmp_path / "new").iterdir()) == [target]


def test_what_describes_the_others_goes_first_and_comes_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("card", "model", "mine"):
        (tmp_path / name).write_text("old")
    there: list[set[str]] = []
    replace = Path.replace

    def watched(self: Path, target: Path) -> Path:
        there.append({path.name for path in tmp_path.iterdir() if path.is_file()} | {f"> {target.name}"})
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    with files.filling(tmp_path, last=["card"]) as part:
        for name in ("card", "model"):
            (part / name).write_text("new")
    assert there == [{"model", "mine", "> model"}, {"model", "mine", "> card"}]
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "card": "new",
        "model": "new",
        "mine": "old",
    }


def test_json_that_would_take_far_more_memory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text('{"a": [1, 2]}')
    assert files.read_json(tmp_path / "a") == {"a": [1, 2]}
    for text in (
        "[" + "[]," * files.MOST_VALUES + "1]",
        " " * (files.LARGEST_JSON + 1),
        "[" * 100_000,
        "{",
        "9" * 5000,
    ):
        (tmp_path / "a").write_text(text)
        with pytest.raises(ValueError, match=r"JSON|bytes|Expecting|digits"):
            files.read_json(tmp_path / "a")


def test_an_archive_may_be_small_or_not_much_squeezed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez_compressed(tmp_path / "zeros.npz", a=np.zeros(100_000, np.uint8))
    np.savez(tmp_path / "plain.npz", a=np.zeros(100_000, np.uint8))
    files.check_archive(tmp_path / "zeros.npz")
    monkeypatch.setattr(files, "LARGEST_SQUEEZED", 50_000)
    files.check_archive(tmp_path / "plain.npz")
    with pytest.raises(ValueError, match="would take 100,128 bytes, more than 100 times the file"):
        files.check_archive(tmp_path / "zeros.npz")
