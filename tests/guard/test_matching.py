"""Matching: pieces, overlaps and COCO's rule, against loops that are written from its text."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lightning_classprune.guard.matching import (
    areas,
    box_areas,
    box_iou,
    box_overlaps,
    boxes_of,
    centroids,
    claimed_by,
    images_of,
    in_turn,
    overlaps,
    pieces,
)


def test_pieces_touch_at_corners_and_not_between_images() -> None:
    masks = np.zeros((2, 4, 4), dtype=bool)
    masks[0, 0, 0] = masks[0, 1, 1] = masks[0, 3, 0] = masks[1, 0, 0] = True
    numbers, count = pieces(masks)
    assert count == 3
    assert areas(numbers, count).tolist() == [2, 1, 1]
    assert images_of(numbers, count).tolist() == [0, 0, 1]
    assert boxes_of(numbers, count).tolist() == [[0, 0, 2, 2], [0, 3, 1, 4], [0, 0, 1, 1]]
    assert centroids(numbers, count).tolist() == [[0, 0], [3, 0], [0, 0]]  # (.5, .5) to the even


@given(
    hnp.arrays(np.int64, (2, 5, 5), elements=st.integers(0, 4)),
    hnp.arrays(np.int64, (2, 5, 5), elements=st.integers(0, 3)),
)
def test_overlaps_are_what_a_loop_over_pairs_says(true: np.ndarray, others: np.ndarray) -> None:
    found = zip(*(part.tolist() for part in overlaps(true, others, 4, 3)), strict=True)
    every = {(a, b): int(((true == a + 1) & (others == b + 1)).sum()) for a in range(4) for b in range(3)}
    assert {(a, b): shared for a, b, shared in found} == {pair: n for pair, n in every.items() if n}


@pytest.mark.parametrize("far", [0, 1 << 21])
def test_numbers_are_put_in_turn(far: int) -> None:
    numbers, count = in_turn(np.array([[0, 7], [3, 7 + far]]))
    assert count == (3 if far else 2)
    assert numbers.tolist() == [[0, 2], [1, 3 if far else 2]]
    assert in_turn(np.zeros((0, 3), dtype=int))[1] == 0
    assert in_turn(np.array([[5, 5]]))[0].tolist() == [[1, 1]]


def by_the_text(iou: np.ndarray, scores: np.ndarray, least: float) -> list[int]:
    """COCO's evaluation, as its text says, without crowds."""
    taken: dict[int, int] = {}
    claims = [-1] * len(scores)
    for prediction in sorted(range(len(scores)), key=lambda i: -scores[i]):
        best, chosen = least, -1
        for one in range(iou.shape[1]):
            if one not in taken and iou[prediction, one] >= best:
                best, chosen = iou[prediction, one], one
        if chosen >= 0:
            taken[chosen], claims[prediction] = prediction, chosen
    return claims


@given(st.integers(0, 6), st.integers(0, 5), st.integers(0, 10_000))
def test_boxes_are_claimed_by_cocos_rule(predictions: int, objects: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    iou, scores = (
        generator.integers(0, 6, (predictions, objects)) / 5,
        generator.integers(0, 4, predictions) / 4,
    )
    claims, of_object = claimed_by(iou, scores, 0.4)
    assert claims.tolist() == by_the_text(iou, scores, 0.4)
    for one in range(objects):
        assert of_object[one] == (scores[claims == one][0] if (claims == one).any() else -np.inf)


def test_above_is_strict_and_a_higher_threshold_takes_nothing_from_better_predictions() -> None:
    assert claimed_by(np.array([[0.5]]), np.ones(1), 0.5, above=True)[0].tolist() == [-1]
    assert claimed_by(np.array([[0.5]]), np.ones(1), 0.5)[0].tolist() == [0]
    generator = np.random.default_rng(3)
    iou, scores = generator.random((12, 8)), generator.random(12)
    kept = scores >= 0.5
    assert (
        claimed_by(iou[kept], scores[kept], 0.3)[0].tolist() == claimed_by(iou, scores, 0.3)[0][kept].tolist()
    )


def test_boxes_by_hand() -> None:
    one, others = np.array([[0.0, 0, 4, 2]]), np.array([[2.0, 0, 6, 2], [4.0, 0, 5, 1], [1.0, 1, 1, 2]])
    assert box_areas(others).tolist() == [8, 1, 0]
    assert box_overlaps(one, others).tolist() == [[4, 0, 0]]
    assert box_iou(one, others)[0].tolist() == pytest.approx([4 / 12, 0, 0])
    assert box_iou(others[2:], others[2:]).tolist() == [[0.0]]
