"""Files of images: what numbers they give, and which are found to be no use."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lightning_classprune.job.data import picture_files
from lightning_classprune.job.data.picture_files import Look, look_at, read_picture, verify

RAMP = np.arange(6 * 8, dtype=np.int64).reshape(6, 8) * 1365  # 0 to 64155


def saved(path: Path, array: Any, **options: Any) -> Path:
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(path, **options)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_16_bits_are_scaled_and_not_cut_off(name: str, tmp_path: Path) -> None:
    path = saved(tmp_path / name, RAMP.astype(np.uint16))
    grey = np.asarray(read_picture(path, 1))
    assert np.array_equal(grey, np.rint(RAMP / 257))
    assert np.array_equal(np.asarray(read_picture(path, 3))[:, :, 2], grey)
    assert look_at(path, 3) == Look(int(RAMP.max() / 257 + 0.5), int(RAMP.max() / 257 + 0.5), 1)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_numbers_without_a_range_are_refused_by_name(dtype: Any, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", RAMP.astype(dtype))
    with pytest.raises(ValueError, match=r"a\.tif: (float|32-bit) pixels have no known range"):
        read_picture(path, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_its_tag_says(orientation: int, tmp_path: Path) -> None:
    upright = (RAMP // 257).astype(np.uint8)
    # How a camera stores it: what undoes the tag's turn.
    stored = [
        lambda a: a, np.fliplr, lambda a: np.rot90(a, 2), np.flipud,
        np.transpose, lambda a: np.rot90(a, 1), lambda a: np.rot90(a.T, 2), lambda a: np.rot90(a, -1),
    ][orientation - 1](upright)  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "a.png", np.ascontiguousarray(stored), exif=exif)
    assert np.array_equal(np.asarray(read_picture(path, 1)), upright)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_other_modes_are_read_as_pillow_reads_them(mode: str, tmp_path: Path) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)).convert(mode)
    path = saved(tmp_path / "a.tif" if mode in ("CMYK", "YCbCr") else tmp_path / "a.png", picture)
    with Image.open(path) as again:
        expected = again.convert("RGB")
    assert np.array_equal(np.asarray(read_picture(path, 3)), np.asarray(expected))


def damaged(folder: Path) -> dict[str, bytes]:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(file, "JPEG")
    jpeg = file.getvalue()
    png = saved(folder / "whole.png", RAMP.astype(np.uint8)).read_bytes()
    (folder / "whole.png").unlink()
    return {
        "half.jpg": jpeg[: len(jpeg) // 2],
        "half.png": png[: len(png) // 2],
        "crc.png": png[:45] + bytes([png[45] ^ 255]) + png[46:],
        "text.png": b"404 not found",
        "empty.jpg": b"",
    }


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.new("1", (20_000, 6_000)))
    with pytest.raises(ValueError, match=r"a\.png: 20000 x 6000 pixels are more than 100,000,000; shrink it"):
        read_picture(path, 3)


def test_every_file_that_cannot_be_read_is_named_at_once(tmp_path: Path) -> None:
    for name, content in damaged(tmp_path).items():
        (tmp_path / name).write_bytes(content)
    saved(tmp_path / "fine.png", RAMP.astype(np.uint16))
    paths = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"5 of 6 images cannot be used: crc\.png: ") as caught:
        verify(paths, tmp_path, 3)
    assert all(f" {name}: " in str(caught.value) for name in damaged(tmp_path / ".."))
    for path in paths:
        path.unlink()
    for number in range(7):
        (tmp_path / f"{number}.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"7 of 7 .*; 4\.png: [^;]*, and 2 more; mend"):
        verify(sorted(tmp_path.iterdir()), tmp_path, 3)


def test_a_file_is_looked_at_again_only_when_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    paths = [saved(tmp_path / f"{n}.png", (RAMP // 257 + n).astype(np.uint8)) for n in range(3)]
    looked: list[str] = []

    def look(path: Path, channels: int) -> Look:
        looked.append(path.name)
        return look_at(path, channels)

    monkeypatch.setattr(picture_files, "look_at", look)
    for _ in range(2):
        verify(paths, tmp_path, 3)
        assert sorted(looked) == ["0.png", "1.png", "2.png"]
    saved(paths[1], (RAMP // 300).astype(np.uint8))
    os.utime(paths[1], ns=(1, 1))
    verify(paths, tmp_path, 3)
    assert looked[3:] == ["1.png"]
    verify(paths, tmp_path, 1)  # in grey they are other pictures
    assert len(looked) == 7
    for content in ("", "[]", "{", json.dumps({"0.png": [1]}), json.dumps({"0.png": "evil"})):
        for file in (own_cache / "lightning_classprune").iterdir():
            file.write_text(content)
        verify(paths, tmp_path, 3)
    assert len(looked) == 7 + 5 * 3


def test_a_cache_that_cannot_be_written_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    verify([saved(tmp_path / "a.png", RAMP.astype(np.uint16))], tmp_path, 3)


def test_what_looks_wrong_is_warned_of(tmp_path: Path) -> None:
    white = saved(tmp_path / "white.png", np.full((6, 8), 255, np.uint8))
    red = saved(tmp_path / "red.png", Image.new("RGB", (8, 6), (200, 3, 3)))
    fine = saved(tmp_path / "fine.png", RAMP.astype(np.uint16))
    with pytest.warns(
        UserWarning, match=r"2 of 3 images are nearly constant .* such as 'white\.png', 'red\.png'"
    ):
        verify([white, red, fine], tmp_path, 3)
    dim = saved(tmp_path / "dim.png", (RAMP // 16).astype(np.uint16))  # 12 bits
    with pytest.warns(
        UserWarning, match="the brightest pixel of all 1 images is 16 of 255; a camera of 12 bits"
    ):
        verify([dim], tmp_path, 3)
    frames = [Image.fromarray((RAMP // 257 + n).astype(np.uint8)) for n in range(2)]
    stack = saved(tmp_path / "stack.tif", frames[0], save_all=True, append_images=frames[1:])
    with pytest.warns(UserWarning, match=r"1 files hold several pictures, such as 'stack\.tif'"):
        verify([stack], tmp_path, 3)
