"""What exported files do: differences, counts and turns, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightning_classprune.export import checks
from lightning_classprune.export.checks import BATCHES, compared, in_memory, latency
from lightning_classprune.export.deployed import Deployed


def by_sign(offset: float) -> Deployed:
    """One logit: the first feature and an offset."""
    layer = nn.Linear(1, 1)
    nn.init.ones_(layer.weight)
    nn.init.constant_(layer.bias, offset)
    return Deployed(layer, thresholds={})


X = torch.tensor([[-1.0], [-0.25], [0.5], [2.0]])


def test_a_network_in_memory_decides_in_eval_mode_and_keeps_its_flags() -> None:
    rule = Deployed(nn.Sequential(nn.Dropout(0.9), nn.BatchNorm1d(1)), thresholds={}).train()
    rule.network[1].eval()
    scores, decision = in_memory(rule)(X)
    torch.testing.assert_close(scores, X / (1 + 1e-5) ** 0.5)
    assert decision.tolist() == [0, 0, 1, 1]
    assert not scores.requires_grad
    assert [rule.training, rule.network[0].training, rule.network[1].training] == [True, True, False]


def test_the_largest_difference_and_the_decisions_that_it_changes() -> None:
    found = compared(in_memory(by_sign(0.25)), in_memory(by_sign(0.0)), X)
    assert found == {"max_difference": 0.25, "changed_decisions": 1}  # -0.25 becomes 0, which is class 1


def test_counts_by_reader_and_class() -> None:
    y = torch.tensor([0, 1, 1, 0])
    found = checks.tested(
        {"plain": in_memory(by_sign(0.0))}, [(X[:3], y[:3]), (X[3:], y[3:])], ["ok", "crack"]
    )
    assert found == {
        "plain": {
            "ok": {"support": 2, "fn": 1, "fp": 1, "recall": 0.5},
            "crack": {"support": 2, "fn": 1, "fp": 1, "recall": 0.5},
        }
    }
    with pytest.raises(ValueError, match=r"^test: targets of shape \(4, 2\); one class a sample"):
        checks.tested({}, [(X, torch.stack([y, 1 - y], 1))], ["ok", "crack"])
    nothing = checks.tested({"plain": in_memory(by_sign(0.0))}, [(X[:1], y[:1])], ["ok", "crack"])
    assert nothing["plain"]["crack"] == {"support": 0, "fn": 0, "fp": 0, "recall": None}


def test_every_batch_is_timed_by_the_same_readers() -> None:
    sizes: list[tuple[str, int]] = []

    def read(name: str) -> object:
        def reader(x: Tensor) -> tuple[Tensor, Tensor]:
            sizes.append((name, len(x)))
            return x, x

        return reader

    found = latency({"a": read("a"), "b": read("b")}, X)  # type: ignore[dict-item]
    assert {size: list(row) for size, row in found.items()} == {str(n): ["a", "b"] for n in BATCHES}
    assert sizes[:2] == [("a", 1), ("b", 1)]
    assert set(sizes) == {(name, n) for name in "ab" for n in BATCHES}
