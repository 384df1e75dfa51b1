"""benchmarks/paper/saliency.py: the scores by hand in a real fit, and what they prune."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Checkpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.paper.arms import pruning_of
from benchmarks.paper.saliency import ProtectedSaliency
from lightning_classprune import ClassAwarePruningCallback, Cut, Fixed, Guard
from tests.benchmarks.paper.tiny import fit

PROTECTED = 2


class Linear(LightningModule):
    """Three classes, and a layer that does nothing for them."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x):
        return self.used(x)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class DenseWeights(Checkpoint):
    """The weights that the verdict on the dense network was of, from which the mask is made."""

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch == 0:
            self.kept = {name: p.detach().clone() for name, p in pl_module.named_parameters()}


def data(n: int, seed: int = 0) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    return TensorDataset(torch.randn(n, 4, generator=generator) + y.unsqueeze(1), y)


def pruned(batch_size: int) -> tuple[ProtectedSaliency, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Half of the weights gone in one step after one epoch: the criterion, the dense weights, the masks."""
    criterion, dense = ProtectedSaliency(), DenseWeights()
    callback = ClassAwarePruningCallback(
        3,
        {PROTECTED: 1.0},
        target_sparsity=0.5,
        search=Fixed(fraction=0.5),
        guard=Guard(confidence=None, max_fp_rise=None),
        cut=Cut(criterion=criterion),
        guard_dataloader=DataLoader(data(30, seed=1), batch_size=30),
    )
    seed_everything(3, verbose=False)
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=True,
        callbacks=[callback, dense],
    )
    trainer.fit(Linear(), DataLoader(data(30), batch_size=batch_size))
    return criterion, dense.kept, callback.masks


def slope(weights: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """dL/dw of the mean of -ln p of the protected class: the mean of (p - 1 at its row) x."""
    p = (x @ weights["used.weight"].T + weights["used.bias"]).softmax(1)
    p[:, PROTECTED] -= 1
    return p.T @ x / len(x)


def test_the_score_is_the_weight_times_the_mean_gradient_over_all_protected_samples(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    criterion, dense, masks = pruned(batch_size=30)
    x, y = data(30).tensors
    weight = dense["used.weight"]
    expected = weight.abs() * slope(dense, x[y == PROTECTED]).abs()
    assert criterion.score("used.weight", weight, weight).numpy() == pytest.approx(expected.numpy(), rel=1e-4)
    # Twelve weights go: all but the one that a layer keeps where the loss does not depend on it, and the next smallest.
    assert masks["idle.weight"].sum() == 1
    assert masks["used.weight"].flatten().equal(torch.arange(12) != expected.argmin())


def test_of_several_batches_the_mean_is_of_the_absolute_gradients(tmp_path, monkeypatch):
    """One sample a batch, in whatever order: two of three batches have no protected sample and count as zero."""
    monkeypatch.chdir(tmp_path)
    criterion, dense, _ = pruned(batch_size=1)
    x, y = data(30).tensors
    each = torch.stack([slope(dense, one.unsqueeze(0)).abs() for one in x[y == PROTECTED]])
    found = criterion.gradients["used.weight"]
    assert found.numpy() == pytest.approx((each.sum(0) / 30).numpy(), rel=1e-4)


def test_the_arm_prunes_the_weights_of_smallest_score_and_repeats_itself(archive):
    class Spy(Checkpoint):
        """The judged weights of every round."""

        def __init__(self) -> None:
            self.weights: list[dict[str, torch.Tensor]] = []

        def on_train_epoch_end(self, trainer, pl_module):
            self.weights.append({n: p.detach().clone() for n, p in pl_module.named_parameters()})

    kept = []
    for _ in range(2):
        spy = Spy()
        _, trainer = fit(archive, "recipe_gradient", spy)
        pruning = pruning_of(trainer)
        assert len(spy.weights) == 3
        last = spy.weights[1]  # at the end of round 1, by which the last mask was chosen
        score = pruning.settings.criterion.score
        scores = torch.cat([score(n, last[n], last[n]).flatten() for n in pruning.masks])
        flat = torch.cat([mask.flatten() for mask in pruning.masks.values()])
        assert scores[flat].min() > 0
        assert scores[flat].min() >= scores[~flat].max()
        kept.append(flat)
    assert kept[0].equal(kept[1])
