"""What rounds draw: each as a fresh run does, and after an interruption what was still to be drawn."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from lightning_classprune.rounds.randomness import RoundRandomness
from lightning_classprune.trainer.processes import Processes
from lightning_classprune.trainer.randomness import random_state, set_random_state
from tests.support.kit import trainer


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = random_state()
    yield
    set_random_state(before)


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def reading(*loaders: DataLoader[Any]) -> pl.Trainer:
    """A trainer that has these training loaders."""
    made = trainer()
    made.fit_loop._combined_loader = CombinedLoader(list(loaders), "sequential")
    return made


def test_a_round_draws_what_a_fresh_run_draws() -> None:
    generator = torch.Generator().manual_seed(3)
    shuffled = DataLoader(range(20), shuffle=True, generator=generator, batch_size=20)
    pl.seed_everything(41, verbose=False)
    fresh = draw(), next(iter(shuffled)).tolist()
    rounds = RoundRandomness(reading(shuffled), Processes())
    assert rounds.seed == 41
    draw()
    rounds.start_round()
    assert (draw(), next(iter(shuffled)).tolist()) == fresh


def test_a_run_that_is_resumed_draws_what_was_still_to_be_drawn() -> None:
    shuffled = DataLoader(range(20), shuffle=True, generator=torch.Generator().manual_seed(3), batch_size=20)
    pl.seed_everything(41, verbose=False)
    saved = RoundRandomness(reading(shuffled), Processes()).state_dict()
    expected = draw(), next(iter(shuffled)).tolist()
    pl.seed_everything(99, verbose=False)
    again = RoundRandomness(reading(shuffled), Processes())
    assert not again.go_on()
    again.load_state_dict(saved)
    assert again.seed == 41
    assert again.go_on()
    assert (draw(), next(iter(shuffled)).tolist()) == expected


def test_of_another_number_of_processes_only_the_seed_is_taken() -> None:
    pl.seed_everything(41, verbose=False)
    saved = RoundRandomness(trainer(), Processes()).state_dict()
    pl.seed_everything(99, verbose=False)
    again = RoundRandomness(trainer(), Processes())
    with pytest.warns(UserWarning, match="written by 2 processes and is resumed by 1"):
        again.load_state_dict({"seed": saved["seed"], "random": saved["random"] * 2})
    assert again.seed == 41
    assert not again.go_on()


def test_samplers_are_told_the_epoch_of_the_round() -> None:
    sampler = DistributedSampler(range(8), num_replicas=1, rank=0)
    rounds = RoundRandomness(
        reading(DataLoader(range(8), sampler=sampler), DataLoader(range(8))), Processes()
    )
    rounds.tell_samplers(5)
    assert sampler.epoch == 5
