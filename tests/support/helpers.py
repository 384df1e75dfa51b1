"""Shared by the integration tests: tiny modules, data that can be learned, trainers, and comparisons bit for bit."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch
from lightning_utilities.core import rank_zero
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, ReduceLROnPlateau, StepLR
from torch.utils.data import DataLoader, TensorDataset

from lightning_classprune import ClassAwarePruningCallback, FNTolerance
from lightning_classprune.trainer.snapshots import copy_state

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


def pruner(**options: Any) -> ClassAwarePruningCallback:
    """A callback whose rounds are all accepted; 40% a round to 75%, so rounds 1 to 3, unless told otherwise."""
    defaults: dict[str, Any] = {
        "num_classes": 2,
        "protect": {1: 1.0},
        "confidence": None,
        "target_sparsity": 0.75,
        "prune_fraction": 0.4,
        "guard_dataloader": guard_loader(),
    }
    return ClassAwarePruningCallback(**(defaults | options))


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


def trainer(*callbacks: Any, **options: Any) -> pl.Trainer:
    """A quiet CPU trainer of two epochs that writes to a folder of its own."""
    defaults: dict[str, Any] = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": any(isinstance(c, pl.callbacks.Checkpoint) for c in callbacks),
        "num_sanity_val_steps": 0,
    }
    options = defaults | options
    options.setdefault("default_root_dir", tempfile.mkdtemp(prefix="classprune-test-"))
    return pl.Trainer(callbacks=list(callbacks), **options)


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


def weights(module: nn.Module) -> dict[str, Tensor]:
    """A copy of all parameters and buffers."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def verdicts(callback: ClassAwarePruningCallback) -> list[str]:
    return [row["verdict"] for row in callback.ledger]


def without_seconds(ledger: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in ledger]


def differences(a: Any, b: Any, path: str = "") -> list[str]:
    """Where two nested structures of tensors and primitives differ; tensors must be equal bit for bit."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape
        return [] if same and torch.equal(_bits(a), _bits(b)) else [f"{path}: {a} != {b}"]
    if isinstance(a, dict) and isinstance(b, dict):
        if a.keys() != b.keys():
            return [f"{path}: keys {sorted(map(str, a))} != {sorted(map(str, b))}"]
        return [d for key in a for d in differences(a[key], b[key], f"{path}/{key}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        if len(a) != len(b):
            return [f"{path}: {len(a)} items != {len(b)}"]
        return [
            d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in differences(x, y, f"{path}/{i}")
        ]
    return [] if a == b or (a != a and b != b) else [f"{path}: {a!r} != {b!r}"]


def assert_same(a: Any, b: Any) -> None:
    found = differences(a, b)
    assert not found, "\n".join(found[:10])


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().view(torch.uint8) if tensor.numel() and tensor.ndim else tensor


def optimizer_states(made: pl.Trainer) -> list[Any]:
    return [copy_state(o.state_dict()) for o in made.optimizers]


def scheduler_states(made: pl.Trainer) -> list[Any]:
    return [copy_state(c.scheduler.state_dict()) for c in made.lr_scheduler_configs]


@contextmanager
def log_messages() -> Iterator[list[str]]:
    """What is said on the log of Lightning's rank-zero functions, whichever package was imported last."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger, level = rank_zero.log, rank_zero.log.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class Watch(pl.Callback):
    """Records the learning rate of every optimizer step, and weights and training state at every epoch's start."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.losses: list[float] = []
        self.epochs: list[dict[str, Any]] = []

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.epochs.append(
            {
                "weights": weights(pl_module),
                "optimizers": optimizer_states(trainer),
                "schedulers": scheduler_states(trainer),
                "others": {
                    type(c).__name__: copy_state(c.state_dict())
                    for c in trainer.callbacks
                    if isinstance(c, pl.callbacks.EarlyStopping) and "Gate" not in type(c).__name__
                },
            }
        )

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        self.losses.append(float(outputs["loss"]))
