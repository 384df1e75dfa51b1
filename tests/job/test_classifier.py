"""The Classifier under real Trainers."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, ReduceLROnPlateau, StepLR
from torch.utils.data import DataLoader, TensorDataset

from lightning_classprune.job.classifier import Classifier, decide
from lightning_classprune.job.models import mlp
from lightning_classprune.job.optimization import open_horizon
from lightning_classprune.losses import ClassDependentLoss


def blobs(n: int = 50) -> TensorDataset:
    """Two well-separated clouds in four dimensions, a fifth of them of class 1."""
    generator = torch.Generator().manual_seed(1)
    y = (torch.arange(n) % 5 == 0).long()
    return TensorDataset(torch.randn(n, 4, generator=generator) + 5 * y[:, None], y)


def trainer(path: Path, **kwargs: Any) -> Trainer:
    options: dict[str, Any] = {"max_epochs": 3} | kwargs
    return Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=path,
        **options,
    )


def classifier(num_outputs: int = 2, lr: float = 0.1, **kwargs: Any) -> Classifier:
    torch.manual_seed(0)
    options: dict[str, Any] = {"loss": nn.CrossEntropyLoss(), "optimizer": partial(SGD, lr=lr)} | kwargs
    return Classifier(mlp(4, num_outputs, hidden=(6,)), num_classes=2, **options)


def loaders() -> dict[str, DataLoader[Any]]:
    # 50 samples in batches of 16: the last one has 2, so a mean over batches is not the mean over samples.
    return {
        "train_dataloaders": DataLoader(blobs(), batch_size=16, shuffle=True),
        "val_dataloaders": DataLoader(blobs(), batch_size=16),
    }


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
class TestClassifier:
    @pytest.mark.parametrize("num_outputs", [1, 2])
    def test_learns_with_one_or_two_logits(self, tmp_path: Path, num_outputs: int) -> None:
        loss = ClassDependentLoss([40, 10], protect={1: 0.05})
        model = classifier(num_outputs, loss=loss, optimizer=partial(AdamW, lr=0.05))
        fit = trainer(tmp_path, max_epochs=20)
        fit.fit(model, **loaders())
        assert {"train_loss", "val_loss", "val_accuracy"} <= set(fit.callback_metrics)
        assert fit.callback_metrics["val_accuracy"] > 0.95

    def test_logged_values_are_means_over_samples(self, tmp_path: Path) -> None:
        model = classifier()
        x, y = blobs().tensors
        logits = model.eval()(x)
        expected_loss = F.cross_entropy(logits, y).item()
        expected_accuracy = (logits.argmax(1) == y).double().mean().item()
        assert 0 < expected_accuracy < 1
        loader = DataLoader(blobs(), batch_size=16)
        run = trainer(tmp_path)
        for stage, evaluate in (("val", run.validate), ("test", run.test)):
            (metrics,) = evaluate(model, loader, verbose=False)
            assert metrics == pytest.approx(
                {f"{stage}_loss": expected_loss, f"{stage}_accuracy": expected_accuracy}, rel=1e-5
            )

    def test_checkpoint_holds_the_network_alone_and_loads_safely(self, tmp_path: Path) -> None:
        model = classifier(loss=ClassDependentLoss([40, 10], protect=[1]))
        fit = trainer(tmp_path, max_epochs=1)
        fit.fit(model, **loaders())
        fit.save_checkpoint(tmp_path / "last.ckpt")
        state = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
        network = mlp(4, 2, hidden=(6,))
        network.load_state_dict({name.removeprefix("network."): value for name, value in state.items()})
        x, _ = blobs().tensors
        assert torch.equal(network(x), model.eval()(x))

    @pytest.mark.parametrize(
        ("scheduler", "interval", "expected"),
        [
            # 4 batches an epoch in groups of 2, for 3 epochs: 6 optimizer steps.
            (partial(OneCycleLR, max_lr=1.0), "step", {"total_steps": 6}),
            (partial(OneCycleLR, max_lr=1.0), "epoch", {"total_steps": 3}),
            (partial(OneCycleLR, max_lr=1.0, total_steps=50), "step", {"total_steps": 50}),
            (partial(OneCycleLR, max_lr=1.0, epochs=4, steps_per_epoch=5), "step", {"total_steps": 20}),
            (CosineAnnealingLR, "epoch", {"T_max": 3}),
            (partial(CosineAnnealingLR, eta_min=0.01), "step", {"T_max": 6}),
            (partial(CosineAnnealingLR, T_max=50), "epoch", {"T_max": 50}),
            (partial(StepLR, step_size=1), "epoch", {"step_size": 1}),
        ],
    )
    def test_schedules_get_their_length_and_step_that_often(
        self, tmp_path: Path, scheduler: Any, interval: Any, expected: dict[str, int]
    ) -> None:
        fit = trainer(tmp_path, accumulate_grad_batches=2)
        fit.fit(classifier(scheduler=scheduler, scheduler_interval=interval), **loaders())
        built = fit.lr_scheduler_configs[0].scheduler
        assert {name: getattr(built, name) for name in expected} == expected
        assert built.last_epoch == {"step": 6, "epoch": 3}[interval]

    def test_cosine_over_steps_ends_at_its_minimum(self, tmp_path: Path) -> None:
        fit = trainer(tmp_path)
        fit.fit(
            classifier(scheduler=partial(CosineAnnealingLR, eta_min=0.01), scheduler_interval="step"),
            **loaders(),
        )
        assert fit.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.01)

    @pytest.mark.parametrize(
        ("monitor", "mode", "halvings"),
        [("val_loss", "min", 0), ("val_loss", "max", 3), ("train_loss", "max", 3)],
    )
    def test_plateau_watches_its_monitor(
        self, tmp_path: Path, monitor: str, mode: Any, halvings: int
    ) -> None:
        # Both losses fall in all four epochs, which is no progress for mode "max" from the second one on.
        plateau = partial(ReduceLROnPlateau, mode=mode, factor=0.5, patience=0)
        fit = trainer(tmp_path, max_epochs=4)
        fit.fit(classifier(scheduler=plateau, monitor=monitor), **loaders())
        assert fit.lr_scheduler_configs[0].monitor == monitor
        assert fit.optimizers[0].param_groups[0]["lr"] == 0.1 * 0.5**halvings

    def test_a_fit_without_end_cannot_give_a_length(self, tmp_path: Path) -> None:
        model = classifier(scheduler=CosineAnnealingLR)
        with pytest.raises(ValueError, match=r"T_max is open, but the trainer's max_epochs=-1"):
            trainer(tmp_path, max_epochs=-1, max_steps=5).fit(model, **loaders())


def test_no_scheduler_and_no_horizon() -> None:
    assert set(classifier().configure_optimizers()) == {"optimizer"}
    assert open_horizon(lambda optimizer: StepLR(optimizer, 1)) is None


def test_one_logit_is_decided_at_zero() -> None:
    assert decide(torch.tensor([-0.1, 0.0, 0.1])).tolist() == [0, 0, 1]
    assert decide(torch.tensor([[-0.1], [0.2]])).tolist() == [0, 1]
    assert decide(torch.tensor([[0.3, 0.1, 0.2], [0.0, 0.1, 5.0]])).tolist() == [0, 2]


def test_bad_classifier_arguments() -> None:
    with pytest.raises(ValueError, match="scheduler_interval='batch' must be 'epoch' or 'step'"):
        classifier(scheduler_interval="batch")
    with pytest.raises(ValueError, match="num_classes=1 must be at least 2"):
        Classifier(mlp(4, 1), nn.BCEWithLogitsLoss(), num_classes=1, optimizer=partial(SGD, lr=0.1))
