"""The scores of every round's network on parts that training never sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import nn

from lightning_classprune import ClassAwarePruningCallback
from lightning_classprune.job.classifier import decide
from lightning_classprune.job.data.base import SplitDataModule
from lightning_classprune.losses import log_odds
from lightning_classprune.trainer.forward import as_in_validation


class RoundScores(Callback):
    """Collects, for each round, the density and per sample the log-odds of the protected class and the decision."""

    def __init__(self, data: SplitDataModule, parts: Sequence[str], protected: int) -> None:
        self.loaders = {part: getattr(data, f"{part}_dataloader")() for part in parts}
        self.protected = protected
        self.densities: list[float] = []
        self.scores: dict[str, list[np.ndarray]] = {part: [] for part in parts}
        self.found: dict[str, list[np.ndarray]] = {part: [] for part in parts}
        self.target: dict[str, np.ndarray] = {}

    def record(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score the network as it is now; training goes on as if nothing had happened."""
        self.densities.append(density(pl_module))
        # Half-precision scores tie, and a tie moves the threshold of a given false-positive rate.
        full_precision = torch.autocast(pl_module.device.type, enabled=False)
        with as_in_validation(trainer, pl_module), torch.no_grad(), full_precision:
            for part, loader in self.loaders.items():
                logits, target = [], []
                for x, y in loader:
                    logits.append(pl_module(x.to(pl_module.device)).float().cpu())
                    target.append(y)
                z = torch.cat(logits)
                self.scores[part].append(log_odds(z, self.protected).numpy())
                self.found[part].append((decide(z) == self.protected).numpy())
                self.target[part] = (torch.cat(target) == self.protected).numpy()

    def arrays(self) -> dict[str, np.ndarray]:
        """Arrays for one file: `density (rounds,)`, and per part scores and decisions `(rounds, n)`, target `(n,)`."""
        found: dict[str, np.ndarray] = {"density": np.array(self.densities)}
        for part in self.loaders:
            found[f"{part}_score"] = np.stack(self.scores[part]).astype(np.float32)
            found[f"{part}_found"] = np.stack(self.found[part])
            found[f"{part}_target"] = self.target[part]
        return found


class ScoresAfterVerdicts(RoundScores, Checkpoint):
    """For `ClassAwarePruningCallback`. A Checkpoint: those run between the verdict and the next round's mask."""

    def __init__(self, pruning: ClassAwarePruningCallback, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.pruning = pruning

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if len(self.pruning.ledger) > len(self.densities):
            self.record(trainer, pl_module)
            judged = 1 - self.pruning.ledger[-1]["sparsity"]
            # A weight may also be exactly zero by itself, never the other way round.
            if not -1e-9 <= judged - self.densities[-1] < 0.01 * judged:
                raise RuntimeError(f"scored a network of density {self.densities[-1]}, judged was {judged}")


class ScoresEveryEpochs(RoundScores):
    """For callbacks that prune at the end of every `epochs`-th epoch; stands before them."""

    def __init__(self, epochs: int, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.epochs = epochs

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if (trainer.current_epoch + 1) % self.epochs == 0:
            self.record(trainer, pl_module)


def density(module: nn.Module) -> float:
    """Return the share of the weights of convolutions and linear layers that are not zero."""
    weights = [m.weight for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    return sum(int(w.count_nonzero()) for w in weights) / sum(w.numel() for w in weights)
