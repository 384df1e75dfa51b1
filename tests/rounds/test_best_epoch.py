"""The best epoch of a round: the first with the best score, of those that end with validation."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from lightning_classprune.rounds.best_epoch import BestEpoch
from lightning_classprune.trainer.monitor import Monitor
from lightning_classprune.trainer.processes import Processes
from lightning_classprune.trainer.sharding import Sharding
from tests.support.compare import assert_same

ONE = Processes()


def trainer(**more: Any) -> Any:
    return SimpleNamespace(callback_metrics={}, global_step=0, enable_validation=True, **more)


def looked(best: BestEpoch, scores: list[float | None], validates: bool = True) -> int | None:
    for number, score in enumerate(scores, 1):
        best.trainer.global_step += 5
        if score is not None:
            best.trainer.callback_metrics["f1"] = torch.tensor(score)
            if validates:
                best.has_validated()
        best.look(number, lambda now=number: ({"w": torch.tensor(now)}, {"epoch": now}))
    return best.best.number if best.best is not None else None


def test_the_first_of_the_best_epochs_that_end_with_validation() -> None:
    for scores, expected in (
        ([0.1, 0.3, 0.2], 2),
        ([0.3, 0.3], 1),
        ([float("nan"), 0.1], 2),
        ([None, 0.1, None, 0.0], 2),  # what was logged before is not of this epoch's network
        ([float("nan")], None),
        ([], None),
    ):
        best = BestEpoch(Monitor("f1", "max"), trainer(), ONE)
        assert looked(best, scores) == expected
        if expected is not None:
            assert int(best.best.tensors["w"]) == expected  # type: ignore[union-attr]
        best.reset()
        assert best.best is None
    assert looked(BestEpoch(Monitor("f1", "max"), trainer(), ONE), [0.1, 0.2], validates=False) is None


def test_without_validation_every_epoch_counts() -> None:
    best = BestEpoch(Monitor("f1", "min"), trainer(), ONE)
    best.trainer.enable_validation = False
    assert looked(best, [0.3, 0.1, 0.2], validates=False) == 2


def test_it_is_saved_and_taken_back() -> None:
    best, again = (BestEpoch(Monitor("f1", "max"), trainer(), ONE) for _ in range(2))
    for scores in ([], [0.5, 0.2]):
        looked(best, scores)
        again.load_state_dict(best.state_dict(Sharding(ONE)), Sharding(ONE))
        assert_same(again.state_dict(Sharding(ONE)), best.state_dict(Sharding(ONE)))
    assert again.best is not None
    assert (again.best.number, again.best.training, again.validated) == (1, {"epoch": 1}, 10)
