"""Object pictures: samples with the objects outlined that are missed or found since the dense network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from torch import Tensor

from lightning_classprune.guard.objects import Changes, Found
from lightning_classprune.ledger.figure import LedgerFigure

#: Colours of outlines, of Okabe & Ito's colour-blind safe palette: newly missed, newly found.
LOST, WON = "#d55e00", "#0072b2"
_COLUMNS = 4


def object_pictures(
    picture: Callable[[int], Any], dense: Found, delivered: Found, name: str, most: int = 12
) -> LedgerFigure:
    """Draw the samples in which a class is found otherwise, those of one unit side by side.

    Args:
        picture: Gives the picture of a sample by its number in the guard data: `(H, W)`, `(H, W, 3)` or `(C, H, W)`.
        dense: Outcomes of the dense network, such as `callback.guard_outcomes["dense"]`.
        delivered: Those of the network to look at.
        name: The class.
        most: Pictures at most: those with the most newly missed objects, then with new false alarms.

    Raises:
        ValueError: The two networks were not judged on the same objects.
    """
    changes = delivered.changes(dense, name)
    samples = worst_samples(changes, most)
    rows = max(1, -(-len(samples) // _COLUMNS))
    figure = LedgerFigure(figsize=(3 * _COLUMNS, 3.3 * rows), layout="constrained")
    boxes = [
        (changes.lost_sample, changes.lost_box, LOST),
        (changes.won_sample, changes.won_box, WON),
    ]
    alarmed = set(changes.more_alarms.tolist())
    for place, sample in enumerate(samples):
        axes = figure.add_subplot(rows, _COLUMNS, place + 1)
        shown = _shown(picture(sample))
        axes.imshow(shown, cmap="gray")
        axes.axis("off")
        counts = [_outline(axes, of[of_sample == sample], colour) for of_sample, of, colour in boxes]
        more = ", more false alarms" if sample in alarmed else ""
        axes.set_title(
            f"unit {changes.unit[sample]}, sample {sample}\n+{counts[0]} -{counts[1]}{more}", fontsize=8
        )
    missed, won = len(changes.lost_sample), len(changes.won_sample)
    figure.suptitle(
        f"{name}: {missed} newly missed (orange), {won} newly found (blue), more false alarms in {len(alarmed)} "
        f"samples; {delivered.rule}",
        fontsize=10,
    )
    return figure


def worst_samples(changes: Changes, most: int) -> list[int]:
    """The samples with the most newly missed objects, then with other changes, those of one unit side by side.

    Args:
        changes: Of one class.
        most: How many, at most.
    """
    lost = Counter(changes.lost_sample.tolist())
    others = [*changes.more_alarms.tolist(), *changes.won_sample.tolist()]
    ranked = [sample for sample, _ in lost.most_common()]
    ranked += [sample for sample in dict.fromkeys(others) if sample not in lost]
    return sorted(ranked[:most], key=lambda sample: (changes.unit[sample], sample))


def _outline(axes: Any, boxes: Tensor, colour: str) -> int:
    for x1, y1, x2, y2 in boxes.tolist():
        axes.add_patch(
            Rectangle((x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=1.5)
        )
    return len(boxes)


def _shown(picture: Any) -> NDArray[Any]:
    """As `imshow` takes it, with values from 0 to 1."""
    array = (
        picture.detach().cpu().float().numpy()
        if isinstance(picture, Tensor)
        else np.asarray(picture, np.float32)
    )
    if array.ndim == 3 and array.shape[0] in (1, 3):
        array = array.transpose(1, 2, 0)
    low, high = array.min(initial=np.inf), array.max(initial=-np.inf)
    scaled: NDArray[Any] = (array - low) / max(float(high - low), 1e-9)
    return scaled[..., 0] if scaled.ndim == 3 and scaled.shape[2] == 1 else scaled
