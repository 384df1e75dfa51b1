"""The random state of a process: save it, restore it, start a round from a seed."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from lightning_utilities.core.rank_zero import rank_zero_warn

RandomState = dict[str, Any]


def base_seed() -> int:
    """The seed of `seed_everything` if it was called, else the one that torch drew at start; below 2**32."""
    return int(os.environ.get("PL_GLOBAL_SEED", torch.initial_seed())) % 2**32


def seed_process(seed: int) -> None:
    """Seed Python, NumPy and torch on all devices exactly as `seed_everything(seed)` does, silently."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def random_state() -> RandomState:
    """The state of all global generators, in tensors and primitives that `weights_only=True` loads.

    Of CUDA that of the device in use: processes see devices by other numbers, and other many, when they go on. CUDA is
    not touched by a process that has not used it, which could no longer be forked.
    """
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), *(float(r) for r in rest)),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,  # type: ignore[no-untyped-call]
    }


def set_random_state(state: RandomState) -> None:
    """Put back what `random_state` returned."""
    random.setstate(state["python"])
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), int(position), int(has_gauss), gauss))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is None:
        return
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.set_rng_state(state["cuda"])
    else:
        rank_zero_warn(
            "the random state that was saved has one of a CUDA device, and this process uses none: what CUDA drew is "
            "drawn otherwise from here on"
        )


@contextmanager
def untouched_randomness(own: Iterable[torch.Generator] = ()) -> Iterator[None]:
    """What runs inside may draw; afterwards the generators are as they were.

    Args:
        own: Generators beside the global ones.
    """
    state, states = random_state(), [(generator, generator.get_state()) for generator in own]
    try:
        yield
    finally:
        set_random_state(state)
        for generator, before in states:
            generator.set_state(before)


def loader_generators(loaders: Iterable[Any]) -> list[torch.Generator]:
    """The generators that the user gave to loaders and samplers; the global one cannot stand for them."""
    found: list[torch.Generator] = []
    for loader in loaders:
        sampler, batch_sampler = getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)
        for owner in (loader, sampler, batch_sampler, getattr(batch_sampler, "sampler", None)):
            generator = getattr(owner, "generator", None)
            if isinstance(generator, torch.Generator) and all(generator is not g for g in found):
                found.append(generator)
    return found
