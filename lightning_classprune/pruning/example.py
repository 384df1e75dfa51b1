"""Example: one input of the user's network, for what must run its forward before the first batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from lightning_classprune.pruning.slicing import Example, moved
from lightning_classprune.trainer.batches import UnreadableBatchError, part, parts, reading
from lightning_classprune.trainer.randomness import untouched_randomness

_FIX = "set `example_input_array` on the module to one input of its forward"


def find_example(trainer: Any, pl_module: Any) -> Example:
    """The module's `example_input_array`, else the input of one training sample, on the module's device.

    The sample is read from the data set, not from the loader, whose iterator and random draws belong to the training.

    Raises:
        ValueError: There is neither.
    """
    example = getattr(pl_module, "example_input_array", None)
    if example is None:
        example = _training_input(trainer)
    return moved(example, pl_module.device)


@untouched_randomness()
def _training_input(trainer: Any) -> Tensor:
    loop = trainer.fit_loop
    made = loop._combined_loader
    loader = made.flattened[0] if made is not None else loop._data_source.dataloader()
    dataset = getattr(loader, "dataset", None)
    if dataset is None or isinstance(dataset, IterableDataset) or not hasattr(loader, "collate_fn"):
        raise ValueError(f"the training data is a stream, so no sample of it is taken as an example; {_FIX}")
    if loader.batch_sampler is None:
        samples = dataset[0]
    else:
        # As a loader does it: a data set may give a whole batch at once.
        samples = dataset.__getitems__([0]) if hasattr(dataset, "__getitems__") else [dataset[0]]
    batch = loader.collate_fn(samples)
    try:
        first = part(batch, reading(batch).input)
    except UnreadableBatchError:
        # Whatever is the target, an input alone and the first of several parts are where an input is.
        first = batch[0] if isinstance(batch, tuple | list) and batch and not parts(batch) else batch
    if not isinstance(first, torch.Tensor):
        raise ValueError(
            f"the input in a training batch, which is a {type(batch).__name__}, is no tensor but "
            f"{type(first).__name__}; {_FIX}"
        )
    return first
