"""Loaders: which samples a user's DataLoader visits, and one like it that visits others."""

from __future__ import annotations

from typing import Any

from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

from lightning_classprune.trainer.randomness import loader_generators, untouched_randomness


def batch_size(loader: DataLoader[Any]) -> int | None:
    """Items of the data set a batch; None if an item is a whole batch."""
    if loader.batch_size is not None:
        return loader.batch_size
    return getattr(loader.batch_sampler, "batch_size", None) or (
        1 if loader.batch_sampler is not None else None
    )


def visited_indices(loader: DataLoader[Any]) -> tuple[list[int], str]:
    """The data-set indices that the loader may visit, each once, sorted; and the sampler's name if it repeats some."""
    with untouched_randomness(loader_generators([loader])):
        return _visited(loader)


def has_own_sampler(loader: DataLoader[Any]) -> bool:
    """Whether only the user's own sampler knows what is visited: it may have a state, or no end."""
    own_batches = loader.batch_sampler is not None and type(loader.batch_sampler) is not BatchSampler
    sampler: Any = getattr(loader.batch_sampler, "sampler", loader.sampler)
    if isinstance(sampler, DistributedSampler):
        sampler = getattr(sampler.dataset, "_sampler", sampler)
    known = (SequentialSampler, RandomSampler, SubsetRandomSampler, WeightedRandomSampler, DistributedSampler)
    return own_batches or type(sampler) not in known


def is_stream(loader: Any) -> bool:
    """Whether nobody but the loader itself knows its samples, and their order."""
    return not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset)


def _visited(loader: DataLoader[Any]) -> tuple[list[int], str]:
    sampler: Any = loader.sampler
    if loader.batch_sampler is not None:
        # A batch sampler of the user's leaves the loader with a sampler that nobody asks.
        own = getattr(loader.batch_sampler, "sampler", None)
        sampler = own if own is not None else [i for batch in loader.batch_sampler for i in batch]
    if isinstance(sampler, DistributedSampler):
        # Lightning wraps a custom sampler as the "data set" of its distributed one.
        inner = getattr(sampler.dataset, "_sampler", None)
        sampler = inner if inner is not None else range(len(sampler.dataset))  # type: ignore[arg-type]
    kind, replaces = type(sampler).__name__, bool(getattr(sampler, "replacement", False))
    if isinstance(sampler, WeightedRandomSampler):
        replaces, sampler = True, range(len(sampler.weights))
    elif isinstance(sampler, SequentialSampler | RandomSampler):
        sampler = range(len(sampler.data_source))
    elif isinstance(sampler, SubsetRandomSampler):
        sampler = sampler.indices
    visited = list(sampler)
    repeats = replaces or len(set(visited)) < len(visited)
    return sorted(set(visited)), kind if repeats else ""


def rebuilt(loader: DataLoader[Any], indices: list[int]) -> DataLoader[Any]:
    """A loader over the same data set that visits these samples in this order.

    Its workers live for one pass: those that persist go on drawing where they were, and every pass is to see the same.
    """
    return DataLoader(
        loader.dataset,
        batch_size=batch_size(loader),
        sampler=indices,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        timeout=loader.timeout,
    )
