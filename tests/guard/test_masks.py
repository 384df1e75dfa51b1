"""Pieces of masks: what finds them under each rule, at every bias, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_classprune.guard.claims import SCORE_BIASES
from lightning_classprune.guard.masks import Segmentation, match
from lightning_classprune.guard.objects import Reading
from lightning_classprune.guard.task import NaNScoresError

HOW = Reading(("rest", "cell"), (1,), 0.0, (0.0,))
THREE = Reading(("rest", "cell", "hole"), (1, 2), 0.0, (0.0,))


def drawn(*rows: str) -> Tensor:
    """A picture of digits."""
    return torch.tensor([[int(one) for one in row] for row in rows])[None]


def scores(claims: Tensor, classes: int = 2) -> Tensor:
    return torch.nn.functional.one_hot(claims, classes).movedim(-1, 1).float() * 4 - 2


def seen(kind: Segmentation, claims: Tensor, target: Tensor, how: Reading = HOW, index: int = 1) -> Any:
    return kind.read(scores(claims, len(how.names)), target, how)[1][index]


TRUE = drawn("110011", "110011", "000000", "110000")
CLAIM = drawn("100011", "100000", "000011", "000011")


@pytest.mark.parametrize(
    ("kind", "found", "alarms"),
    [
        # The pieces are two squares of four, and a bar of two. Claimed: half a square, half of another, and a square.
        (Segmentation(), [True, True, False], 1),
        (Segmentation(share=0.51), [False, False, False], 1),
        (Segmentation(share=0), [True, True, False], 1),
        (Segmentation(rule="iou"), [False, False, False], 3),  # an IoU of .5 is not above it
        (Segmentation(rule="centroid"), [True, True, False], 1),
        (Segmentation(min_area=3), [True, True], 1),
    ],
)
def test_by_hand(kind: Segmentation, found: list[bool], alarms: int) -> None:
    one = seen(kind, CLAIM, TRUE)
    assert one.found[:, 0].tolist() == found
    assert one.alarms.tolist() == [[alarms]]
    assert one.box.tolist()[:2] == [[0, 0, 2, 2], [4, 0, 6, 2]]


def test_a_piece_that_covers_everything_finds_all_and_is_one_large_false_alarm() -> None:
    one = seen(Segmentation(), torch.ones_like(TRUE), TRUE)
    assert one.found.all()
    assert (one.alarms.tolist(), one.false_area.tolist()) == ([[1]], [[14]])
    assert not seen(Segmentation(rule="iou"), torch.ones_like(TRUE), TRUE).found.any()


def test_ignored_pixels_count_neither_way() -> None:
    target = drawn("110055", "110055", "000055", "110055")
    one = seen(Segmentation(ignore_index=5), CLAIM, target)
    assert one.found[:, 0].tolist() == [True, False]
    assert one.alarms.tolist() == [[0]]


def test_classes_compete_and_equal_scores_go_to_the_first() -> None:
    claims, target = drawn("1122"), drawn("1112")
    one, two = (seen(Segmentation(share=0.6), claims, target, THREE, index) for index in (1, 2))
    assert (one.found[:, 0].tolist(), two.found[:, 0].tolist()) == ([True], [True])
    level = Segmentation().read(torch.zeros(1, 3, 1, 4), target, THREE)[1]
    assert not level[1].found.any()
    assert not level[2].found.any()


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_every_bias_is_what_shifted_scores_say(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randn(2, 2, 6, 6, generator=generator).double().float()
    target = (torch.rand(2, 6, 6, generator=generator) > 0.6).long()
    biases = (0.0, *SCORE_BIASES[::5])
    for classes in (2, 1):
        given_ = raw if classes == 2 else raw[:, 1:]
        all_ = Segmentation().read(given_, target, Reading(("rest", "cell"), (1,), 0.0, biases))[1][1]
        for place, bias in enumerate(biases):
            shifted = given_.clone()
            shifted[:, -1] += bias
            alone = Segmentation().read(shifted, target, HOW)[1][1]
            assert (alone.found[:, 0] == all_.found[:, place]).all()
            assert (alone.alarms[:, 0] == all_.alarms[:, place]).all()


@pytest.mark.parametrize("form", ["(n, C, H, W)", "(n, 1, H, W)", "(n, H, W)"])
def test_decisions_and_one_score_are_taken(form: str) -> None:
    wanted = seen(Segmentation(), CLAIM, TRUE)
    for dtype in (torch.bool, torch.float32, torch.bfloat16):
        given_ = scores(CLAIM) if form == "(n, C, H, W)" else scores(CLAIM)[:, 1:]
        given_ = given_[:, 0] if form == "(n, H, W)" else given_
        given_ = given_ > 0 if dtype == torch.bool else given_.to(dtype)
        found = Segmentation().read(given_, TRUE[:, None], HOW)[1][1]
        assert (found.found == wanted.found).all()
        assert (found.alarms == wanted.alarms).all()
    first = Reading(("rest", "cell"), (0,), 0.0, (0.0,))
    both = (
        Segmentation().read(scores(CLAIM), TRUE, first)[1][0],
        Segmentation().read(given_.float(), TRUE, first)[1][0],
    )
    assert (both[0].found == both[1].found).all()


@pytest.mark.parametrize(
    ("score", "target", "message"),
    [
        (
            torch.zeros(1, 2, 4, 5),
            TRUE,
            r"scores \(1, 2, 4, 5\), target \(1, 4, 6\) .*bring the scores to the size",
        ),
        (torch.zeros(1, 3, 4, 6), TRUE, "num_classes=2; scores"),
        (torch.zeros(1, 2, 4, 6), TRUE[0], "scores .* are needed"),
        (
            torch.zeros(1, 2, 4, 6, dtype=torch.int64),
            TRUE,
            "scores of dtype torch.int64; real ones, or decisions",
        ),
        (torch.zeros(1, 2, 4, 6), TRUE + 1, "targets from 1 to 2; whole numbers from 0 to 1"),
        (torch.zeros(1, 2, 4, 6), TRUE - 1, "targets from -1 to 0"),
        ([{}], [{}], "use task=InstanceSegmentation"),
    ],
)
def test_what_makes_no_sense_is_refused(score: Any, target: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"predict .*{message}"):
        Segmentation().read(score, target, HOW)


def test_scores_that_are_no_numbers_are_a_network_that_diverged() -> None:
    with pytest.raises(NaNScoresError):
        Segmentation().read(torch.full((1, 2, 4, 6), torch.nan), TRUE, HOW)


@pytest.mark.parametrize(
    "options",
    [
        {"rule": "dice"},
        {"share": 1.5},
        {"share": -0.1},
        {"rule": "iou", "share": 0.4},
        {"rule": "iou", "share": 1},
        {"min_area": -1},
        {"min_area": 2.5},
        {"ignore_index": "255"},
    ],
)
def test_bad_arguments_are_refused_by_name(options: Any) -> None:
    with pytest.raises(ValueError, match=r"^Segmentation\.\w+="):
        Segmentation(**options)


def test_a_second_centroid_on_an_object_is_a_false_alarm() -> None:
    from lightning_classprune.guard.masks import Pieces
    from lightning_classprune.guard.matching import pieces

    true = Pieces(*pieces(drawn("11111").numpy() > 0))
    two = Pieces(*pieces(drawn("11011").numpy() > 0))
    found = match(true, two, "centroid", 0.5)
    assert (found.found.tolist(), sorted(found.false.tolist())) == ([True], [False, True])
    nothing = Pieces(np.zeros((1, 1, 5), dtype=int), 0)
    for rule in ("coverage", "iou", "centroid"):
        assert match(nothing, two, rule, 0.5).false.tolist() == [True, True]  # type: ignore[arg-type]
        assert match(true, nothing, rule, 0.5).found.tolist() == [False]  # type: ignore[arg-type]
