"""Guard data: where it comes from, and a loader that gives every process its own samples exactly once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import torch
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SequentialSampler
from torch.utils.data.distributed import DistributedSampler

Source = Literal["argument", "datamodule", "validation"]


@dataclass(frozen=True)
class GuardData:
    """The guard split as one process reads it.

    Attributes:
        loaders: Each with the positions of its samples in the whole split, or None where the order is the loader's.
        source: Where it came from.
    """

    loaders: list[tuple[Iterable[Any], list[int] | None]]
    source: Source

    def batches(self, limit: int | None = None) -> Iterator[Any]:
        """All batches of this process, at most `limit`."""
        return islice((batch for loader, _ in self.loaders for batch in loader), limit)

    def positions(self) -> list[int] | None:
        """Positions of this process' samples in the order of `batches`; None if any loader has no fixed order."""
        if any(positions is None for _, positions in self.loaders):
            return None
        return [p for _, positions in self.loaders for p in positions or ()]


def find_guard_loaders(trainer: Any, argument: Any) -> tuple[list[Any], Source] | None:
    """The user's guard loaders: the argument, else the datamodule's `guard_dataloader()`, else validation."""
    if argument is not None:
        return _flatten(argument() if callable(argument) else argument), "argument"
    from_datamodule = getattr(trainer.datamodule, "guard_dataloader", None)
    if callable(from_datamodule):
        return _flatten(from_datamodule()), "datamodule"
    if trainer.limit_val_batches == 0:
        return None
    # What Lightning already holds is preferred: asking the user's code again could draw another random split.
    loop = trainer.fit_loop.epoch_loop.val_loop
    if loop._combined_loader is not None:
        return list(loop._combined_loader.flattened), "validation"
    if not loop._data_source.is_defined():
        return None
    loaders = loop._data_source.dataloader()
    return (_flatten(loaders), "validation") if loaders is not None else None


def shard_guard_data(loaders: Sequence[Any], source: Source, rank: int, world_size: int) -> GuardData:
    """Loaders that together, over all ranks, yield every sample once, in an order that does not change.

    A `DataLoader` over a map-style data set is rebuilt without shuffling, padding and dropping: samplers that
    shuffle, repeat for even shards, or drop the last batch would judge another set each time.

    Raises:
        ValueError: A loader that cannot be counted exactly; names `guard_dataloader`.
    """
    sharded: list[tuple[Iterable[Any], list[int] | None]] = []
    offset = 0
    for loader in loaders:
        if isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset):
            indices = _indices(loader)
            mine = indices[rank::world_size]
            positions = list(range(offset + rank, offset + len(indices), world_size))
            offset += len(indices)
            # A data set of whole batches has no fixed number of samples per index.
            sharded.append((_rebuild(loader, mine), positions if _batch_size(loader) else None))
        elif world_size > 1:
            raise ValueError(
                f"guard_dataloader: a {type(loader).__name__} over an iterable data set cannot be counted exactly "
                f"once on {world_size} processes; pass a DataLoader over a map-style data set"
            )
        else:
            sharded.append((loader, None))
    return GuardData(sharded, source)


def _flatten(loaders: Any) -> list[Any]:
    if isinstance(loaders, Mapping):
        return [leaf for value in loaders.values() for leaf in _flatten(value)]
    if hasattr(loaders, "flattened"):
        return list(loaders.flattened)
    if isinstance(loaders, Sequence) and all(isinstance(item, DataLoader) for item in loaders):
        return list(loaders)
    return [loaders]


def _batch_size(loader: DataLoader[Any]) -> int | None:
    if loader.batch_size is not None:
        return loader.batch_size
    return getattr(loader.batch_sampler, "batch_size", None) or (
        1 if loader.batch_sampler is not None else None
    )


def _indices(loader: DataLoader[Any]) -> list[int]:
    """The data-set indices that the loader would visit, each once, sorted."""
    sampler: Any = loader.sampler
    if loader.batch_sampler is not None and type(loader.batch_sampler).__name__ != "BatchSampler":
        own = getattr(loader.batch_sampler, "sampler", None)
        sampler = own if own is not None else [i for batch in loader.batch_sampler for i in batch]
    if isinstance(sampler, DistributedSampler):
        # Lightning wraps a custom sampler as the "data set" of its distributed one.
        inner = getattr(sampler.dataset, "_sampler", None)
        sampler = inner if inner is not None else range(len(sampler.dataset))  # type: ignore[arg-type]
    if isinstance(sampler, SequentialSampler) or (
        isinstance(sampler, RandomSampler) and not sampler.replacement
    ):
        sampler = range(len(sampler.data_source))  # type: ignore[arg-type]
    visited = list(sampler)
    if len(set(visited)) < len(visited):
        raise ValueError(
            f"guard_dataloader: its {type(sampler).__name__} visits samples more than once; every guard case must be "
            "judged exactly once, so pass a loader without replacement or weights"
        )
    return sorted(visited)


def _rebuild(loader: DataLoader[Any], indices: list[int]) -> DataLoader[Any]:
    return DataLoader(
        loader.dataset,
        batch_size=_batch_size(loader),
        sampler=indices,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        timeout=loader.timeout,
    )


Predict = Callable[[Any, Any], tuple[torch.Tensor, torch.Tensor]]


def default_predict(pl_module: Any, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """`(pl_module(batch[0]), batch[1])`: batches of (input, target) and a `forward` that returns scores."""
    return pl_module(batch[0]), batch[1]
