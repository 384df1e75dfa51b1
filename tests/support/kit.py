"""What tests fit: tiny modules, data that can be learned, callbacks and trainers."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, ReduceLROnPlateau, StepLR
from torch.utils.data import DataLoader, TensorDataset

from lightning_classprune import ClassAwarePruningCallback, Cut, Files, FNTolerance, Guard
from lightning_classprune.rounds.options import SEARCHES

torch.set_num_threads(1)

FEATURES = 8
SCHEDULERS = (None, "onecycle", "cosine", "plateau", "step")


class Tiny(pl.LightningModule):
    """A perceptron with BatchNorm and dropout.

    Args:
        outputs: Number of scores a sample.
        task: `"classes"` (cross-entropy), `"binary"` (one logit, scores `(n,)`) or `"labels"` (multi-label).
        scheduler: One of `SCHEDULERS`.
        optimizer: `"sgd"` or `"adam"`.
        dropout: Its probability.
        width: Hidden units.
        lr: Learning rate.
    """

    def __init__(
        self,
        outputs: int = 2,
        task: str = "classes",
        scheduler: str | None = None,
        optimizer: str = "sgd",
        dropout: float = 0.1,
        width: int = 12,
        lr: float = 0.1,
    ) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(FEATURES, width),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(width, outputs),
        )
        self.task, self.scheduler, self.optimizer, self.rate = task, scheduler, optimizer, lr

    def forward(self, x: Tensor) -> Tensor:
        scores = self.net(x)
        return scores.squeeze(1) if self.task == "binary" else scores

    def loss(self, batch: list[Tensor]) -> Tensor:
        scores, target = self(batch[0]), batch[1]
        if self.task == "classes":
            return cross_entropy(scores, target)
        return binary_cross_entropy_with_logits(scores, target.to(scores.dtype))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch))

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("test_loss", self.loss(batch))

    def predict_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self(batch[0])

    def configure_optimizers(self) -> Any:
        optimizer: torch.optim.Optimizer
        if self.optimizer == "adam":
            optimizer = torch.optim.Adam(self.parameters(), lr=self.rate / 10)
        else:
            optimizer = torch.optim.SGD(self.parameters(), lr=self.rate, momentum=0.9, weight_decay=1e-3)
        steps = self.trainer.estimated_stepping_batches if self.scheduler in ("onecycle", "cosine") else 0
        config: dict[str, Any] = {"interval": "step"}
        if self.scheduler == "onecycle":
            config["scheduler"] = OneCycleLR(optimizer, max_lr=self.rate, total_steps=int(steps))
        elif self.scheduler == "cosine":
            config["scheduler"] = CosineAnnealingLR(optimizer, T_max=int(steps))
        elif self.scheduler == "plateau":
            # Every value counts as no improvement, so that a step that is left out shows.
            scheduler = ReduceLROnPlateau(
                optimizer, patience=0, factor=0.7, threshold=1e9, threshold_mode="abs"
            )
            config = {"scheduler": scheduler, "interval": "epoch", "monitor": "val_loss"}
        elif self.scheduler == "step":
            config = {"scheduler": StepLR(optimizer, step_size=1, gamma=0.6), "interval": "epoch"}
        else:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": config}


def dataset(n: int, seed: int, task: str = "classes", classes: int = 2) -> TensorDataset:
    """Samples whose class follows from the first features and some noise."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, FEATURES, generator=generator)
    noise = 0.5 * torch.randn(n, classes, generator=generator)
    scores = torch.stack([x[:, i] + x[:, i + 1] * x[:, i + 2] for i in range(classes)], dim=1) + noise
    if task == "labels":
        return TensorDataset(x, (scores > 0.5).long())
    return TensorDataset(x, scores.argmax(1))


def loader(
    n: int = 96, seed: int = 0, batch_size: int = 16, shuffle: bool = False, **options: Any
) -> DataLoader[Any]:
    """A loader over `dataset`; `task` and `classes` are passed on."""
    kinds = {key: options.pop(key) for key in ("task", "classes") if key in options}
    return DataLoader(dataset(n, seed, **kinds), batch_size=batch_size, shuffle=shuffle, **options)


def train_loader(**options: Any) -> DataLoader[Any]:
    """Six shuffled batches an epoch."""
    return loader(**({"seed": 1, "shuffle": True} | options))


def val_loader(**options: Any) -> DataLoader[Any]:
    return loader(**({"n": 40, "seed": 2, "batch_size": 20} | options))


def guard_loader(**options: Any) -> DataLoader[Any]:
    return loader(**({"n": 120, "seed": 3, "batch_size": 50} | options))


def flat_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Constructor arguments of options that are named flat: each goes to the dataclass with a field of its name.

    `search` may be a name beside its options (`search="adaptive", rewind="init"`), or the search itself.
    """
    options = dict(options)
    search = options.get("search", "fixed")
    kinds: dict[str, type] = {"guard": Guard, "cut": Cut, "files": Files}
    if isinstance(search, str) and search in SEARCHES:
        kinds["search"] = SEARCHES[search]
    for argument, kind in kinds.items():
        given = {field.name: options.pop(field.name) for field in fields(kind) if field.name in options}
        if given:
            options[argument] = kind(**given)
    return options


def plain_pruner(**options: Any) -> ClassAwarePruningCallback:
    """A callback with the package's own defaults, of two classes of which the second is protected.

    Only false alarms are not guarded: most tests are of mechanics that say nothing of them.
    """
    defaults: dict[str, Any] = {"num_classes": 2, "protect": {1: 0.05}}
    if "guard" not in options:
        defaults["max_fp_rise"] = None
    return ClassAwarePruningCallback(**flat_options(defaults | options))


def pruner(**options: Any) -> ClassAwarePruningCallback:
    """A callback whose rounds are all accepted; 40% a round to 75%, so rounds 1 to 3, unless told otherwise."""
    defaults: dict[str, Any] = {
        "protect": {1: 1.0},
        "confidence": None,
        "target_sparsity": 0.75,
        "guard_dataloader": guard_loader(),
    }
    if options.get("search", "fixed") == "fixed":
        defaults["fraction"] = 0.4
    return plain_pruner(**(defaults | options))


def refusing(*attempts: int, **options: Any) -> ClassAwarePruningCallback:
    """A callback whose judge finds no positive in the given attempts (1 is the first after round 0), so refuses them.

    `attempts` may be empty for none; `refusing_all` is for all.
    """
    return _sabotaged(lambda attempt: attempt in attempts, options)


def refusing_all(**options: Any) -> ClassAwarePruningCallback:
    """A callback that refuses every attempt after round 0."""
    return _sabotaged(lambda attempt: attempt > 0, options)


def _sabotaged(bad: Callable[[int], bool], options: dict[str, Any]) -> ClassAwarePruningCallback:
    def predict(module: Any, batch: Any) -> tuple[Tensor, Tensor]:
        scores = module(batch[0])
        if bad(len(callback.ledger)):
            scores = scores - torch.tensor([0.0, 1e6])
        return scores, batch[1]

    options = {"protect": {1: FNTolerance(rate=0.5, recall_floor=0.1)}} | options
    callback = pruner(predict=predict, **options)
    return callback


QUIET: dict[str, Any] = {
    "accelerator": os.environ.get("CLASSPRUNE_TESTS_ON", "cpu"),
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}


#: Of the fits that name none; gone when this process ends.
FOLDERS = tempfile.TemporaryDirectory(prefix="classprune-test-")


def trainer(*callbacks: Any, **options: Any) -> pl.Trainer:
    """A quiet CPU trainer of two epochs that writes to a folder of its own."""
    defaults: dict[str, Any] = QUIET | {
        "max_epochs": 2,
        "devices": 1,
        "enable_checkpointing": any(isinstance(c, pl.callbacks.Checkpoint) for c in callbacks),
        "num_sanity_val_steps": 0,
    }
    if "default_root_dir" not in options:
        defaults["default_root_dir"] = tempfile.mkdtemp(dir=FOLDERS.name)
    return pl.Trainer(callbacks=list(callbacks), **(defaults | options))


def fit(
    module: pl.LightningModule,
    *callbacks: Any,
    train: Any = None,
    val: Any = None,
    seed: int | None = 7,
    ckpt_path: Any = None,
    **options: Any,
) -> pl.Trainer:
    """Fit on the standard loaders (`train` may make one) with `seed_everything(seed)` right before; the trainer."""
    made = trainer(*callbacks, **options)
    train = train_loader() if train is None else train() if callable(train) else train
    val = val_loader() if val is None else val
    if seed is not None:
        pl.seed_everything(seed, verbose=False)
    made.fit(module, train, val, ckpt_path=ckpt_path)
    return made


def tiny(seed: int = 11, **options: Any) -> Tiny:
    """A `Tiny` with initial weights from a seed."""
    torch.manual_seed(seed)
    return Tiny(**options)


def verdicts(callback: ClassAwarePruningCallback) -> list[str]:
    return [row["verdict"] for row in callback.ledger]
