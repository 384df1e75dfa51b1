"""What a criterion may look at, in a real fit: gradients against autograd by hand, and no trace of a look."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    TensorDataset,
    WeightedRandomSampler,
)

from lightning_classprune.pruning.scoring import Scoring
from lightning_classprune.trainer.forward import default_predict
from lightning_classprune.trainer.processes import Processes
from lightning_classprune.trainer.randomness import random_state
from lightning_classprune.trainer.sharding import Sharding
from tests.support.compare import assert_same, weights
from tests.support.inside import inside_fit
from tests.support.kit import FEATURES, Tiny, dataset, fit, tiny, train_loader
from tests.support.witness import Watch

NAMES = ("net.0.weight", "net.4.weight")


def scoring(trainer: pl.Trainer, module: pl.LightningModule, seed: int = 3, **changes: Any) -> Scoring:
    parts: dict[str, Any] = {
        "module": module,
        "parameters": {name: module.get_parameter(name) for name in NAMES},
        "protected": (1,),
        "trainer": trainer,
        "predict": default_predict,
        "sharding": Sharding(Processes()),
        "seed": seed,
    }
    return Scoring(**(parts | changes))


def drawn(seed: int, n: int = 96) -> list[int]:
    """The order in which a seed visits the training data."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()


def by_hand(module: nn.Module, seed: int, number: int, only: int | None = None) -> dict[str, Tensor]:
    """Gradients of one of the batches of sixteen, without the package."""
    x, target = (tensor[drawn(seed)[16 * number : 16 * (number + 1)]] for tensor in dataset(96, 1).tensors)
    module.eval()
    scores = module(x)
    if only is not None:
        scores, target = scores[target == only], target[target == only]
    found = torch.autograd.grad(cross_entropy(scores, target), [module.get_parameter(name) for name in NAMES])
    module.train()
    return dict(zip(NAMES, found, strict=True))


# --- gradients ---


@pytest.mark.parametrize("only", [None, 0, 1])
def test_gradients_are_those_of_autograd_on_the_same_samples(only: int | None) -> None:
    def action(trainer: pl.Trainer, module: pl.LightningModule) -> None:
        look = scoring(trainer, module)
        batches = look.batches(2, only=None if only is None else [only])
        found = list(look.gradients(cross_entropy, batches))
        assert len(found) == 2
        for number, gradients in enumerate(found):
            assert_same(gradients, by_hand(module, 3, number, only))

    inside_fit(action)


def test_samples_of_other_classes_are_left_out() -> None:
    def action(trainer: pl.Trainer, module: pl.LightningModule) -> None:
        look = scoring(trainer, module)
        whole, ones = list(look.batches(6)), list(look.batches(6, only=look.protected))
        assert torch.equal(torch.cat([t for _, t in whole]), dataset(96, 1).tensors[1][drawn(3)])
        for (scores, target), (some, left) in zip(whole, ones, strict=True):
            assert torch.equal(some, scores[target == 1])
            assert left.tolist() == [1] * int(target.sum())
        both = list(look.batches(6, only={0, 1}))
        assert [len(t) for _, t in both] == [16] * 6

    inside_fit(action)


def test_a_sample_with_any_of_the_labels_is_left_in() -> None:
    data = dataset(96, 1, task="labels", classes=3)

    def action(trainer: pl.Trainer, module: pl.LightningModule) -> None:
        look = scoring(trainer, module)
        targets = torch.cat([target for _, target in look.batches(6, only=[0, 2])])
        wanted = data.tensors[1][drawn(3)]
        assert torch.equal(targets, wanted[(wanted[:, 0] + wanted[:, 2]) > 0])
        (gradients,) = look.gradients(_multi_label, look.batches(1))
        assert all(bool(gradient.any()) for gradient in gradients.values())

    inside_fit(
        action, tiny(outputs=3, task="labels"), train=DataLoader(data, batch_size=16), val=DataLoader(data)
    )


def _multi_label(scores: Tensor, target: Tensor) -> Tensor:
    return binary_cross_entropy_with_logits(scores, target.float())


def test_where_no_sample_is_left_the_gradient_is_zero_and_no_loss_is_asked() -> None:
    data = TensorDataset(torch.randn(32, FEATURES), torch.zeros(32, dtype=torch.int64))

    def loss(scores: Tensor, target: Tensor) -> Tensor:
        raise AssertionError("of nothing")

    def action(trainer: pl.Trainer, module: pl.LightningModule) -> None:
        look = scoring(trainer, module)
        found = list(look.gradients(loss, look.batches(2, only=[1])))
        assert len(found) == 2
        for gradients in found:
            assert_same(gradients, {n: torch.zeros_like(module.get_parameter(n)) for n in NAMES})

    inside_fit(action, train=DataLoader(data, batch_size=16))


class Deaf(Tiny):
    """Has a layer that its forward does not come to."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Linear(3, 2)


def test_a_weight_without_a_part_in_the_loss_has_gradient_zero() -> None:
    def action(trainer: pl.Trainer, module: pl.LightningModule) -> None:
        look = scoring(trainer, module, parameters=dict(module.named_parameters()))
        (gradients,) = look.gradients(cross_entropy, look.batches(1))
        assert not gradients["idle.weight"].any()
        assert gradients["net.4.weight"].any()

    inside_fit(action, Deaf())


def test_frozen_weights_have_gradients_and_stay_frozen() -> None:
    def action(trainer: pl.Trainer, module: pl.LightningModule) -> None:
        expected = by_hand(module, 3, 0)
        frozen = module.get_parameter("net.0.weight").requires_grad_(False)
        look = scoring(trainer, module)
        (gradients,) = look.gradients(cross_entropy, look.batches(1))
        assert_same(gradients, expected)
        assert not frozen.requires_grad
        assert module.get_parameter("net.4.weight").requires_grad
        frozen.requires_grad_(True)

    inside_fit(action)


# --- which samples ---


def targets(trainer: pl.Trainer, module: pl.LightningModule, limit: int, seed: int = 3) -> list[list[int]]:
    return [target.tolist() for _, target in scoring(trainer, module, seed).batches(limit)]


def test_the_seed_decides_the_samples_and_the_data_how_many_there_are() -> None:
    def action(trainer: pl.Trainer, module: pl.LightningModule) -> None:
        first = targets(trainer, module, 2)
        assert first == targets(trainer, module, 2)
        assert first == targets(trainer, module, 6)[:2]
        assert first != targets(trainer, module, 2, seed=4)
        assert [len(batch) for batch in targets(trainer, module, 99)] == [16] * 6
        assert targets(trainer, module, 0) == []

    inside_fit(action)


class Noisy(Dataset[Any]):
    """Samples with a random transform."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.randn(FEATURES), index % 2


def test_random_transforms_follow_the_seed_too() -> None:
    def action(trainer: pl.Trainer, module: pl.LightningModule) -> None:
        looks = [[s for s, _ in scoring(trainer, module, seed).batches(3)] for seed in (3, 3, 4)]
        assert_same(looks[0], looks[1])
        assert not torch.equal(looks[0][0], looks[2][0])

    inside_fit(action, train=DataLoader(Noisy(), batch_size=8))


def test_a_weighted_sampler_shows_which_samples_there_are() -> None:
    """How often training visits them is not looked at: a rare class has the gradient of its own samples."""
    data = dataset(96, 1)
    sampler = WeightedRandomSampler(torch.arange(1.0, 97.0), 30)

    def action(trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert sum(targets(trainer, module, 99), []) == data.tensors[1][drawn(3)].tolist()  # noqa: RUF017

    inside_fit(action, train=DataLoader(data, batch_size=16, sampler=sampler))


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(dataset(32, 1))


class Epoch:
    """Batches that come from nowhere."""

    def __iter__(self) -> Iterator[Any]:
        return iter([dataset(16, 1).tensors])


class TwoLoaders(Tiny):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(batch["a"])


@pytest.mark.parametrize(
    ("module", "train", "there_is"),
    [
        (Tiny, lambda: DataLoader(Stream(), batch_size=8), "there is DataLoader"),
        (Tiny, Epoch, "there is Epoch"),
        (TwoLoaders, lambda: {"a": train_loader(), "b": train_loader()}, "another arrangement of loaders"),
    ],
)
def test_what_samples_cannot_be_drawn_from_is_refused(module: type[Tiny], train: Any, there_is: str) -> None:
    needed = f"needs one DataLoader over a map-style data set for training; .*{there_is}"

    def action(trainer: pl.Trainer, module: pl.LightningModule) -> None:
        with pytest.raises(ValueError, match=needed):
            targets(trainer, module, 1)

    inside_fit(action, module(), train=train)


def test_scores_must_be_a_tensor() -> None:
    def boxes(module: Any, batch: Any) -> Any:
        return [module(batch[0])], batch[1]

    def action(trainer: pl.Trainer, module: pl.LightningModule) -> None:
        with pytest.raises(ValueError, match="needs scores that are a tensor, and predict returned list"):
            list(scoring(trainer, module, predict=boxes).batches(1))

    inside_fit(action)


# --- nothing is left behind ---


def test_a_look_leaves_the_module_and_the_random_state_alone() -> None:
    def action(trainer: pl.Trainer, module: pl.LightningModule) -> None:
        module.net[1].eval()  # a layer that the user holds in eval mode
        grads = [torch.full_like(p, 7.0) for p in module.parameters()]
        for parameter, grad in zip(module.parameters(), grads, strict=True):
            parameter.grad = grad

        def seen() -> Any:
            flags = [part.training for part in module.modules()]
            return weights(module), random_state(), flags, [p.requires_grad for p in module.parameters()]

        before, stage = seen(), trainer.state.stage
        look = scoring(trainer, module)
        found = list(look.gradients(cross_entropy, look.batches(3)))
        assert len(found) == 3
        assert_same(seen(), before)
        assert trainer.state.stage == stage
        assert torch.is_grad_enabled()
        for parameter, grad in zip(module.parameters(), grads, strict=True):
            assert parameter.grad is grad
            assert bool((grad == 7).all())
            parameter.grad = None

    inside_fit(action)


def test_a_look_that_is_not_finished_leaves_nothing_either() -> None:
    def action(trainer: pl.Trainer, module: pl.LightningModule) -> None:
        before, stage = random_state(), trainer.state.stage
        look = scoring(trainer, module)
        gradients = look.gradients(cross_entropy, look.batches(6))
        next(gradients)
        assert module.training
        assert_same(random_state(), before)
        assert trainer.state.stage == stage

    inside_fit(action)


def test_a_loss_that_fails_leaves_nothing_either() -> None:
    def loss(scores: Tensor, target: Tensor) -> Tensor:
        raise KeyError("loss")

    def action(trainer: pl.Trainer, module: pl.LightningModule) -> None:
        frozen = module.get_parameter("net.0.weight").requires_grad_(False)
        before = random_state()
        look = scoring(trainer, module)
        with pytest.raises(KeyError):
            next(look.gradients(loss, look.batches(1)))
        assert module.training
        assert not frozen.requires_grad
        assert_same(random_state(), before)
        frozen.requires_grad_(True)

    inside_fit(action)


class Shuffling(Sampler[int]):
    """A sampler of a user's, with a generator of its own or without."""

    def __init__(self, generator: torch.Generator | None) -> None:
        self.generator = generator

    def __len__(self) -> int:
        return 96

    def __iter__(self) -> Iterator[int]:
        return iter(torch.randperm(96, generator=self.generator).tolist())


class ShufflingBatches(Shuffling):
    def __len__(self) -> int:
        return 6

    def __iter__(self) -> Iterator[Any]:
        order = list(super().__iter__())
        return (order[i : i + 16] for i in range(0, 96, 16))


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


LOADERS: dict[str, Any] = {
    "shuffled": train_loader,
    "own generator": lambda: train_loader(generator=generator()),
    "random sampler": lambda: train_loader(shuffle=False, sampler=RandomSampler(dataset(96, 1))),
    "weighted": lambda: train_loader(shuffle=False, sampler=WeightedRandomSampler([1.0] * 96, 96)),
    "own sampler": lambda: train_loader(shuffle=False, sampler=Shuffling(None)),
    "own sampler with a generator": lambda: train_loader(shuffle=False, sampler=Shuffling(generator())),
    "own batch sampler": lambda: DataLoader(dataset(96, 1), batch_sampler=ShufflingBatches(None)),
    "own batch sampler with a generator": lambda: DataLoader(
        dataset(96, 1), batch_sampler=ShufflingBatches(generator())
    ),
    "noisy": lambda: DataLoader(Noisy(), batch_size=8, shuffle=True),
}


class Looking(pl.Callback):
    """Looks at the start of every epoch and in the middle of each."""

    def look(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        look = scoring(trainer, pl_module)
        assert len(list(look.gradients(cross_entropy, look.batches(2)))) == 2

    on_train_epoch_start = on_train_batch_start = look


@pytest.mark.parametrize("kind", LOADERS)
def test_training_goes_on_with_the_same_batches_bit_for_bit(kind: str) -> None:
    def trained(*callbacks: Any) -> Any:
        watch, module = Watch(), tiny(dropout=0.3)
        fit(module, watch, *callbacks, train=LOADERS[kind])
        return watch.losses, weights(module)

    assert_same(trained(Looking()), trained())
