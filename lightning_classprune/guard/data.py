"""Guard data: where it comes from, and a loader that gives every process its own samples exactly once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, TypeAlias

from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch.utils.data import (
    DataLoader,
    IterableDataset,
)

from lightning_classprune.guard.task import Outcomes
from lightning_classprune.trainer.compatibility import warn_of_selection
from lightning_classprune.trainer.loaders import batch_size, rebuilt, visited_indices
from lightning_classprune.trainer.processes import Processes
from lightning_classprune.trainer.randomness import untouched_randomness

Source = Literal["argument", "datamodule", "validation"]


#: Where the samples of a batch stand in the split: one place each, one place for a whole batch, or None for "next".
Places: TypeAlias = list[int] | int | None
PADDING = -1


@dataclass(frozen=True)
class Share:
    """What one process reads of one guard loader.

    Attributes:
        loader: Yields the batches.
        positions: Place in the split of each item of the data set, `PADDING` for one that another process counts;
            None where one process reads everything in the loader's own order.
        batch_size: Items a batch; None if an item is a whole batch.
    """

    loader: Iterable[Any]
    positions: list[int] | None = None
    batch_size: int | None = None

    def batches(self) -> Iterator[tuple[Any, Places]]:
        """Batches with the places of their samples."""
        for i, batch in enumerate(self.loader):
            if self.positions is None:
                yield batch, None
            elif self.batch_size is None:
                yield batch, self.positions[i]
            else:
                yield batch, self.positions[i * self.batch_size : (i + 1) * self.batch_size]


@dataclass(frozen=True)
class GuardData:
    """The guard split as one process reads it.

    Attributes:
        shares: One a loader.
        source: Where it came from.
        loaders: The user's own.
    """

    shares: list[Share]
    source: Source
    loaders: Sequence[Any]

    def batches(self, limit: int | None = None) -> Iterator[tuple[Any, Places]]:
        """All batches of this process, at most `limit`."""
        return islice((pair for share in self.shares for pair in share.batches()), limit)


@untouched_randomness()
def find_guard_loaders(trainer: Any, argument: Any) -> tuple[list[Any], Source] | None:
    """The user's guard loaders: the argument, else the datamodule's `guard_dataloader()`, else validation."""
    if argument is not None:
        return _flatten(argument() if callable(argument) else argument), "argument"
    from_datamodule = getattr(trainer.datamodule, "guard_dataloader", None)
    if callable(from_datamodule):
        return _flatten(from_datamodule()), "datamodule"
    loaders = find_validation_loaders(trainer)
    return None if loaders is None else (loaders, "validation")


@untouched_randomness()
def find_validation_loaders(trainer: Any) -> list[Any] | None:
    """The trainer's validation loaders, if it has any."""
    if trainer.limit_val_batches == 0:
        return None
    # What Lightning already holds is preferred: asking the user's code again could draw another random split.
    loop = trainer.fit_loop.epoch_loop.val_loop
    if loop._combined_loader is not None:
        return _ending(loop._combined_loader.flattened, trainer.limit_val_batches)
    if not loop._data_source.is_defined():
        return None
    loaders = loop._data_source.dataloader()
    if loaders is None:
        return None
    return _ending(_flatten(loaders), trainer.limit_val_batches)


@dataclass(frozen=True)
class FirstBatches:
    """A stream up to the batch at which the user ends validation; it may have no end of its own."""

    loader: Any
    limit: int

    @property
    def dataset(self) -> Any:
        """The stream's data set."""
        return getattr(self.loader, "dataset", self.loader)

    def __iter__(self) -> Iterator[Any]:
        return islice(self.loader, self.limit)


def _ending(loaders: Sequence[Any], limit: int | float) -> list[Any]:
    """Loaders of which every one ends: a data set is read in full, a stream as far as validation reads it."""
    if not isinstance(limit, int):
        return list(loaders)
    streams = [isinstance(getattr(loader, "dataset", None), IterableDataset) for loader in loaders]
    pairs = zip(loaders, streams, strict=True)
    return [FirstBatches(loader, limit) if stream else loader for loader, stream in pairs]


def is_validation_data(trainer: Any, loaders: Sequence[Any]) -> bool:
    """Whether a guard loader reads the very data set that a validation loader reads."""
    combined = trainer.fit_loop.epoch_loop.val_loop._combined_loader
    if combined is None:
        return False
    validation = [getattr(loader, "dataset", loader) for loader in combined.flattened]
    return any(getattr(loader, "dataset", loader) is data for loader in loaders for data in validation)


def shard_guard_data(loaders: Sequence[Any], source: Source, rank: int, world_size: int) -> GuardData:
    """Loaders that together, over all ranks, yield every sample once, in an order that does not change.

    A `DataLoader` over a map-style data set is rebuilt without shuffling, repeating and dropping: samplers that
    shuffle, repeat for even shards, or drop the last batch would judge another set each time. Shares are padded to
    the same number of batches, for the forward pass of a sharded model waits for all processes; padding is not counted.

    Raises:
        ValueError: A loader that cannot be counted exactly; names `guard_dataloader`.
    """
    shares: list[Share] = []
    offset = 0
    for loader in loaders:
        if isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset):
            indices, repeating = visited_indices(loader)
            if repeating:
                raise ValueError(
                    f"guard_dataloader: its {repeating} may visit samples more than once; every guard case must be "
                    "judged exactly once, so pass a loader without replacement or weights"
                )
            if world_size == 1:
                shares.append(Share(rebuilt(loader, indices)))
                continue
            mine = indices[rank::world_size]
            positions = list(range(offset + rank, offset + len(indices), world_size))
            offset += len(indices)
            if len(mine) * world_size < len(indices):
                mine, positions = [*mine, indices[0]], [*positions, PADDING]
            shares.append(Share(rebuilt(loader, mine), positions, batch_size(loader)))
        elif world_size > 1:
            raise ValueError(
                f"guard_dataloader: a {type(loader).__name__} over an iterable data set cannot be counted exactly "
                f"once on {world_size} processes; pass a DataLoader over a map-style data set"
            )
        else:
            shares.append(Share(loader))
    return GuardData(shares, source, loaders)


def _flatten(loaders: Any) -> list[Any]:
    if isinstance(loaders, Mapping):
        return [leaf for value in loaders.values() for leaf in _flatten(value)]
    if hasattr(loaders, "flattened"):
        return list(loaders.flattened)
    if isinstance(loaders, Sequence) and all(isinstance(item, DataLoader) for item in loaders):
        return list(loaders)
    return [loaders]


def find_guard_data(trainer: Any, argument: Any, processes: Processes) -> GuardData:
    """This process' share of the guard data.

    Raises:
        MisconfigurationException: There is none, or it cannot be counted exactly.
    """
    found, error = None, None
    try:
        found = find_guard_loaders(trainer, argument)
    except Exception as caught:
        error = caught
    processes.raise_together(error)
    if found is None:
        raise MisconfigurationException(
            "guard_dataloader: there is neither guard nor validation data to judge with; "
            "pass guard_dataloader=..., give the datamodule a guard_dataloader(), or add validation data"
        )
    loaders, source = found
    warn_of_selection(trainer, source, same=is_validation_data(trainer, loaders))
    try:
        return shard_guard_data(loaders, source, processes.rank, processes.world_size)
    except ValueError as error:
        raise MisconfigurationException(str(error)) from error


def check_not_selected_by(trainer: Any, guard: GuardData, monitor: str) -> None:
    """Refuse guard data that are validation data, by which the best epoch is chosen.

    Raises:
        MisconfigurationException: They are.
    """
    if guard.source == "validation" or is_validation_data(trainer, guard.loaders):
        raise MisconfigurationException(
            f"Guard.epoch='best' chooses epochs by {monitor} on validation data, and the guard reads the same: what "
            "chooses must not judge; give the guard a split of its own (guard_dataloader=...), or use epoch='last'"
        )


def check_guard_data(outcomes: Outcomes | None) -> None:
    """Refuse guard data of which not even one batch has samples.

    Args:
        outcomes: Of the first batch; None if the scores are NaN.

    Raises:
        MisconfigurationException: There are none.
    """
    if outcomes is not None and not len(outcomes):
        raise MisconfigurationException(
            "guard_dataloader: the guard data is empty, nothing can be judged; look at its split and its filters"
        )
