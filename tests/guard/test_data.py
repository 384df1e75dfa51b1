import lightning.pytorch
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.utilities import CombinedLoader
from lightning_fabric.utilities.distributed import DistributedSamplerWrapper as OtherDistributedSamplerWrapper
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    random_split,
)

from lightning_classprune.guard.data import (
    PADDING,
    GuardData,
    find_guard_loaders,
    is_validation_data,
    shard_guard_data,
)
from lightning_classprune.trainer.forward import default_predict
from lightning_classprune.trainer.randomness import random_state, set_random_state

torch.set_num_threads(1)


class Items(Dataset):
    """Item i is the number i."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return torch.tensor(int(index))


class Batches(Dataset):
    """Item i is a whole batch, of i + 1 samples."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return torch.arange(index + 1) + 10 * index


class Stream(IterableDataset):
    def __iter__(self):
        yield from (torch.tensor(i) for i in range(5))


class Chunks(Sampler):
    """A batch sampler without the attributes of torch's own."""

    def __init__(self, *chunks):
        self.chunks = chunks

    def __iter__(self):
        yield from self.chunks

    def __len__(self):
        return len(self.chunks)


class Reversed(Sampler):
    def __init__(self, data):
        self.size = len(data)

    def __iter__(self):
        return iter(range(self.size - 1, -1, -1))

    def __len__(self):
        return self.size


def batches(*loaders, rank=0, world=1, limit=None):
    """Batches and places as lists."""
    data = shard_guard_data(loaders, "argument", rank, world)
    return [(batch.tolist(), places) for batch, places in data.batches(limit)]


def samples(*loaders):
    """All samples in the order in which one process reads them."""
    return [sample for batch, _ in batches(*loaders) for sample in batch]


def merged(*loaders, world):
    """(place, sample) of all ranks, without padding, sorted; and the number of batches of each rank."""
    found, lengths = [], []
    for rank in range(world):
        share = batches(*loaders, rank=rank, world=world)
        lengths.append(len(share))
        for batch, places in share:
            places = [places] * len(batch) if isinstance(places, int) else places
            assert len(places) == len(batch)
            found += zip(places, batch, strict=True)
    return sorted(pair for pair in found if pair[0] != PADDING), lengths


# --- one process ---

ten = Items(10)


@pytest.mark.parametrize(
    "loader",
    [
        DataLoader(ten, batch_size=4),
        DataLoader(ten, batch_size=4, shuffle=True),
        DataLoader(ten, batch_size=4, drop_last=True),
        DataLoader(ten, batch_size=4, shuffle=True, drop_last=True),
        DataLoader(ten, batch_size=4, sampler=SequentialSampler(ten)),
        DataLoader(ten, batch_size=4, sampler=RandomSampler(ten, num_samples=3)),
        DataLoader(ten, batch_size=4, sampler=RandomSampler(ten, num_samples=25)),
        DataLoader(ten, batch_size=4, sampler=SubsetRandomSampler(list(range(9, -1, -1)))),
        DataLoader(ten, batch_size=4, sampler=Reversed(ten)),
        DataLoader(ten, batch_size=4, sampler=list(range(9, -1, -1))),
        DataLoader(ten, batch_size=4, sampler=DistributedSampler(ten, num_replicas=3, rank=1)),
        DataLoader(ten, batch_size=4, sampler=DistributedSampler(ten, 3, 1, shuffle=False, drop_last=True)),
        DataLoader(ten, batch_sampler=BatchSampler(RandomSampler(ten), 4, drop_last=True)),
        DataLoader(ten, batch_sampler=BatchSampler(Reversed(ten), 4, drop_last=False)),
    ],
)
def test_every_sample_once_in_the_order_of_the_data_set(loader):
    expected = [([0, 1, 2, 3], None), ([4, 5, 6, 7], None), ([8, 9], None)]
    assert batches(loader) == expected
    assert batches(loader) == expected


@pytest.mark.parametrize("drop_last", [False, True])
def test_a_subset_stays_a_subset(drop_last):
    chosen = [7, 2, 5]
    for sampler in (SubsetRandomSampler(chosen), chosen):
        assert samples(DataLoader(ten, batch_size=2, sampler=sampler, drop_last=drop_last)) == [2, 5, 7]
    assert (
        samples(DataLoader(torch.utils.data.Subset(ten, chosen), batch_size=2, drop_last=drop_last)) == chosen
    )


def test_custom_batch_samplers_are_followed_to_what_they_visit():
    assert samples(DataLoader(ten, batch_sampler=Chunks([8, 1], [3], [9, 0, 2]))) == [0, 1, 2, 3, 8, 9]
    assert samples(DataLoader(ten, batch_sampler=[[8, 1], [3]])) == [1, 3, 8]


@pytest.mark.parametrize("wrapper", [DistributedSamplerWrapper, OtherDistributedSamplerWrapper])
def test_a_loader_that_lightning_prepared_for_several_processes(wrapper):
    """Lightning wraps other samplers than its own as the data set of a distributed one."""
    inner = SubsetRandomSampler([4, 1, 8])
    assert samples(DataLoader(ten, batch_size=2, sampler=wrapper(inner, num_replicas=2, rank=1))) == [1, 4, 8]
    weighted = WeightedRandomSampler([1.0] * 10, 5)
    with pytest.raises(ValueError, match="WeightedRandomSampler"):
        samples(DataLoader(ten, sampler=wrapper(weighted, num_replicas=2, rank=0)))


class Balanced(Sampler):
    """Repeats a rare sample."""

    def __iter__(self):
        return iter([0, 1, 1, 2])


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"sampler": WeightedRandomSampler([1.0] * 10, 2)}, "WeightedRandomSampler"),
        ({"sampler": WeightedRandomSampler([1.0] * 10, 10, replacement=False)}, "WeightedRandomSampler"),
        ({"sampler": RandomSampler(ten, replacement=True, num_samples=1)}, "RandomSampler"),
        ({"sampler": Balanced()}, "Balanced"),
        (
            {"batch_sampler": BatchSampler(WeightedRandomSampler([1.0] * 10, 2), 1, False)},
            "WeightedRandomSampler",
        ),
        ({"batch_sampler": Chunks([0, 1], [1, 2])}, "list"),
    ],
)
@pytest.mark.parametrize("world", [1, 2])
def test_samplers_that_may_repeat_are_refused_even_if_luck_has_it_that_they_do_not(options, name, world):
    for _ in range(3):
        with pytest.raises(
            ValueError, match=f"guard_dataloader: its {name} may visit samples more than once"
        ):
            shard_guard_data([DataLoader(ten, **options)], "validation", 0, world)


def test_a_data_set_of_whole_batches():
    loader = DataLoader(Batches(), batch_size=None)
    assert batches(loader) == [([0], None), ([10, 11], None), ([20, 21, 22], None)]
    assert samples(DataLoader(Batches(), batch_size=None, shuffle=True)) == [0, 10, 11, 20, 21, 22]


def test_an_iterable_data_set_is_read_as_it_comes():
    loader = DataLoader(Stream(), batch_size=2)
    assert batches(loader) == [([0, 1], None), ([2, 3], None), ([4], None)]
    assert batches([torch.tensor([3, 1])]) == [([3, 1], None)]


def test_several_loaders_one_after_the_other_and_at_most_some_batches():
    loaders = DataLoader(Items(3), batch_size=2, shuffle=True), DataLoader(Stream(), batch_size=5)
    assert batches(*loaders) == [([0, 1], None), ([2], None), ([0, 1, 2, 3, 4], None)]
    assert batches(*loaders, limit=1) == [([0, 1], None)]
    assert batches(*loaders, limit=3) == batches(*loaders)
    assert batches() == []


def double(items):
    return torch.stack(items) * 2


def test_the_users_collate_function_and_workers_are_kept():
    loader = DataLoader(ten, batch_size=4, shuffle=True, collate_fn=double)
    assert samples(loader) == [2 * i for i in range(10)]
    loader = DataLoader(ten, batch_size=4, shuffle=True, num_workers=1, timeout=30, worker_init_fn=print)
    (share,) = shard_guard_data([loader], "argument", 0, 1).shares
    assert (share.loader.num_workers, share.loader.timeout, share.loader.worker_init_fn) == (1, 30, print)


@pytest.mark.parametrize(
    "sampler",
    [RandomSampler(ten), SubsetRandomSampler([3, 4, 5]), Reversed(ten), DistributedSampler(ten, 2, 0)],
)
def test_looking_at_a_loader_draws_nothing(sampler):
    generator = torch.Generator().manual_seed(1)
    sampler.generator, before = generator, generator.get_state()
    state = torch.get_rng_state()
    shard_guard_data([DataLoader(ten, sampler=sampler)], "validation", 0, 1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(generator.get_state(), before)


class Shuffling(Sampler):
    """With a generator of its own, or without."""

    def __init__(self, generator=None):
        self.generator = generator

    def __iter__(self):
        return iter(torch.randperm(10, generator=self.generator).tolist())


class ShufflingBatches(Shuffling):
    def __iter__(self):
        return iter([[i] for i in super().__iter__()])


@pytest.mark.parametrize("kind", [Shuffling, ShufflingBatches])
def test_looking_at_a_sampler_of_the_users_leaves_the_random_state(kind):
    def loader(generator=None):
        return DataLoader(ten, **{"sampler" if kind is Shuffling else "batch_sampler": kind(generator)})

    state = torch.get_rng_state()
    assert samples(loader()) == list(range(10))
    set_random_state(random_state() | {"torch": state})
    shard_guard_data([loader()], "validation", 0, 1)
    assert torch.equal(torch.get_rng_state(), state)
    own = torch.Generator().manual_seed(1)
    before = own.get_state()
    shard_guard_data([loader(own)], "validation", 0, 1)
    assert torch.equal(own.get_state(), before)


# --- several processes ---


def test_shares_of_two_processes_by_hand():
    loader = DataLoader(Items(5), batch_size=2, shuffle=True, drop_last=True)
    assert batches(loader, rank=0, world=2) == [([0, 2], [0, 2]), ([4], [4])]
    assert batches(loader, rank=1, world=2) == [([1, 3], [1, 3]), ([0], [PADDING])]
    two = loader, DataLoader(Items(3), batch_size=4)
    assert batches(*two, rank=0, world=2)[2:] == [([0, 2], [5, 7])]
    assert batches(*two, rank=1, world=2)[2:] == [([1, 0], [6, PADDING])]


def test_shares_of_whole_batches_by_hand():
    loader = DataLoader(Batches(), batch_size=None, shuffle=True)
    assert batches(loader, rank=0, world=2) == [([0], 0), ([20, 21, 22], 2)]
    assert batches(loader, rank=1, world=2) == [([10, 11], 1), ([0], PADDING)]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 4)), min_size=1, max_size=3), st.integers(1, 3))
def test_all_shares_together_hold_every_sample_once_in_the_same_places(sizes, world):
    loaders = [DataLoader(Items(n), batch_size=b, shuffle=True, drop_last=True) for n, b in sizes]
    everything = [i for n, _ in sizes for i in range(n)]
    if world == 1:
        assert samples(*loaders) == everything
        return
    found, lengths = merged(*loaders, world=world)
    assert found == list(enumerate(everything))
    assert len(set(lengths)) == 1


@pytest.mark.parametrize("world", [2, 3])
def test_whole_batches_and_subsets_are_shared_too(world):
    found, lengths = merged(DataLoader(Batches(), batch_size=None), world=world)
    assert found == [(0, 0), (1, 10), (1, 11), (2, 20), (2, 21), (2, 22)]
    assert len(set(lengths)) == 1
    found, _ = merged(DataLoader(ten, sampler=SubsetRandomSampler([9, 4, 2, 7])), world=world)
    assert found == [(0, 2), (1, 4), (2, 7), (3, 9)]


@pytest.mark.parametrize("loader", [DataLoader(Stream()), [torch.zeros(2)]])
def test_what_cannot_be_shared_is_refused(loader):
    with pytest.raises(ValueError, match=rf"guard_dataloader: a {type(loader).__name__} .* on 2 processes"):
        shard_guard_data([loader], "argument", 0, 2)


# --- where it comes from ---

GUARD, VALIDATION = DataLoader(Items(2)), DataLoader(Items(3))


class Module(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 2)

    def forward(self, x):
        return self.layer(x)

    def training_step(self, batch, _):
        return self(batch[0]).square().mean()

    def validation_step(self, batch, _, dataloader_idx=0):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Finder(lightning.pytorch.Callback):
    """Looks for guard data where the pruning callback does."""

    def __init__(self, argument=None):
        self.argument = argument

    def on_train_start(self, trainer, pl_module):
        self.found = find_guard_loaders(trainer, self.argument)


def find(argument=None, val=None, datamodule=None, finder=Finder, **options):
    finder = finder(argument)
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "accelerator": "cpu",
    }
    made = lightning.pytorch.Trainer(
        max_steps=1, callbacks=[finder], enable_model_summary=False, devices=1, **quiet | options
    )
    train = DataLoader(TensorDataset(torch.ones(2, 1)))
    if datamodule is None:
        made.fit(Module(), train, val)
    else:
        made.fit(Module(), datamodule=datamodule)
    return finder.found


class Data(LightningDataModule):
    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.ones(2, 1)))

    def val_dataloader(self):
        return VALIDATION


class DataWithGuard(Data):
    def guard_dataloader(self):
        return GUARD


@pytest.mark.fit
@pytest.mark.parametrize(
    ("argument", "loaders"),
    [
        (GUARD, [GUARD]),
        (lambda: GUARD, [GUARD]),
        ([GUARD, VALIDATION], [GUARD, VALIDATION]),
        ({"a": GUARD, "b": {"c": VALIDATION}}, [GUARD, VALIDATION]),
        (CombinedLoader([GUARD, VALIDATION], "sequential"), [GUARD, VALIDATION]),
        (batch := [torch.zeros(1)], [batch]),
    ],
)
def test_the_argument_goes_before_everything(argument, loaders):
    found, source = find(argument, datamodule=DataWithGuard())
    assert source == "argument"
    assert len(found) == len(loaders)
    assert all(a is b for a, b in zip(found, loaders, strict=True))


@pytest.mark.fit
def test_then_the_data_module_then_validation_then_nothing():
    assert find(datamodule=DataWithGuard()) == ([GUARD], "datamodule")
    assert find(datamodule=DataWithGuard(), limit_val_batches=0) == ([GUARD], "datamodule")
    for checks in (0, 1):  # Lightning has set the validation data up by then, or it has not
        found, source = find(datamodule=Data(), num_sanity_val_steps=checks)
        assert source == "validation"
        assert [loader.dataset for loader in found] == [VALIDATION.dataset]
        found, _ = find(val=[VALIDATION, GUARD], num_sanity_val_steps=checks)
        assert [loader.dataset for loader in found] == [VALIDATION.dataset, GUARD.dataset]
    assert find(datamodule=Data(), limit_val_batches=0) is None
    assert find() is None


class Endless(IterableDataset):
    def __iter__(self):
        yield from iter(lambda: torch.tensor(7), None)


@pytest.mark.fit
@pytest.mark.parametrize("checks", [0, 1])
def test_a_stream_of_validation_data_ends_where_validation_does(checks):
    stream, whole = DataLoader(Endless(), batch_size=2), DataLoader(Items(3), batch_size=1, shuffle=True)
    found, _ = find(val=[stream, whole], limit_val_batches=2, num_sanity_val_steps=checks)
    assert batches(*found) == [([7, 7], None), ([7, 7], None), ([0], None), ([1], None), ([2], None)]
    assert found[0].dataset is stream.dataset
    assert len(batches(*find(val=DataLoader(Stream()), num_sanity_val_steps=checks)[0])) == 5


@pytest.mark.fit
@pytest.mark.parametrize(
    ("argument", "is_validation"),
    [
        (VALIDATION, True),
        (DataLoader(VALIDATION.dataset, batch_size=2), True),
        ([GUARD, VALIDATION], True),
        (GUARD, False),
        (DataLoader(Items(3)), False),
        ([torch.zeros(1)], False),
    ],
)
def test_guard_data_that_is_validation_data_is_recognized_by_its_data_set(argument, is_validation):
    class Recognize(Finder):
        def on_train_start(self, trainer, pl_module):
            super().on_train_start(trainer, pl_module)
            self.found = is_validation_data(trainer, self.found[0])

    assert find(argument, datamodule=Data(), finder=Recognize) is is_validation


@pytest.mark.fit
def test_making_the_guard_data_leaves_the_random_state():
    def make():
        return DataLoader(random_split(ten, [5, 5])[0])

    class Watch(Finder):
        def on_train_start(self, trainer, pl_module):
            before = torch.get_rng_state()
            super().on_train_start(trainer, pl_module)
            self.untouched = torch.equal(before, torch.get_rng_state())

    watch = Watch(make)
    made = lightning.pytorch.Trainer(
        max_steps=1, callbacks=[watch], accelerator="cpu", logger=False, enable_checkpointing=False
    )
    made.fit(Module(), DataLoader(TensorDataset(torch.ones(2, 1))))
    assert len(watch.found[0][0].dataset) == 5
    assert watch.untouched


def test_the_default_predict_reads_pairs():
    scores, target = default_predict(lambda x: x + 1, [torch.tensor([1.0]), torch.tensor([0]), "id"])
    assert (scores.tolist(), target.tolist()) == ([2.0], [0])


def test_guard_data_can_be_read_again_and_again():
    data = shard_guard_data([DataLoader(ten, batch_size=5, shuffle=True)], "argument", 0, 1)
    assert isinstance(data, GuardData)
    assert data.source == "argument"
    first, second = ([batch.tolist() for batch, _ in data.batches()] for _ in range(2))
    assert first == second == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
