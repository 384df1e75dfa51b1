"""A batch as Lightning would show it to the network, and everything as before afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch.trainer.states import RunningStage
from torch import Tensor

from lightning_classprune.trainer.forward import (
    as_in_validation,
    default_predict,
    predicted,
    scores_and_target,
)
from tests.support.kit import Tiny, guard_loader, tiny, train_loader, trainer


def ready(precision: str = "32-true") -> tuple[Any, Tiny]:
    """A trainer that knows a module, as between two epochs."""
    made, module = trainer(precision=precision), tiny()
    made.strategy.connect(module)
    made._data_connector.attach_data(module, train_dataloaders=train_loader())
    module.trainer = made
    made.training = True
    return made, module


def test_inside_it_is_validation_and_afterwards_what_it_was() -> None:
    made, module = ready()
    module.net[1].eval()
    flags = [part.training for part in module.modules()]
    torch.manual_seed(3)
    state = torch.get_rng_state()
    drawn = []
    for _ in range(2):
        with as_in_validation(made, module, seed=5):
            assert made.validating
            assert not any(part.training for part in module.modules())
            drawn.append(torch.rand(3))
    assert torch.equal(*drawn)
    assert made.state.stage == RunningStage.TRAINING
    assert [part.training for part in module.modules()] == flags
    assert torch.equal(torch.get_rng_state(), state)


def test_an_error_inside_puts_everything_back_too() -> None:
    made, module = ready()
    with pytest.raises(KeyError), as_in_validation(made, module):
        raise KeyError
    assert made.state.stage == RunningStage.TRAINING
    assert module.training


def test_the_batch_goes_through_the_modules_own_hooks_in_their_order() -> None:
    made, module = ready()
    calls: list[str] = []

    def before(batch: list[Tensor], dataloader_idx: int) -> list[Tensor]:
        calls.append("before")
        return [batch[0] * 2, batch[1]]

    def after(batch: list[Tensor], dataloader_idx: int) -> list[Tensor]:
        calls.append("after")
        return [batch[0] + 1, batch[1]]

    module.on_before_batch_transfer = before  # type: ignore[method-assign]
    module.on_after_batch_transfer = after  # type: ignore[method-assign]
    x, y = next(iter(guard_loader()))
    seen: list[Tensor] = []

    def predict(module: Any, batch: Any) -> Any:
        seen.append(batch[0])
        return default_predict(module, batch)

    with torch.no_grad(), as_in_validation(made, module):
        scores, target = predicted(made, module, predict, [x, y])
        assert torch.equal(scores, module(x * 2 + 1))
    assert calls == ["before", "after"]
    assert torch.equal(seen[0], x * 2 + 1)
    assert torch.equal(target, y)


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("32-true", torch.float32), ("64-true", torch.float64), ("bf16-mixed", torch.bfloat16)],
)
def test_scores_have_the_precision_of_training(precision: str, dtype: torch.dtype) -> None:
    made, module = ready(precision)
    made.precision_plugin.convert_module(module)
    with torch.no_grad(), as_in_validation(made, module):
        assert predicted(made, module, default_predict, next(iter(guard_loader())))[0].dtype == dtype


def test_two_things_are_returned_or_three() -> None:
    assert scores_and_target((1, 2)) == scores_and_target([1, 2]) == (1, 2)
    assert scores_and_target([1, 2, 3]) == (1, 2, 3)
    for returned in (None, 3, (1,), (1, 2, 3, 4), {"scores": 1, "target": 2}):
        with pytest.raises(ValueError, match=rf"predict must return .*, got {type(returned).__name__}"):
            scores_and_target(returned)


def test_the_default_reads_what_a_batch_names_and_what_an_output_calls_logits() -> None:
    class Output:
        def __init__(self, logits: Tensor) -> None:
            self.logits = logits

    x, y = next(iter(guard_loader()))
    module = tiny().eval()
    for output in (lambda z: z, Output, lambda z: {"logits": z, "loss": None}):
        scores, target = default_predict(lambda x, made=output: made(module(x)), {"image": x, "label": y})
        assert torch.equal(scores, module(x))
        assert target is y
    with pytest.raises(ValueError, match="cannot be told; it is a dict with picture"):
        default_predict(module, {"picture": x, "label": y})
