"""Confusion matrices."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_classprune.guard.outcomes import Decisions
from lightning_classprune.job.report.confusion import confusion_matrices


@given(st.integers(2, 6), st.integers(0, 60), st.randoms(use_true_random=False))
def test_matrices_agree_with_the_outcomes_counts(classes: int, samples: int, random: Any) -> None:
    target, predicted = (
        torch.tensor([random.randrange(classes) for _ in range(samples)]).long() for _ in "ab"
    )
    outcomes = Decisions(target, predicted, classes)
    names = [f"c{i}" for i in range(classes)]
    (group,) = confusion_matrices({"net": outcomes}, names, [0])
    for index, (tp, fp, _, fn, support) in enumerate(outcomes.counts().tolist()):
        cells = [[cell["count"] for cell in line["cells"]] for line in group["matrices"][0]["rows"]]
        assert (cells[index][index], sum(cells[index])) == (tp, support)
        assert sum(cells[index]) - cells[index][index] == fn
        assert sum(line[index] for line in cells) - cells[index][index] == fp


def test_labels_and_many_classes_are_set_against_all_others() -> None:
    target = torch.tensor([[1, 0], [1, 1], [0, 1]])
    labels = Decisions(target, torch.tensor([[0, 0], [1, 1], [0, 1]]), 2)
    (group,) = confusion_matrices({"a": labels, "b": labels}, ["crack", "rust"], [0])
    assert (group["name"], group["columns"]) == ("crack", ["crack", "others"])
    assert [matrix["network"] for matrix in group["matrices"]] == ["a", "b"]
    cells = [[cell["count"] for cell in line["cells"]] for line in group["matrices"][0]["rows"]]
    assert cells == [[1, 1], [0, 1]]
    classes = torch.arange(21)
    names = [f"c{i}" for i in range(21)]
    many = confusion_matrices({"a": Decisions(classes, classes, 21)}, names, [3, 7])
    assert [group["name"] for group in many] == ["c3", "c7"]


def test_a_class_without_samples_has_no_shares() -> None:
    one = Decisions(torch.tensor([0, 0]), torch.tensor([0, 1]), 2)
    (group,) = confusion_matrices({"a": one}, ["ok", "crack"], [1])
    rows = group["matrices"][0]["rows"]
    assert [[cell["share"] for cell in line["cells"]] for line in rows] == [[0.5, 0.5], [None, None]]
    assert [line["protected"] for line in rows] == [False, True]


def test_no_network_no_matrix() -> None:
    assert confusion_matrices({}, ["a", "b"], [1]) == []
