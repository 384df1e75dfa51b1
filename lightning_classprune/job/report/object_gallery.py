"""Guard pictures with the objects outlined that are found otherwise, as the report's page shows them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from lightning_classprune.guard.objects import Found
from lightning_classprune.job.data.base import Sample
from lightning_classprune.job.objects.answers import ObjectAnswers
from lightning_classprune.job.objects.pictures import ObjectPictures, most_telling
from lightning_classprune.job.report.missed import listed, sample_name
from lightning_classprune.job.report.pictures import data_uri
from lightning_classprune.job.scores_file import Scores

#: Class of an outline -> what it says.
OUTLINES = {
    "lost": "newly missed",
    "won": "newly found",
    "alarm": "new false alarm",
    "both": "missed by both",
}

Samples = Mapping[str, Sequence[Sample]]


def outlined_objects(
    guard: Mapping[str, ObjectAnswers],
    pictures: ObjectPictures | None,
    samples: Samples,
    protected: Sequence[int],
) -> list[dict[str, Any]]:
    """Return, per protected class, counts of what is found otherwise, and pictures with outlines, by unit.

    Args:
        guard: What the `dense` and the `delivered` network find in the guard; or nothing.
        pictures: Those that were kept.
        samples: Split -> what its samples are called.
        protected: Indices of the protected classes.
    """
    if not guard.keys() >= {"dense", "delivered"}:
        return []
    dense, delivered = guard["dense"], guard["delivered"]
    result = []
    for index in protected:
        name = delivered.found.names[index]
        changes = delivered.found.changes(dense.found, name)
        shown = [] if pictures is None else most_telling(dense, delivered, name)
        outlines = _outlines(dense.found, delivered.found, name)
        result.append(
            {
                "name": name,
                "counts": {
                    "lost": len(changes.lost_sample),
                    "won": len(changes.won_sample),
                    "alarms": len(changes.more_alarms),
                },
                "pictures": [
                    _picture(pictures, one, index, outlines, changes.unit[one], samples)
                    for one in shown
                    if pictures is not None and one in pictures.pixels
                ],
            }
        )
    return result


def _outlines(dense: Found, delivered: Found, name: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Class of an outline -> samples and boxes of the objects."""
    changes = delivered.changes(dense, name)
    missed = delivered.kind[:, 1] == delivered.names.index(name)
    missed &= (delivered.kind[:, 0] == 0) & (delivered.value == 0) & (dense.value == 0)
    return {
        "both": (delivered.sample[missed], delivered.box[missed]),
        "won": (changes.won_sample, changes.won_box),
        "lost": (changes.lost_sample, changes.lost_box),
    }


def _picture(
    pictures: ObjectPictures,
    sample: int,
    label: int,
    outlines: Mapping[str, tuple[Tensor, Tensor]],
    unit: int,
    samples: Samples,
) -> dict[str, Any]:
    shown = pictures.pixels[sample]
    boxes = {kind: of[its == sample] for kind, (its, of) in outlines.items()}
    boxes["alarm"] = pictures.alarms(sample, label)
    called = sample_name(samples, "guard", sample)
    told = [f"{len(its)} {OUTLINES[kind]}" for kind, its in boxes.items() if len(its)]
    return {
        "uri": data_uri(shown),
        "width": shown.shape[1],
        "height": shown.shape[0],
        "alt": f"Guard sample {called} of unit {unit}: {', '.join(told) or 'nothing is missed'}",
        "caption": f"unit {unit}, {called}: {', '.join(told)}",
        "outlines": [
            {
                "kind": kind,
                **dict(zip(("x", "y", "width", "height"), _place(box, pictures.scale), strict=True)),
            }
            for kind, its in boxes.items()
            for box in its.tolist()
        ],
    }


def _place(box: Sequence[float], scale: float) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (round(value * scale, 1) for value in box)
    return x1, y1, round(x2 - x1, 1), round(y2 - y1, 1)


def missed_objects(scores: Scores, samples: Samples, protected: Sequence[str]) -> list[dict[str, Any]]:
    """Return, per protected class and split, the samples in which objects are missed, and how many in each.

    Args:
        scores: What both networks find.
        samples: What the samples are called.
        protected: Names of the protected classes.
    """
    result = []
    for name in protected:
        for split, networks in scores.items():
            now = networks.get("delivered")
            if not isinstance(now, ObjectAnswers):
                continue
            missing = now.found.missed_objects(name)[0]
            called = [
                f"{sample_name(samples, split, one)} ({count})"
                for one, count in Counter(missing.tolist()).most_common()
            ]
            if called:
                result.append(listed(name, split, "objects missed, by sample", len(missing), called))
    return result
