"""The guard split through a file: counts by hand against the dense network, of classes, one logit and labels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_classprune.export.guard_split import GuardSplit
from lightning_classprune.guard.outcomes import Decisions

X = torch.arange(6.0).unsqueeze(1)
TARGET = torch.tensor([0, 0, 0, 1, 1, 1])
DENSE = Decisions(TARGET, torch.tensor([0, 0, 1, 1, 1, 0]), 2, ("ok", "crack"))
BATCHES = [(X[:4], TARGET[:4]), (X[4:], TARGET[4:])]


def file(decided: list[int]) -> object:
    def read(x: Tensor) -> tuple[Tensor, Tensor]:
        picked = torch.tensor(decided)[x[:, 0].long()]
        return torch.nn.functional.one_hot(picked, 2).float(), picked

    return read


def test_counts_of_both_sides_by_hand() -> None:
    split = GuardSplit(BATCHES, DENSE)
    found = split.decided(file([0, 1, 0, 0, 1, 1]))
    assert found.predicted.tolist() == [0, 1, 0, 0, 1, 1]
    assert split.counts(found, ["crack"]) == {
        "crack": {
            "support": 3,
            "fn": 1,
            "newly_missed": 1,
            "newly_found": 1,
            "negatives": 3,
            "fp": 1,
            "new_alarms": 1,
            "gone_alarms": 1,
        }
    }


def test_targets_of_one_column_are_classes() -> None:
    split = GuardSplit([(X, TARGET.unsqueeze(1))], DENSE)
    assert split.decided(file(DENSE.predicted.tolist())).same_decisions(DENSE)


def test_labels_are_decided_by_their_own_scores() -> None:
    target = torch.tensor([[1, 0], [0, 1], [1, 1]])
    dense = Decisions(target, target, 2, ("a", "b"))
    scores = torch.tensor([[0.6, 0.2], [0.5, 0.9], [0.4, 0.7]])
    split = GuardSplit([(X[:3], target)], dense, threshold=0.5)
    found = split.decided(lambda x: (scores, scores.argmax(1)))
    assert found.predicted.tolist() == [[1, 0], [1, 1], [0, 1]]
    assert [split.counts(found, ["a"])["a"][key] for key in ("newly_missed", "new_alarms")] == [1, 1]


def test_cases_must_be_those_that_were_judged_and_scores_numbers() -> None:
    for batches in ([], BATCHES[:1], [(X, 1 - TARGET)]):
        with pytest.raises(
            ValueError, match=r"guard: its \d cases are not the 6 that the dense network decided"
        ):
            GuardSplit(batches, DENSE).decided(file([0] * 6))
    with pytest.raises(ValueError, match="guard: a file gives scores that are NaN"):
        GuardSplit(BATCHES, DENSE).decided(lambda x: (x * float("nan"), x[:, 0].long()))
