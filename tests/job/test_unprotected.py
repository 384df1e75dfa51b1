"""Classes that nobody protects: which they are, what of them is lost, and when that is told aloud."""

from __future__ import annotations

from typing import Any, cast

import torch

from lightning_classprune.guard.outcomes import Decisions
from lightning_classprune.job.final_test import Answers
from lightning_classprune.job.unprotected import Lost, lost, names_of, warning_before, warnings_of

NAMES = ("fine", "crack", "rust")


def answers(predicted: list[int], names: tuple[str, ...] = NAMES) -> Answers:
    target = torch.tensor([0, 0, 1, 1, 2, 2, 2, 2]) % len(names)
    return Answers(Decisions(target, torch.tensor(predicted), len(names), names), {})


DENSE, PRUNED = answers([0, 0, 1, 1, 2, 2, 2, 1]), answers([0, 1, 1, 0, 1, 2, 1, 1])


def test_of_two_classes_the_other_one_is_the_false_alarms_and_the_background_is_no_class() -> None:
    assert names_of(["fine", "crack"], [1], None) == []
    assert names_of(NAMES, [1], None) == ["fine", "rust"]
    assert names_of(["background", "cell", "platelet"], [1], "boxes") == ["platelet"]
    assert names_of(["background", "cell"], [1], "boxes") == []
    said = warning_before(["a", "b", "c", "d", "e", "f", "g"])
    assert "nobody protects 'a', 'b', 'c', 'd', 'e' and 2 more: " in said


def test_counts_of_the_guard_the_largest_rise_first() -> None:
    found = lost({"guard": {"dense": DENSE, "delivered": PRUNED}}, ["crack"])
    assert found == [Lost("fine", 0, 1, 2), Lost("rust", 1, 3, 4)]  # both rise by a half, in their order
    assert lost({"guard": {"dense": DENSE, "delivered": PRUNED}}, ["crack", "fine"]) == [
        Lost("rust", 1, 3, 4)
    ]
    assert lost({"guard": {"delivered": PRUNED}}, ["crack"]) == []
    two = answers([0, 1] * 4, ("fine", "crack"))
    assert lost({"guard": {"dense": two, "delivered": two}}, ["crack"]) == []


def test_a_rise_beyond_what_protected_classes_may_is_told_aloud() -> None:
    losses = [Lost("rust", 12, 140, 300), Lost("fine", 5, 20, 300)]
    final = cast(Any, {"classes": {"crack": {"tolerance": 0.1}, "dent": {"tolerance": 0.03}}})
    (said,) = warnings_of(losses, final)
    assert (
        "Nobody protects 'rust': rust missed 12 \N{RIGHTWARDS ARROW} 140 of 300 of the guard, 43 points more"
        in said
    )
    assert "may rise by 10;" in said
    assert warnings_of([Lost("rust", 12, 12, 300)], None) == []
