"""Whether boxes are matched as pycocotools matches them, on the boxes of an archive.

    pip install pycocotools
    python -m benchmarks.coco_rule --archive FOLDER/blood_boxes_bccd_192x144.npz

Objects are the archive's; each has up to two predictions that lie somewhat beside it, with scores of their own, and one
in twenty objects is a crowd. Prints of how many pairs of picture and class the two rules find other objects, or other
predictions without one; 0 is what there should be.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.support import command_line
from lightning_classprune.guard.boxes import match_boxes

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Boxes:
    """Boxes of many pictures.

    Attributes:
        box: `(n, 4)`, x1, y1, x2, y2.
        picture: `(n,)`, of each.
        label: `(n,)`, its class.
        crowd: `(n,)`; never for predictions.
        score: `(n,)`; of predictions.
    """

    box: Floats
    picture: NDArray[np.int64]
    label: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    score: Floats

    def of(self, picture: int, label: int) -> Boxes:
        """Those of one class in one picture."""
        here = (self.picture == picture) & (self.label == label)
        return Boxes(*(field[here] for field in vars(self).values()))


def archive(file: Path, rng: np.random.Generator) -> Boxes:
    """The boxes of an archive of `data=boxes_npz`, one in twenty of them a crowd."""
    with np.load(file) as found:
        box = found["box"].astype(float)
        picture, label = found["box_image"].astype(np.int64), found["box_class"].astype(np.int64)
    return Boxes(box, picture, label, rng.random(len(box)) < 0.05, np.ones(len(box)))


def predictions(real: Boxes, rng: np.random.Generator) -> Boxes:
    """Up to two for each object, a few pixels beside it; in the order of the objects."""
    of = np.repeat(np.arange(len(real.box)), rng.integers(0, 3, len(real.box)))
    box = real.box[of] + rng.normal(0, 3, (len(of), 4))
    there = (box[:, 2] > box[:, 0]) & (box[:, 3] > box[:, 1])
    of, box = of[there], box[there]
    return Boxes(box, real.picture[of], real.label[of], np.zeros(len(of), dtype=bool), rng.random(len(of)))


def theirs(real: Boxes, claimed: Boxes, iou: float) -> Iterator[tuple[int, int, Floats, Floats]]:
    """Yield picture, class, the score that found each object (-inf for none), and the scores of what found none."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def told(boxes: Boxes) -> list[dict[str, Any]]:
        low, size = boxes.box[:, :2], boxes.box[:, 2:] - boxes.box[:, :2]
        return [
            {
                "id": i + 1,
                "image_id": int(boxes.picture[i]),
                "category_id": int(boxes.label[i]) + 1,
                "bbox": [*low[i], *size[i]],
                "area": float(size[i].prod()),
                "iscrowd": int(boxes.crowd[i]),
                "score": float(boxes.score[i]),
            }
            for i in range(len(boxes.box))
        ]

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": int(one)} for one in np.unique(real.picture)],
            "categories": [{"id": int(one) + 1} for one in np.unique(real.label)],
            "annotations": told(real),
        }
        truth.createIndex()
        judged = COCOeval(truth, truth.loadRes(told(claimed)), "bbox")
        judged.params.iouThrs = np.array([iou])
        judged.params.areaRng, judged.params.areaRngLbl = [[0, 1e10]], ["all"]
        judged.params.maxDets = [10_000]
        judged.evaluate()
    for one in filter(None, judged.evalImgs):
        # Objects come with the crowds last, so theirs are put into the order of ids.
        found = {
            key: claimed.score[int(by) - 1] if by else -np.inf
            for key, by, crowd in zip(one["gtIds"], one["gtMatches"][0], one["gtIgnore"], strict=True)
            if not crowd
        }
        none = [
            score
            for score, by, ignored in zip(
                one["dtScores"], one["dtMatches"][0], one["dtIgnore"][0], strict=True
            )
            if not by and not ignored
        ]
        yield (
            one["image_id"],
            one["category_id"] - 1,
            np.array([found[k] for k in sorted(found)]),
            np.sort(none),
        )


def differing(real: Boxes, claimed: Boxes, iou: float = 0.5) -> tuple[int, int]:
    """Return of how many pairs of picture and class the two rules differ, and how many there are."""
    pairs = differ = 0
    for picture, label, found, none in theirs(real, claimed, iou):
        objects, here = real.of(picture, label), claimed.of(picture, label)
        crowd = objects.crowd
        ours = match_boxes(here.box, here.score, objects.box[~crowd], objects.box[crowd], iou)
        same = np.array_equal(ours.scores, found) and np.array_equal(np.sort(ours.unmatched), none)
        pairs, differ = pairs + 1, differ + (not same)
    return differ, pairs


def main() -> None:
    parser = command_line(__doc__, out=None)
    parser.add_argument("--archive", type=Path, required=True, help="an archive of data=boxes_npz")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    real = archive(args.archive, rng)
    claimed = predictions(real, rng)
    differ, pairs = differing(real, claimed)
    print(
        f"{len(real.box)} objects, {int(real.crowd.sum())} of them crowds, {len(claimed.box)} predictions: "
        f"{differ} of {pairs} pairs of picture and class differ"
    )


if __name__ == "__main__":
    main()
