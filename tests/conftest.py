"""Every test starts alike: one thread, no seed left behind by another test."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

# A deadline would measure the machine.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_configure() -> None:
    # Processes that tests start inherit this; workers that share two cores must not fight for them.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_seed() -> Iterator[None]:
    before = {key: os.environ.pop(key, None) for key in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")}
    yield
    for key, value in before.items():
        os.environ.pop(key, None)
        if value is not None:
            os.environ[key] = value
