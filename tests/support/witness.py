"""Witnesses: what sees from outside what pruning did to a fit."""

from __future__ import annotations

import copy
import importlib
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from lightning_utilities.core import rank_zero
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lightning_classprune import ClassAwarePruningCallback, FNTolerance
from lightning_classprune.trainer.names import named_parameters
from lightning_classprune.trainer.snapshots import copy_state
from tests.support.compare import assert_same, optimizer_states, scheduler_states, weights
from tests.support.kit import FEATURES, QUIET, pruner

torch.set_num_threads(1)
for _name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning", "lightning_fabric"):
    logging.getLogger(f"{_name}.utilities.rank_zero").setLevel(logging.ERROR)

GUARD_SIZE = 150  # unlike any other batch, so that a judged batch is known by its size


def samples(n: int, seed: int, dtype: torch.dtype = torch.float32) -> TensorDataset:
    """Two classes that a linear layer can tell apart after a few steps."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, FEATURES, generator=generator)
    return TensorDataset(x.to(dtype), (x[:, 0] + x[:, 1] > 0).long())


class Stream(IterableDataset):
    """The same samples without a length, `endless` or once."""

    def __init__(self, n: int, seed: int, endless: bool = False) -> None:
        self.data, self.endless = samples(n, seed), endless

    def __iter__(self) -> Iterable[Any]:
        while True:
            yield from self.data
            if not self.endless:
                return


def train_data(dtype: torch.dtype = torch.float32, **kwargs: Any) -> DataLoader:
    return DataLoader(samples(96, 1, dtype), batch_size=24, **kwargs)


def val_data(dtype: torch.dtype = torch.float32) -> DataLoader:
    return DataLoader(samples(64, 2, dtype), batch_size=32)


def guard_data(dtype: torch.dtype = torch.float32) -> DataLoader:
    return DataLoader(samples(GUARD_SIZE, 3, dtype), batch_size=GUARD_SIZE)


def small_net() -> nn.Sequential:
    torch.manual_seed(11)
    return nn.Sequential(nn.Linear(FEATURES, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 2))


def sgd(module: nn.Module) -> Any:
    return torch.optim.SGD((p for p in module.parameters() if p.requires_grad), lr=0.1, momentum=0.9)


class _Classifier:
    """What a user would have written, before anyone thought of pruning."""

    def __init__(self, net: nn.Module | None = None, optimizers: Callable[[Any], Any] = sgd) -> None:
        super().__init__()
        self.net = small_net() if net is None else net
        self._make_optimizers = optimizers

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("val_loss", loss, add_dataloader_idx=dataloader_idx > 0)

    def configure_optimizers(self) -> Any:
        return self._make_optimizers(self)


class Classifier(_Classifier, L.LightningModule):
    """Of `lightning.pytorch`."""


def classifier_of(package: str) -> type:
    """The same module for another of the two packages."""
    base = importlib.import_module(package).LightningModule
    return type("Classifier", (_Classifier, base), {})


class Witness:
    """A `predict` that keeps what it was asked to judge, and can be told to miss every positive.

    Args:
        refuse: Numbers of the judgements (0 is the dense network) in which all positives are missed.
    """

    def __init__(self, refuse: Sequence[int] = ()) -> None:
        self.refuse = refuse
        self.judged: list[dict[str, Tensor]] = []

    def __call__(self, pl_module: Any, batch: Any) -> tuple[Tensor, Tensor]:
        x, target = batch[0], batch[1]
        scores = pl_module(x)
        if len(target) != GUARD_SIZE:
            return scores, target
        # The first pass over the guard data is the check before training.
        self.judged.append(copy.deepcopy(pl_module.state_dict()))
        if len(self.judged) - 2 in self.refuse:
            scores = torch.nn.functional.one_hot(torch.zeros_like(target), 2).to(scores.dtype)
        return scores, target

    def state_dict(self) -> dict[str, Any]:
        """Nothing: one run may continue that of another witness."""
        return {}

    def state(self, number: int) -> dict[str, Tensor]:
        """The state dict of a judgement, 0 the dense network."""
        return self.judged[number + 1]


class Probe(L.Callback):
    """After every batch: is everything outside the masks zero, have masks only shrunk, is the dtype the same?"""

    def __init__(self, pruning: ClassAwarePruningCallback) -> None:
        self.pruning = pruning
        self.leaks: list[str] = []
        self.revived: list[str] = []
        self.dtypes: list[str] = []
        self.sparse_checks = 0
        self.sparsities: list[float] = []
        self._masks: dict[str, Tensor] = {}
        self._dtype: dict[str, torch.dtype] = {}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        parameters = named_parameters(pl_module)
        self._dtype = self._dtype or {name: p.dtype for name, p in parameters.items()}
        self.dtypes += [name for name, p in parameters.items() if p.dtype != self._dtype[name]]
        for name, mask in self.pruning.masks.items():
            outside = parameters[name].detach()[~mask]
            self.sparse_checks += bool(outside.numel())
            if (outside != 0).any():
                self.leaks.append(f"{name} at step {trainer.global_step}")
            if name in self._masks and (mask & ~self._masks[name]).any():
                self.revived.append(f"{name} at step {trainer.global_step}")
        self._masks = {name: mask.clone() for name, mask in self.pruning.masks.items()}
        self.sparsities.append(self.pruning.sparsity)


@dataclass
class Job:
    """A fit that is over."""

    module: Any
    trainer: Any
    pruning: ClassAwarePruningCallback
    witness: Witness
    probe: Probe

    @property
    def verdicts(self) -> list[str]:
        return [row["verdict"] for row in self.pruning.ledger]


def pruning_callback(witness: Any = None, **options: Any) -> ClassAwarePruningCallback:
    """Two rounds, to half and to a quarter of the weights; only a missed half of the positives is refused."""
    defaults = {"protect": {1: FNTolerance(rate=0.5)}, "guard_dataloader": guard_data, "predict": witness}
    if options.get("search", "fixed") == "fixed":
        defaults["fraction"] = 0.5
    return pruner(**(defaults | options))


def watched_fit(
    module: Any = None,
    *data: Any,
    callbacks: Sequence[Any] = (),
    settings: dict[str, Any] | None = None,
    refuse: Sequence[int] = (),
    datamodule: Any = None,
    expect: Any = None,
    **trainer: Any,
) -> Job:
    """Fit a module with the pruning callback beside others.

    Args:
        module: A small classifier by default.
        *data: Training and validation loaders; defaults where none are given.
        callbacks: Beside the pruning callback.
        settings: Of the pruning callback, named flat.
        refuse: See `Witness`.
        datamodule: Instead of loaders.
        expect: An exception type that the fit must raise.
        **trainer: Arguments of the Trainer; two epochs on the CPU by default.
    """
    module = Classifier() if module is None else module
    witness = Witness(refuse)
    pruning = pruning_callback(**({"witness": witness} | (settings or {})))
    probe = Probe(pruning)
    checkpoints = any(isinstance(c, L.callbacks.Checkpoint) for c in callbacks)
    kwargs = QUIET | {"max_epochs": 2, "enable_checkpointing": checkpoints} | trainer
    job = Job(module, L.Trainer(callbacks=[*callbacks, pruning, probe], **kwargs), pruning, witness, probe)
    data = (
        {"datamodule": datamodule}
        if datamodule
        else dict(
            zip(("train_dataloaders", "val_dataloaders"), data or (train_data(), val_data()), strict=False)
        )
    )
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*(bottleneck|treespec|logging interval|does not have many).*"
        )
        if expect is None:
            job.trainer.fit(module, **data)
        else:
            with pytest.raises(expect):
                job.trainer.fit(module, **data)
    return job


def share_of_zeros(job: Job, state: dict[str, Tensor] | None = None) -> float:
    """Counted in the weights themselves, over what the masks cover."""
    state = dict(job.module.state_dict()) if state is None else state
    covered = [state[name] for name in job.pruning.masks]
    return sum(int((w == 0).sum()) for w in covered) / sum(w.numel() for w in covered)


def assert_pruned(job: Job, verdicts: Sequence[str] = ("baseline", "accepted", "accepted")) -> None:
    """The promises that hold in any job: nothing leaks, masks shrink, verdicts stand, what was judged is delivered."""
    assert job.verdicts == list(verdicts), [row["reason"] for row in job.pruning.ledger]
    probe = job.probe
    assert probe.sparse_checks > 0
    assert not probe.leaks
    assert not probe.dtypes
    if "refused" not in verdicts:
        assert not probe.revived
    last = max(i for i, v in enumerate(job.verdicts) if v in ("baseline", "accepted"))
    rows = [row for row in job.pruning.ledger if row["verdict"] in ("baseline", "accepted")]
    sparsities = [row["sparsity"] for row in rows]
    assert sparsities == sorted(set(sparsities))
    assert job.pruning.sparsity == rows[-1]["sparsity"]
    assert len(job.witness.judged) == len(job.pruning.ledger) + 1
    assert_same(plain_state(job.module), plain_state(job.witness.state(last)))
    assert share_of_zeros(job, plain_state(job.module)) == pytest.approx(job.pruning.sparsity, abs=1e-9)
    assert_untouched(job)


def plain_state(module: Any) -> dict[str, Tensor]:
    """A state dict without what compiling puts into names."""
    state = module if isinstance(module, dict) else module.state_dict()
    return {name.replace("_orig_mod.", ""): tensor for name, tensor in state.items()}


def assert_untouched(job: Job) -> None:
    """The trainer has its own callbacks, and no hook of ours is left anywhere."""
    names = [type(c).__name__ for c in job.trainer.callbacks]
    assert not {"Gate", "Seal"} & set(names)
    assert all(not optimizer._optimizer_step_post_hooks for optimizer in job.trainer.optimizers)
    assert all(not getattr(p, "_post_accumulate_grad_hooks", None) for p in job.module.parameters())


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


class Watch(L.Callback):
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
                    if isinstance(c, L.callbacks.EarlyStopping) and "Gate" not in type(c).__name__
                },
            }
        )

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        self.losses.append(float(outputs["loss"]))


class Keep(L.callbacks.Checkpoint):
    """Saves a checkpoint where ModelCheckpoint would, and never removes one."""

    def __init__(self, folder: Path, at: str) -> None:
        self.folder, self.at = folder, at
        self.files: list[str] = []

    def save(self, made: Any) -> None:
        if not made.sanity_checking and made.state.fn == "fit":
            self.files.append(str(self.folder / f"{len(self.files):02d}.ckpt"))
            made.save_checkpoint(self.files[-1])

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if self.at == "epoch end":
            self.save(trainer)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if self.at == "validation end":
            self.save(trainer)
