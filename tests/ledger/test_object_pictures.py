"""Pictures of objects that are found otherwise: which are shown, and what is outlined."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from lightning_classprune.guard.objects import ALARMS, OBJECT, Found
from lightning_classprune.ledger.object_pictures import LOST, WON, object_pictures


def found(objects: list[int], alarms: list[int]) -> Found:
    """Two objects in samples 0 and 1 each, one in sample 2; unit 7 has the first two samples."""
    sample = torch.tensor([0, 0, 1, 1, 2, 0, 1, 2])
    kind = torch.tensor([[OBJECT, 1]] * 5 + [[ALARMS, 1]] * 3)
    box = torch.tensor([[float(i), 1, i + 3, 4] for i in range(8)])
    value = torch.tensor(objects + alarms)
    unit = torch.tensor([7, 7, 4])[sample]
    return Found(
        sample, unit, kind, value, box, torch.arange(8), ("rest", "cell"), "one", "objects", "found so"
    )


DENSE = found([1, 1, 1, 0, 1], [0, 0, 0])
LATER = found([0, 0, 1, 1, 1], [0, 0, 2])


def test_what_has_changed_is_outlined() -> None:
    asked: list[int] = []

    def picture(sample: int) -> Any:
        asked.append(sample)
        return [np.zeros((9, 9)), torch.rand(3, 9, 9), np.zeros((9, 9, 3))][sample]

    figure = object_pictures(picture, DENSE, LATER, "cell")
    assert asked == [2, 0, 1]  # by unit
    told = [(axes.get_title(), [to_hex(p.get_edgecolor()) for p in axes.patches]) for axes in figure.axes]
    assert told == [
        ("unit 4, sample 2\n+0 -0, more false alarms", []),
        ("unit 7, sample 0\n+2 -0", [LOST] * 2),
        ("unit 7, sample 1\n+0 -1", [WON]),
    ]
    assert (
        "cell: 2 newly missed (orange), 1 newly found (blue), more false alarms in 1 samples; found so"
        in str(figure.get_suptitle())
    )
    assert len(object_pictures(picture, DENSE, LATER, "cell", most=1).axes) == 1
    assert asked[-1] == 0, "the sample with the most newly missed comes first"


def test_where_nothing_has_changed_there_are_no_pictures() -> None:
    assert object_pictures(lambda _: np.zeros((9, 9)), DENSE, DENSE, "cell").axes == []
    with pytest.raises(ValueError, match="the guard data changed"):
        object_pictures(
            lambda _: None,
            DENSE,
            found([1] * 5, [0] * 3).__class__(**{**vars(LATER), "unit": LATER.unit + 1}),
            "cell",
        )
