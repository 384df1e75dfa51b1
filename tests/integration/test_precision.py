"""Every precision: the masks hold, weights keep their dtype, and the gradient scaler is part of what is rewound."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor

from tests.support.witness import (
    Classifier,
    assert_pruned,
    guard_data,
    log_messages,
    train_data,
    val_data,
    watched_fit,
)


class DtypeLog(L.Callback):
    """Dtypes of weights and of what the network returns in training."""

    def __init__(self) -> None:
        self.weights: set[torch.dtype] = set()
        self.scores: set[torch.dtype] = set()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        pl_module.net.register_forward_hook(
            lambda m, i, out: self.scores.add(out.dtype) if m.training else None
        )

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.weights |= {p.dtype for p in pl_module.parameters()}


@pytest.mark.parametrize(
    ("precision", "weights", "scores"),
    [
        ("bf16-mixed", torch.float32, torch.bfloat16),
        ("bf16-true", torch.bfloat16, torch.bfloat16),
        ("64-true", torch.float64, torch.float64),
        ("32-true", torch.float32, torch.float32),
    ],
)
def test_precision(precision: str, weights: torch.dtype, scores: torch.dtype) -> None:
    log = DtypeLog()
    job = watched_fit(callbacks=[log], precision=precision)
    assert_pruned(job)
    assert log.weights == {weights}
    assert log.scores == {scores}
    assert {t.dtype for t in job.module.parameters()} == {weights}


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_low_precision_with_momentum_and_clipping(algorithm: str) -> None:
    module = Classifier(optimizers=lambda m: torch.optim.AdamW(m.parameters(), lr=0.02, weight_decay=0.1))
    assert_pruned(
        watched_fit(module, precision="bf16-true", gradient_clip_val=0.1, gradient_clip_algorithm=algorithm)
    )


def test_the_guard_judges_in_the_users_precision() -> None:
    seen: list[torch.dtype] = []

    def predict(pl_module: Any, batch: Any) -> tuple[Tensor, Tensor]:
        scores = pl_module(batch[0])
        seen.append(scores.dtype)
        return scores, batch[1]

    with log_messages() as said:
        watched_fit(settings={"predict": predict}, precision="bf16-mixed")
    assert set(seen) == {torch.bfloat16}
    assert any("the guard judges scores of torch.bfloat16" in one for one in said)


class Float64Data(torch.utils.data.Dataset):
    """Makes its samples with torch's default dtype, as much user code does."""

    def __init__(self) -> None:
        self.inputs, self.targets = guard_data().dataset.tensors
        self.made: set[torch.dtype] = set()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        sample = torch.tensor(self.inputs[index].tolist())
        product = sample.unsqueeze(0) @ torch.eye(len(sample))
        self.made |= {sample.dtype, product.dtype}
        return sample, self.targets[index]


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed", "64-true"])
def test_guard_samples_are_made_outside_of_the_networks_precision(precision: str) -> None:
    """As Lightning makes those of every other loader; a transform must not be computed in half precision."""
    data = Float64Data()
    loader = torch.utils.data.DataLoader(data, batch_size=150)
    assert_pruned(watched_fit(settings={"guard_dataloader": loader}, precision=precision))
    assert data.made == {torch.float32}


class ScalerLog(L.Callback):
    """The scale before each batch, and the steps that were really taken."""

    def __init__(self) -> None:
        self.scales: list[float] = []
        self.moved: list[bool] = []
        self._before: Tensor | None = None

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.scales.append(trainer.precision_plugin.scaler.get_scale())
        self._before = pl_module.net[0].bias.detach().clone()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.moved.append(not torch.equal(self._before, pl_module.net[0].bias))


def mixed(init_scale: float) -> MixedPrecision:
    return MixedPrecision(
        "16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=init_scale, growth_interval=3)
    )


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda m: torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9),
        lambda m: torch.optim.AdamW(m.parameters(), lr=0.02, weight_decay=0.1),
    ],
    ids=["sgd", "adamw"],
)
@pytest.mark.parametrize("clip", [None, 0.5])
def test_a_scaler_that_skips_steps_is_rewound(optimizer: Any, clip: float | None) -> None:
    log = ScalerLog()
    job = watched_fit(
        Classifier(optimizers=optimizer),
        callbacks=[log],
        plugins=[mixed(2.0**40)],
        gradient_clip_val=clip,
        max_epochs=8,
    )
    assert_pruned(job)
    steps = 8 * 4
    assert len(log.scales) == 3 * steps
    for start in (0, steps, 2 * steps):
        assert log.scales[start] == 2.0**40  # every round starts with the scale of the first
        moved = log.moved[start : start + steps]
        assert 0 < sum(moved) < steps  # some steps were skipped, others taken
        assert log.scales[start + steps - 1] < 2.0**40


def test_fine_tuning_keeps_the_scale_that_was_reached() -> None:
    log = ScalerLog()
    job = watched_fit(
        Classifier(),
        callbacks=[log],
        plugins=[mixed(2.0**40)],
        max_epochs=8,
        settings={"rewind": "none"},
    )
    assert_pruned(job)
    assert log.scales[32] < 2.0**30
    assert log.scales[64] < 2.0**30


def test_data_of_double_precision() -> None:
    job = watched_fit(
        Classifier(),
        train_data(torch.float64),
        val_data(torch.float64),
        precision="64-true",
        settings={"guard_dataloader": lambda: guard_data(torch.float64)},
    )
    assert_pruned(job)
