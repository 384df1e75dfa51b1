"""Numbers where Lightning's callbacks look for them."""

from __future__ import annotations

import torch

from lightning_classprune.trainer.metrics import publish
from tests.support.kit import trainer


def test_numbers_are_added_as_tensors() -> None:
    made = trainer()
    publish(made, {"a": 0.5, "b": torch.tensor(2)})
    publish(made, {"a": 0.25})
    assert {name: value.item() for name, value in made.callback_metrics.items()} == {"a": 0.25, "b": 2}
    assert made.callback_metrics["a"].dtype == torch.float32
