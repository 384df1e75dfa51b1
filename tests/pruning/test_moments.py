"""The running mean of squared gradients: by hand, its start, what it has not seen, and its state."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lightning_classprune.pruning.moments import FEWEST, MOST, GradientMoments, sensitivity, usual_size
from lightning_classprune.trainer.processes import Processes
from lightning_classprune.trainer.sharding import Sharding

torch.set_num_threads(1)

WHOLE = Sharding(Processes())


def at_a_cut(moments: GradientMoments, batches: float = float("inf"), accumulated: int = 1) -> None:
    trainer = SimpleNamespace(num_training_batches=batches, accumulate_grad_batches=accumulated)
    scoring: Any = SimpleNamespace(trainer=trainer, sharding=WHOLE, parameters={"a": None, "frozen": None})
    moments.prepare(scoring)


def heard(*gradients: list[float], dtype: torch.dtype = torch.float32) -> GradientMoments:
    moments = GradientMoments()
    for gradient in gradients:
        moments.observe({"a": torch.tensor(gradient, dtype=dtype)})
    return moments


def score(moments: GradientMoments, weight: list[float], name: str = "a") -> list[float]:
    tensor = torch.tensor(weight)
    found: list[float] = moments.score(name, tensor, tensor).tolist()
    return found


def test_size_times_root_mean_square() -> None:
    assert sensitivity(torch.tensor([-3.0, 0.5]), torch.tensor([4.0, 16.0])).tolist() == [6.0, 2.0]


def test_one_step_counts_in_full_and_a_constant_gradient_is_its_own_mean() -> None:
    assert score(heard([2.0, -0.5]), [-3.0, 4.0]) == pytest.approx([6.0, 2.0])
    assert score(heard(*[[2.0, -0.5]] * 7), [-3.0, 4.0]) == pytest.approx([6.0, 2.0])


def test_is_the_weighted_mean_of_all_steps() -> None:
    steps = torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
    decay = 1 - 1 / MOST
    weights = decay ** torch.arange(29, -1, -1.0)
    expected = ((weights[:, None] * steps**2).sum(0) / weights.sum()).sqrt()
    assert score(heard(*steps.tolist()), [1.0, 1.0]) == pytest.approx(expected.tolist(), rel=1e-5)


@pytest.mark.parametrize(
    ("batches", "accumulated", "look_back"),
    [(100, 1, MOST), (100, 3, 34), (30, 1, 30), (8, 1, FEWEST), (float("inf"), 1, MOST)],
)
def test_it_looks_back_on_an_epoch_within_limits(batches: float, accumulated: int, look_back: int) -> None:
    moments = GradientMoments()
    at_a_cut(moments, batches, accumulated)
    assert moments.memory == 4 * look_back
    moments.observe({"a": torch.ones(1)})
    moments.observe({"a": torch.zeros(1)})
    decay = 1 - 1 / look_back
    assert score(moments, [1.0]) == pytest.approx([(decay / (1 + decay)) ** 0.5])


def test_what_was_never_seen_counts_as_usual_and_a_zero_gradient_as_zero() -> None:
    moments = GradientMoments()
    at_a_cut(moments)
    assert score(moments, [-3.0, 2.0], "frozen") == [3.0, 2.0], "without any gradient it is magnitude"
    moments.observe({"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([3.0])})
    moments.observe({"a": torch.tensor([1.0, 0.0])})
    at_a_cut(moments)
    assert score(moments, [5.0, 5.0]) == pytest.approx([5.0, 0.0])
    assert score(moments, [-3.0, 2.0], "frozen") == pytest.approx([6.0, 4.0]), "the mean of 1 and 3"


def test_the_usual_size_is_that_over_all_processes() -> None:
    class Two(Processes):
        def gather_objects(self, share: Any) -> list[Any]:
            return [share, (8.0, 2)]

    means = [torch.tensor([4.0, 0.0]), torch.zeros(0)]
    assert usual_size(means, WHOLE) == 2
    assert usual_size(means, Sharding(Two(0, 2), frozenset({"a"}))) == (2 + 8) / 3
    assert usual_size([], WHOLE) == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_squares_of_small_gradients_do_not_vanish(dtype: torch.dtype) -> None:
    moments = heard([2.0**-14], [2.0**-14], dtype=dtype)
    assert score(moments, [1.0]) == pytest.approx([2.0**-14])
    kept = moments.state_dict()["means"]["a"].dtype
    assert kept == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_its_state_goes_on_bit_for_bit_and_is_a_copy() -> None:
    steps = torch.randn(9, 3, generator=torch.Generator().manual_seed(2)).tolist()
    whole, first, second = heard(*steps), heard(*steps[:5]), GradientMoments()
    assert not second.has_heard
    state = first.state_dict()
    second.load_state_dict(state)
    first.observe({"a": torch.ones(3)})
    assert state["steps"] == {"a": 5}
    for step in steps[5:]:
        second.observe({"a": torch.tensor(step)})
    assert second.has_heard
    assert score(second, [1.0, 2.0, 3.0]) == score(whole, [1.0, 2.0, 3.0])
    assert torch.equal(second.state_dict()["means"]["a"], whole.state_dict()["means"]["a"])
    second.load_state_dict({"means": {}, "steps": {}})
    assert not second.has_heard


def test_nothing_heard_changes_nothing() -> None:
    moments = GradientMoments()
    moments.observe({})
    assert moments.state_dict() == {"means": {}, "steps": {}}
