"""Validation recall: recall of the protected classes at every validation, with the support that it rests on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import nan
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor
from torch.utils.data.distributed import DistributedSampler

from lightning_classprune.guard.classification import ClassesOrLabels
from lightning_classprune.guard.task import NaNScoresError, OfUnits, Task
from lightning_classprune.trainer.forward import Predict, default_predict, prepare, scores_and_target
from lightning_classprune.trainer.processes import Processes
from lightning_classprune.trainer.randomness import untouched_randomness
from lightning_classprune.trainer.versions import FSDPModule

RECALL = "classprune/recall/"  # + class name
#: So many scores wait on their device to be counted together, for counting waits for the device.
WAITING = 1 << 20


def recalls(metrics: Mapping[str, float]) -> dict[str, float]:
    """Recall by class, from all that is logged."""
    return {name.removeprefix(RECALL): value for name, value in metrics.items() if name.startswith(RECALL)}


class ValidationRecall:
    """Counts over the validation batches of one pass.

    Args:
        names: The protected classes.
        task: What a decision is.
        predict: `(pl_module, batch) -> (scores, target)`.
    """

    def __init__(self, names: Sequence[str], task: Task, predict: Predict) -> None:
        self._names = names
        self._task = task
        self._predict = predict
        self._blind = False  # of all processes
        self._heard: Heard | None = None
        self.reset()

    def reset(self) -> None:
        """Start a pass."""
        self._counts = torch.zeros(len(self._names), 2, dtype=torch.int64)  # missed, support
        self._seen: dict[int, int] = {}
        self._diverged = False
        self._failed = False  # of this one, in this pass
        self._waiting: list[tuple[Tensor, Tensor, Tensor]] = []  # scores, targets, which are no padding
        self.forget()

    # -- one forward pass for validation and for recall --

    def listen(self, pl_module: Any) -> None:
        """A validation step begins: what the network says in it is heard, where it is asked as `predict` would ask.

        Not of a compiled or a sharded module, of whose forward passes a hook would be a part.
        """
        self.forget()
        plain = getattr(pl_module, "_compiler_ctx", None) is None and not isinstance(pl_module, FSDPModule)
        if self._predict is default_predict and not self._blind and plain:
            self._heard = Heard(pl_module)

    def forget(self) -> None:
        """Hear no more; the module is left as it was."""
        if self._heard is not None:
            self._heard.handle.remove()
            self._heard = None

    def begin(self, trainer: Any, pl_module: Any) -> None:
        """Start a pass of a network."""
        self.reset()
        if self._blind:
            return
        try:
            prepare(self._predict, trainer, pl_module, Processes(trainer.global_rank, trainer.world_size))
        except Exception as error:
            self._fail(error)

    def add(self, trainer: Any, pl_module: Any, batch: Any, dataloader_idx: int) -> None:
        """Count one batch, which is on the device already; samples that only pad the shards are left out."""
        asked = pl_module if self._heard is None else self._heard
        try:
            self._add(trainer, asked, batch, dataloader_idx)
        finally:
            self.forget()

    def _add(self, trainer: Any, asked: Any, batch: Any, dataloader_idx: int) -> None:
        if self._blind or (self._failed and trainer.world_size == 1):
            return
        try:
            with torch.no_grad(), untouched_randomness(), trainer.precision_plugin.forward_context():
                returned = self._predict(asked, batch)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:
            self._fail(error)
            return
        if self._failed:
            return
        try:
            returned = scores_and_target(returned)
        except ValueError as error:
            raise MisconfigurationException(str(error)) from error
        if not self._can_wait(returned):
            self._count(returned, lambda size: self._real(trainer, dataloader_idx, size))
            return
        scores, target = returned
        if self._waiting and not _alike(self._waiting[-1][:2], (scores, target)):
            self.count()
        # Copies, for who made them may write over them in the next batch.
        real = self._real(trainer, dataloader_idx, len(target))
        self._waiting.append((scores.detach().clone(), target.clone(), real))
        if sum(waiting[0].numel() for waiting in self._waiting) > WAITING:
            self.count()

    def _can_wait(self, returned: tuple[Any, ...]) -> bool:
        """Whether a batch's scores and targets can be counted with those of other batches: one row a sample."""
        tensors = len(returned) == 2 and all(isinstance(one, Tensor) and one.ndim for one in returned)
        return tensors and len(returned[0]) == len(returned[1]) and isinstance(self._task, ClassesOrLabels)

    def count(self) -> None:
        """Count what waits.

        Raises:
            MisconfigurationException: Scores or targets make no sense.
        """
        if self._waiting:
            scores, target, real = (torch.cat(parts) for parts in zip(*self._waiting, strict=True))
            self._waiting = []
            self._count((scores, target), lambda _: real)

    def _count(self, returned: tuple[Any, ...], real_of: Callable[[int], Tensor]) -> None:
        try:
            columns = self._task.columns(*returned)
        except NaNScoresError:
            self._diverged = True  # a matter for the verdict, not for validation
            return
        except ValueError as error:
            raise MisconfigurationException(str(error)) from error
        rows = self._task.samples(columns) if isinstance(self._task, OfUnits) else None
        real = real_of(len(columns[0]) if rows is None else int(rows.max()) + 1 if len(rows) else 0)
        if rows is not None:
            real = real[rows]
        columns = tuple(column.cpu()[real] for column in columns)
        if rows is not None and isinstance(self._task, OfUnits):
            columns = self._task.numbered(columns, rows[real])
        outcomes = self._task.outcomes(columns, {})
        for count, name in zip(self._counts, self._names, strict=True):
            misses, _ = outcomes.pairs(outcomes, name)
            count += torch.tensor(
                misses.cases
            )  # of all objects: what is drawn of a unit is the guard's matter

    def metrics(self, trainer: Any) -> dict[str, float]:
        """Recall, false negatives and support by class over all ranks; no recall for a class without samples.

        All NaN where scores were: what was counted then means nothing.
        """
        if trainer.strategy.reduce_boolean_decision(self._blind or self._failed, all=False):
            if not (self._blind or self._failed):
                rank_zero_warn(
                    "recall is not logged: predict cannot read another process' validation batches"
                )
            self._blind = True
            return {}
        self.count()
        diverged = trainer.strategy.reduce_boolean_decision(self._diverged, all=False)
        counts = trainer.strategy.reduce(self._counts.to(trainer.strategy.root_device), reduce_op="sum").cpu()
        logged: dict[str, float] = {}
        for name, (missed, support) in zip(self._names, counts.tolist(), strict=True):
            if diverged:
                logged |= {
                    f"classprune/fn/{name}": nan,
                    f"classprune/support/{name}": nan,
                    RECALL + name: nan,
                }
                continue
            logged |= {f"classprune/fn/{name}": float(missed), f"classprune/support/{name}": float(support)}
            if support:
                logged[RECALL + name] = (support - missed) / support
        return logged

    def _fail(self, error: Exception) -> None:
        # The guard's batches are what `predict` is for, and they are checked before training; these may be unlike them.
        # The pass goes on: a sharded model's next forward pass waits for this process.
        if self._failed:
            return
        self._failed = True
        rank_zero_warn(
            f"recall is not logged: predict cannot read the validation batches ({type(error).__name__}: {error})"
        )

    def _real(self, trainer: Any, dataloader_idx: int, size: int) -> Tensor:
        start = self._seen.get(dataloader_idx, 0)
        self._seen[dataloader_idx] = start + size
        sampler = getattr(_loaders(trainer)[dataloader_idx], "sampler", None)
        if not isinstance(sampler, DistributedSampler):
            return torch.ones(size, dtype=torch.bool)
        # The sampler repeats samples until all shards are even; the k-th of rank r is real iff it is within the set.
        places = torch.arange(start, start + size) * sampler.num_replicas + sampler.rank
        size_of_set = len(sampler.dataset)  # type: ignore[arg-type]
        return torch.lt(places, size_of_set)


class Heard:
    """Stands for a module that was asked already: gives what it said of this very input, and asks it of any other.

    Args:
        module: Whose forward passes are heard from here on.
    """

    def __init__(self, module: Any) -> None:
        self._module = module
        self._said: list[tuple[Any, int, Any, int]] = []  # input and output, with their versions
        self.handle = module.register_forward_hook(self._hear)

    def _hear(self, module: Any, inputs: tuple[Any, ...], output: Any) -> None:
        if len(inputs) == 1 and all(isinstance(one, Tensor) for one in (*inputs, output)):
            self._said.append((inputs[0], inputs[0]._version, output, output._version))

    def __call__(self, x: Any) -> Any:
        """What the module says of an input."""
        self.handle.remove()
        for asked, before, output, then in self._said:
            if asked is x and (x._version, output._version) == (before, then):
                return output
        return self._module(x)


def _alike(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> bool:
    """Whether two batches may be one: of the same kinds, shapes but for their length, and places."""
    pairs = zip(one, other, strict=True)
    return all((a.dtype, a.shape[1:], a.device) == (b.dtype, b.shape[1:], b.device) for a, b in pairs)


def _loaders(trainer: Any) -> list[Any]:
    loop = trainer.fit_loop.epoch_loop.val_loop
    return list(loop._combined_loader.flattened)
