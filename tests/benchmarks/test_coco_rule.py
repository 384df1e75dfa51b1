"""benchmarks/coco_rule.py: the rule of the package beside that of pycocotools, on made-up boxes."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import coco_rule
from benchmarks.coco_rule import Boxes


@pytest.mark.parametrize("iou", [0.3, 0.5, 0.75])
def test_boxes_are_matched_as_pycocotools_matches_them(iou: float) -> None:
    pytest.importorskip("pycocotools")
    rng = np.random.default_rng(int(100 * iou))
    n = 300
    corner = rng.integers(0, 30, (n, 2))  # so near to each other that many overlap
    box = np.concatenate([corner, corner + rng.integers(5, 15, (n, 2))], 1).astype(float)
    real = Boxes(box, rng.integers(0, 30, n), rng.integers(0, 2, n), rng.random(n) < 0.2, np.ones(n))
    claimed = coco_rule.predictions(real, rng)
    differ, pairs = coco_rule.differing(real, claimed, iou)
    assert (differ, pairs) == (0, len({*zip(real.picture, real.label, strict=True)}))


def test_another_rule_would_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a crowd's predictions counted as false alarms."""
    pytest.importorskip("pycocotools")
    rule, none = coco_rule.match_boxes, np.zeros((0, 4))
    monkeypatch.setattr(
        coco_rule, "match_boxes", lambda box, score, real, _, iou: rule(box, score, real, none, iou)
    )
    box = np.array([[0.0, 0, 9, 9], [20, 20, 40, 40]])
    zeros = np.zeros(2, dtype=np.int64)
    real = Boxes(box, zeros, zeros, np.array([False, True]), np.ones(2))
    claimed = Boxes(box, zeros, zeros, np.zeros(2, dtype=bool), np.array([0.9, 0.8]))
    assert coco_rule.differing(real, claimed) == (1, 1)
