import io
import os
import random

import numpy as np
import pytest
import torch
from lightning.pytorch import seed_everything
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, SubsetRandomSampler

from lightning_classprune.trainer.randomness import (
    base_seed,
    loader_generators,
    random_state,
    seed_process,
    set_random_state,
    untouched_randomness,
)

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    with untouched_randomness():
        yield
    os.environ.pop("PL_GLOBAL_SEED", None)


def draw():
    """One of each kind; the Gaussian of NumPy and of Python keep a second one in store."""
    return [
        random.random(),
        random.gauss(0, 1),
        float(np.random.rand()),
        float(np.random.randn()),
        torch.rand(3).tolist(),
        torch.randn(1).item(),
    ]


def test_the_state_brings_back_every_generator():
    for already in range(3):
        seed_process(already)
        for _ in range(already):
            draw()
        state = random_state()
        first = draw()
        assert draw() != first
        set_random_state(state)
        assert draw() == first


def test_the_state_survives_a_safe_load():
    draw()
    state = random_state()
    first = draw()
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    draw()
    set_random_state(torch.load(file, weights_only=True))
    assert draw() == first


def test_a_state_is_no_view_of_the_generators():
    state = random_state()
    first = draw()
    set_random_state(state)
    draw()
    set_random_state(state)
    assert draw() == first


def test_what_runs_untouched_may_draw_seed_and_fail():
    seed_process(3)
    expected = draw()
    seed_process(3)
    with untouched_randomness():
        draw()
        seed_process(9)
    assert draw() == expected

    @untouched_randomness()
    def fail():
        draw()
        raise ZeroDivisionError

    for _ in range(2):
        seed_process(3)
        with pytest.raises(ZeroDivisionError):
            fail()
        assert draw() == expected


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
def test_seeding_is_that_of_seed_everything(seed):
    seed_everything(seed, verbose=False)
    expected = draw()
    draw()
    seed_process(seed)
    assert draw() == expected


def test_the_seed_of_a_run_is_that_of_seed_everything_or_torchs_own():
    torch.manual_seed(123)
    assert base_seed() == 123
    torch.manual_seed(2**32 + 5)
    assert base_seed() == 5
    seed_everything(77, verbose=False)
    torch.manual_seed(123)
    assert base_seed() == 77
    seed_process(base_seed())


def test_a_torch_seeded_at_start_by_itself_gives_a_seed_that_numpy_takes():
    torch.seed()
    assert 0 <= base_seed() < 2**32
    seed_process(base_seed())


def test_generators_of_loaders_and_samplers_are_found_once_each():
    data = list(range(10))
    a, b, c = (torch.Generator().manual_seed(i) for i in range(3))
    shuffled = DataLoader(data, shuffle=True, generator=a)  # the loader's and its sampler's
    sampled = DataLoader(data, sampler=SubsetRandomSampler([1, 2], generator=b))
    batched = DataLoader(data, batch_sampler=BatchSampler(RandomSampler(data, generator=c), 2, False))
    plain = DataLoader(data, sampler=SequentialSampler(data))
    found = loader_generators([plain, shuffled, sampled, batched, shuffled, [1, 2, 3]])
    assert len(found) == 3
    assert all(x is y for x, y in zip(found, (a, b, c), strict=True))
    assert loader_generators([plain, DataLoader(data, shuffle=True), iter([])]) == []


def test_a_restored_generator_shuffles_again_the_same_way():
    loader = DataLoader(
        list(range(20)), shuffle=True, batch_size=20, generator=torch.Generator().manual_seed(1)
    )
    (generator,) = loader_generators([loader])
    state = generator.get_state()
    first = next(iter(loader)).tolist()
    assert next(iter(loader)).tolist() != first
    generator.set_state(state)
    assert next(iter(loader)).tolist() == first
    generator.manual_seed(generator.initial_seed())
    assert next(iter(loader)).tolist() == first


def test_of_cuda_the_state_of_the_device_in_use_is_kept(monkeypatch):
    on_device = [torch.tensor([1, 2], dtype=torch.uint8)]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda: on_device[0].clone())
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state: on_device.__setitem__(0, state))
    kept = random_state()
    on_device[0] = torch.tensor([9, 9], dtype=torch.uint8)
    set_random_state(kept)
    assert on_device[0].tolist() == [1, 2]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    with pytest.warns(UserWarning, match="this process uses none"):
        set_random_state(kept)


def test_cuda_is_not_touched_by_a_process_that_has_not_used_it(monkeypatch):
    def touched(*_):
        raise AssertionError

    for name in ("is_available", "device_count", "init", "_lazy_init", "get_rng_state", "get_rng_state_all"):
        monkeypatch.setattr(torch.cuda, name, touched)
    with untouched_randomness():
        draw()
