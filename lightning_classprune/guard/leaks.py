"""Leaks: cases that the guard has twice, or that training or the choosing validation data have too.

Identity is told through `Subset` and `ConcatDataset` down to the data set that holds the sample; content by a hash of
its input tensors; units are told by the ids that `predict` gives. All guard samples are read once for that, and of
other data at most `MOST_READ`: enough to find that a part of the guard is in them, whatever their size.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Subset

from lightning_classprune.guard import units
from lightning_classprune.guard.data import GuardData, shard_guard_data
from lightning_classprune.guard.evaluation import evaluate
from lightning_classprune.guard.task import Columns
from lightning_classprune.trainer.batches import parts
from lightning_classprune.trainer.forward import Predict
from lightning_classprune.trainer.loaders import has_own_sampler, is_stream, rebuilt, visited_indices
from lightning_classprune.trainer.processes import Processes
from lightning_classprune.trainer.randomness import untouched_randomness

#: Samples of other data that are compared by content.
MOST_READ = 2000
#: Up to this share of equal samples is chance where inputs are few discrete numbers; it is said, not refused.
BY_CHANCE = 0.01
#: Bytes of a sample that are hashed.
_HASHED = 1 << 20

Place = tuple[int, int]


def place(dataset: Any, index: int) -> Place:
    """Where a sample lies: the identity of the data set that holds it, and its index there."""
    while True:
        if isinstance(dataset, Subset):
            dataset, index = dataset.dataset, int(dataset.indices[index])
        elif isinstance(dataset, ConcatDataset):
            part = bisect_right(dataset.cumulative_sizes, index)
            before = dataset.cumulative_sizes[part - 1] if part else 0
            dataset, index = dataset.datasets[part], index - before
        else:
            return id(dataset), index


def places(loader: Any, *, asking: bool = True) -> list[Place] | None:
    """The places of all samples that a loader may visit; None for a stream, which has none.

    Args:
        loader: The user's.
        asking: Ask a sampler of the user's own; otherwise None for such a loader too.
    """
    if is_stream(loader) or (has_own_sampler(loader) and not asking):
        return None
    return [place(loader.dataset, index) for index in visited_indices(loader)[0]]


def digests(batch: Any) -> list[bytes]:
    """A hash of every sample of a batch, over its input tensors: those with the most numbers a sample.

    Where targets are a list of a dict a sample, as detectors have them, inputs may be a list of a tensor a sample.
    """
    count = _listed(batch)
    if count is not None:
        pictures = [one for one in _fields(batch) if _is_a_list_of(Tensor, one) and len(one) == count]
        if pictures:
            return [_hash(tensors) for tensors in zip(*pictures, strict=True)]
    tensors = list(_tensors(batch))
    size = count if count is not None else max((len(tensor) for tensor in tensors), default=0)
    tensors = [tensor for tensor in tensors if len(tensor) == size]
    largest = max((tensor[0].numel() for tensor in tensors), default=0) if size else 0
    inputs = [tensor for tensor in tensors if tensor[0].numel() == largest]
    if not inputs:
        return []
    rows = [
        tensor.detach().cpu().contiguous().reshape(size, -1).view(torch.uint8).numpy() for tensor in inputs
    ]
    return [
        hashlib.blake2b(b"".join(row[i, :_HASHED].tobytes() for row in rows), digest_size=16).digest()
        for i in range(size)
    ]


def _hash(tensors: Iterable[Tensor]) -> bytes:
    found = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        found.update(
            tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()[:_HASHED].tobytes()
        )
    return found.digest()


def _fields(batch: Any) -> list[Any]:
    if isinstance(batch, Mapping):
        return list(batch.values())
    return list(batch) if isinstance(batch, Sequence) and not isinstance(batch, str | bytes) else []


def _is_a_list_of(kind: type, value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(one, kind) for one in value)


def _listed(batch: Any) -> int | None:
    """How many samples a batch has whose targets are a list of dicts; None for others."""
    return next((len(one) for one in _fields(batch) if _is_a_list_of(Mapping, one)), None)


def _tensors(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        if batch.ndim and batch.dtype != torch.bool:
            yield batch
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from _tensors(value)
    elif named := parts(batch):
        yield from _tensors(named)
    elif (
        isinstance(batch, Sequence)
        and not isinstance(batch, str | bytes)
        and not _is_a_list_of(Mapping, batch)
    ):
        for value in batch:
            yield from _tensors(value)


def read(loaders: Iterable[Any], processes: Processes, most: int | None) -> list[bytes]:
    """Hashes of the samples of loaders, of all processes together, at most about `most` of them.

    Of a stream the first samples; of a data set samples at equal distances. Every process reads its share.
    """
    found: list[bytes] = []
    share = None if most is None else -(-most // processes.world_size)
    with untouched_randomness():
        for loader in loaders:
            for batch in _some(loader, processes, most):
                found += digests(batch)
                if share is not None and len(found) >= share:
                    break
    return [one for of_rank in processes.gather_objects(found[:share]) for one in of_rank]


def _some(loader: Any, processes: Processes, most: int | None) -> Iterator[Any]:
    if most is None or is_stream(loader):
        yield from loader
        return
    indices = list(range(len(loader.dataset))) if has_own_sampler(loader) else visited_indices(loader)[0]
    step = max(1, len(indices) // most)
    yield from rebuilt(loader, indices[::step][:most][processes.rank :: processes.world_size])


def check_guard(data: GuardData, processes: Processes) -> set[bytes]:
    """Refuse a guard that has a sample twice, warn of equal ones; returns the hashes of its samples.

    Args:
        data: This process' share of the guard data.
        processes: The processes that share the guard data.

    Raises:
        MisconfigurationException: A sample of a data set is visited twice: it would count as two cases.
    """
    known = [found for loader in data.loaders if (found := places(loader)) is not None]
    twice = [one for one, count in Counter(p for found in known for p in found).items() if count > 1]
    if twice:
        raise MisconfigurationException(
            f"guard_dataloader: {len(twice)} samples are in it more than once (for example index {twice[0][1]} of one "
            "data set), and every case counts once; pass each loader or subset once"
        )
    contents = read([share.loader for share in data.shares], processes, None)
    if not contents:
        rank_zero_warn(
            "guard_dataloader: no tensors are found in its batches, so that copies of samples in it and in training "
            "data are not found either; give batches as tuples, mappings or dataclasses of tensors"
        )
    # Padding of uneven shares repeats samples that another process counts.
    equal = len(contents) - len(set(contents))
    if processes.world_size == 1 and equal:
        rank_zero_warn(
            f"guard_dataloader: {equal} of {len(contents)} samples equal another one bit for bit; cases must be "
            "independent, so remove copies, or the verdict's error level does not hold"
        )
    return set(contents)


def check_apart(
    data: GuardData, contents: set[bytes], others: Sequence[Any], what: str, mend: str, processes: Processes
) -> None:
    """Refuse other data that share samples with the guard.

    Args:
        data: The guard data.
        contents: Hashes of its samples.
        others: Loaders of the other data.
        what: Their samples are called.
        mend: What to do.
        processes: Of the job.

    Raises:
        MisconfigurationException: Samples are in both, by identity, or more by content than chance explains.
    """
    mine = {p for loader in data.loaders for p in places(loader) or ()}
    theirs = [places(loader, asking=False) for loader in others]
    both = {p for found in theirs for p in found or ()} & mine
    if both:
        raise MisconfigurationException(f"{len(both)} guard samples are {what} too: {mend}")
    bases = {base for base, _ in mine}
    # Parts of one data set are told apart by their places, for nothing; where nobody can tell them, not at all. A
    # stream is not looked at: it may end with that.
    foreign = [
        loader
        for loader, found in zip(others, theirs, strict=True)
        if not is_stream(loader) and not (_bases(loader) if found is None else {b for b, _ in found}) <= bases
    ]
    seen = read(foreign, processes, MOST_READ)
    equal = sum(one in contents for one in seen)
    if equal > BY_CHANCE * len(seen) and equal:
        raise MisconfigurationException(
            f"{equal} of {len(seen)} {what} that were looked at equal a guard sample bit for bit: {mend}"
        )
    if equal:
        rank_zero_warn(
            f"{equal} of {len(seen)} {what} that were looked at equal a guard sample bit for bit; with few discrete "
            "inputs that may be chance"
        )


def check_units_apart(
    trainer: Any,
    module: Any,
    ids: Tensor,
    others: Sequence[Any],
    what: str,
    mend: str,
    predict: Predict,
    processes: Processes,
) -> None:
    """Refuse other data of the guard's own units: samples of one patient are no independent cases of each other.

    Args:
        trainer: The running trainer.
        module: The network; what it says does not matter.
        ids: `(n, 2)` of the guard.
        others: Loaders of the other data, of which at most `MOST_READ` samples are read, at equal distances.
        what: Their samples are called.
        mend: What to do.
        predict: Gives the ids.
        processes: Of the job.

    Raises:
        MisconfigurationException: A unit is in both, or the ids are of another type.
    """
    known = [loader for loader in others if not is_stream(loader)]
    if len(known) < len(others):
        rank_zero_warn(
            f"whether {what} of a stream are of the guard's units is not looked at: it may end with that"
        )
    try:
        data = shard_guard_data(
            [_at_distances(loader) for loader in known], "argument", processes.rank, processes.world_size
        )
        columns = evaluate(trainer, module, data, predict, _Ids(), processes)  # type: ignore[arg-type]
    except Exception as error:
        rank_zero_warn(
            f"whether {what} are of the guard's units is not known: predict cannot read them ({type(error).__name__}: "
            f"{error})"
        )
        return
    theirs = columns[0] if columns else torch.zeros(0, 2, dtype=torch.int64)
    if not len(theirs) or bool((theirs[:, 1] == units.NONE).any()):
        if known:
            rank_zero_warn(
                f"whether {what} are of the guard's units is not known: predict gives no case ids of them"
            )
        return
    if wrong := units.wrong_ids(torch.cat([ids[:, 1], theirs[:, 1]])):
        raise MisconfigurationException(f"guard data and {what}: {wrong}")
    both = set(ids[:, 0].tolist()) & set(theirs[:, 0].tolist())
    if both:
        raise MisconfigurationException(
            f"{len(both)} units of the guard hold {what} too, by the case ids of predict; their samples are no "
            f"independent cases of each other: {mend}"
        )


def _at_distances(loader: DataLoader[Any]) -> DataLoader[Any]:
    indices = list(range(len(loader.dataset))) if has_own_sampler(loader) else visited_indices(loader)[0]  # type: ignore[arg-type]
    return rebuilt(loader, indices[:: -(-len(indices) // MOST_READ) or 1])


class _Ids:
    """Of the task all that units are told by."""

    def columns(self, scores: Any, target: Any, case: Any = None) -> Columns:
        return (units.read_ids(case, len(target)),)


def _bases(loader: DataLoader[Any]) -> set[int]:
    """The data sets that hold the samples of a loader, by identity."""
    return {place(loader.dataset, index)[0] for index in range(len(loader.dataset))}  # type: ignore[arg-type]
