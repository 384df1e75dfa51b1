"""Archives of pictures with objects, small enough to be learned in a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

SIZE, EDGE = 32, 10


def _write(folder: Path, arrays: dict[str, Any]) -> str:
    np.savez(folder / "set.npz", **{key: value for key, value in arrays.items() if value is not None})
    return str(folder)


def _squares(count: int, brightness: int = 150) -> tuple[Any, Any, list[tuple[int, int, int]]]:
    """Pictures, maps, and (picture, number, corner) of the squares: none, one or two in each."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 60, (count, SIZE, SIZE, 1), dtype=np.uint8)
    maps, rows = np.zeros((count, SIZE, SIZE), np.uint16), []
    for i in range(count):
        for number in range(1, 1 + i % 3):
            corner = 2 + 14 * (number - 1)
            maps[i, corner : corner + EDGE, corner : corner + EDGE] = number
            x[i, corner : corner + EDGE, corner : corner + EDGE] += brightness
            rows.append((i, number, corner))
    return x, maps, rows


def masks(folder: Path, count: int = 60, brightness: int = 150, **change: Any) -> str:
    """Squares as masks; two pictures a block."""
    x, maps, _ = _squares(count, brightness)
    block = np.arange(count) // 2 + 1000
    return _write(folder, {"x": x, "instances": maps, "block": block} | change)


def boxes(folder: Path, count: int = 60, **change: Any) -> str:
    """Squares as boxes, of class `big` the first of a picture and of class `small` the second."""
    x, _, rows = _squares(count)
    arrays = {
        "x": x,
        "box": np.array([[c, c, c + EDGE, c + EDGE] for _, _, c in rows], np.float32),
        "box_image": np.array([i for i, _, _ in rows]),
        "box_class": np.array([number - 1 for _, number, _ in rows]),
        "box_classes": np.array(["big", "small"]),
        "block": np.arange(count) // 2,
    }
    return _write(folder, arrays | change)
