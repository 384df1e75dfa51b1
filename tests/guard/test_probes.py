"""Probes: what is fitted, by hand and by its properties, when it is fitted, and what it leaves behind."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_classprune.guard.probes import KNNProbe, LinearProbe, Probe
from lightning_classprune.trainer.forward import PreparedPredict, prepare
from lightning_classprune.trainer.identity import identity, is_opaque
from lightning_classprune.trainer.processes import Processes
from lightning_classprune.trainer.randomness import random_state
from tests.support.compare import assert_same

#: As far as a probe needs it, the trainer of one process on the CPU.
TRAINER: Any = SimpleNamespace(
    world_size=1,
    state=SimpleNamespace(stage=None),
    validating=False,
    precision_plugin=SimpleNamespace(convert_input=lambda batch: batch, forward_context=torch.no_grad),
    strategy=SimpleNamespace(batch_to_device=lambda batch: batch),
)
NAMES = ("0", "1")


class Encoder(nn.Module):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(3, width))
        self.register_buffer("shift", torch.zeros(()))

    def _on_before_batch_transfer(self, batch: Any, dataloader_idx: int = 0) -> Any:
        return batch

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.shift


def features(module: Any, x: Tensor) -> Tensor:
    return module(x)


def data(n: int = 60, seed: int = 0, rare: int | None = None) -> TensorDataset:
    """The class follows from the first feature; the third is constant."""
    x = torch.randn(n, 3, generator=Generator().manual_seed(seed))
    y = (x[:, 0] > 0).long()
    x[:, 0] += y - 0.5
    x[:, 2] = 7.0
    if rare is not None:
        kept = torch.cat([(y == 0).nonzero()[:, 0], (y == 1).nonzero()[:rare, 0]])
        x, y = x[kept], y[kept]
    return TensorDataset(x, y)


def loader(**options: Any) -> DataLoader[Any]:
    return DataLoader(data(**options), batch_size=16, shuffle=True)


def known(probe: Probe, names: tuple[str, ...] = NAMES) -> Any:
    probe.know(names)
    return probe


def both(train: Any = None) -> list[Any]:
    train = loader() if train is None else train
    return [known(LinearProbe(features, train)), known(KNNProbe(features, train, neighbours=5))]


@pytest.mark.parametrize("kind", [0, 1])
def test_a_probe_finds_the_classes_of_an_encoder(kind: int) -> None:
    probe, encoder = both()[kind], Encoder()
    probe.prepare(TRAINER, encoder)
    x, y = data(seed=5).tensors
    scores, target = probe(encoder, [x, y])
    assert target is y
    assert scores.shape == (60, 2)
    assert float((scores.argmax(1) == y).float().mean()) > 0.95
    assert isinstance(probe, PreparedPredict)
    torch.testing.assert_close(probe.head()(encoder(x)), scores, rtol=0, atol=0)
    restored = both()[kind]
    restored.restore(probe.fitted())
    assert torch.equal(restored(encoder, [x, y])[0], scores)
    assert torch.equal(both()[kind].head(probe.fitted())(encoder(x)), scores)


@pytest.mark.parametrize("kind", [0, 1])
def test_fitting_is_a_function_of_network_and_data_alone(kind: int) -> None:
    first, second, encoder = both()[kind], both(DataLoader(data(), batch_size=16))[kind], Encoder()
    before, state = {k: v.clone() for k, v in encoder.state_dict().items()}, random_state()
    first.prepare(TRAINER, encoder)
    assert_same(random_state(), state)
    assert_same(dict(encoder.state_dict()), before)
    torch.rand(5)
    second.prepare(TRAINER, encoder)  # whose loader does not shuffle
    assert_same(first.fitted(), second.fitted())


def test_it_is_fitted_again_only_when_the_network_is_another() -> None:
    read = []

    def watched(module: Any, x: Tensor) -> Tensor:
        read.append(len(x))
        return module(x)

    probe, encoder = known(LinearProbe(watched, loader())), Encoder()
    for change in (lambda: None, lambda: encoder.weight.data.mul_(2), lambda: encoder.shift.add_(1)):
        change()
        for _ in range(2):
            probe.prepare(TRAINER, encoder)
    assert read == [16, 16, 16, 12] * 3


def test_the_linear_probe_is_the_optimum_by_hand() -> None:
    """Of two samples at -1 and 1 (standardised) in classes of equal weight: the root of d/dw of loss and penalty."""
    train = DataLoader(TensorDataset(torch.tensor([[1.0, 0, 0], [5.0, 0, 0]]), torch.tensor([0, 1])))
    probe = known(LinearProbe(features, train, penalty=0.5))
    probe.prepare(TRAINER, Encoder())
    fitted = probe.fitted()
    w = float(fitted["weight"][1, 0]) * 2  # the deviation is 2
    assert w > 0
    assert fitted["weight"][0, 0] == pytest.approx(-w / 2, abs=1e-6)
    assert float(torch.sigmoid(torch.tensor(-2 * w))) == pytest.approx(0.5 / 2 * w, abs=1e-6)
    assert not fitted["weight"][:, 1:].any(), "constant features have no weight"
    at_the_mean = fitted["weight"] @ torch.tensor([3.0, 0, 0]) + fitted["bias"]
    torch.testing.assert_close(at_the_mean, torch.zeros(2), atol=1e-6, rtol=0)


def test_the_nearest_vote_by_hand() -> None:
    """Of three neighbours, two of them in class 0 of which there are three: each class weighs the same."""
    x = torch.tensor([[1.0, 0.0, 0], [0.9, 0.1, 0], [-1.0, 0.2, 0], [1.0, -0.1, 0]])
    probe = known(KNNProbe(features, DataLoader(TensorDataset(x, torch.tensor([0, 0, 0, 1]))), neighbours=4))
    probe.prepare(TRAINER, Encoder())
    fitted = probe.fitted()
    z = nn.functional.normalize((x - fitted["mean"]) / fitted["scale"])
    weights = torch.softmax(z[:1] @ z.T / 0.1, 1)[0]
    votes = torch.stack([weights[:3].sum() / 3, weights[3]])
    scores, _ = probe(Encoder(), [x[:1], torch.tensor([0])])
    torch.testing.assert_close(scores[0].exp(), votes / votes.sum(), atol=1e-5, rtol=1e-5)
    alone = known(KNNProbe(features, loader(), neighbours=10**6))
    alone.prepare(TRAINER, Encoder())
    assert alone.head().neighbours == 60


@pytest.mark.parametrize(("kind", "rare"), [(0, 1), (0, 3), (1, 3)])
def test_a_rare_class_is_found(kind: int, rare: int) -> None:
    probe, encoder = both(loader(n=120, rare=rare))[kind], Encoder()
    probe.prepare(TRAINER, encoder)
    x, y = data(seed=5).tensors
    scores, _ = probe(encoder, [x, y])
    assert float((scores.argmax(1) == 1)[y == 1].float().mean()) > 0.5


@pytest.mark.parametrize("kind", [0, 1])
def test_fewer_samples_than_features_and_nothing_but_constants(kind: int) -> None:
    encoder = Encoder(width=3)
    encoder.weight.data.zero_()
    probe = both()[kind]
    probe.prepare(TRAINER, encoder)
    scores, _ = probe(encoder, list(data(seed=5).tensors))
    assert torch.isfinite(scores).all()
    torch.testing.assert_close(scores, scores[:1].expand_as(scores))

    def many(module: Any, x: Tensor) -> Tensor:
        return torch.cat([module(x), torch.sin(x[:, :1] * torch.arange(200))], 1).view(len(x), 7, 29)

    few = [known(kind_(many, loader(n=12))) for kind_ in (LinearProbe, KNNProbe)][kind]
    few.prepare(TRAINER, Encoder())
    x, y = data(n=12).tensors
    scores, _ = few(Encoder(), [x, y])
    assert torch.equal(scores.argmax(1), y)


@pytest.mark.parametrize("kind", [0, 1])
def test_a_network_that_has_diverged_gives_no_scores(kind: int) -> None:
    encoder = Encoder()
    encoder.weight.data.fill_(torch.nan)
    probe = both()[kind]
    probe.prepare(TRAINER, encoder)
    scores, _ = probe(encoder, list(data().tensors))
    assert scores.isnan().all()


@pytest.mark.parametrize(
    ("train", "names", "why"),
    [
        (TensorDataset(torch.randn(4, 3), torch.zeros(4).long()), NAMES, "no sample of class '1'"),
        (TensorDataset(torch.randn(4, 3), torch.arange(4)), NAMES, r"classes from 0 to 3; 0 to 1 are known"),
        (TensorDataset(torch.randn(4, 3), -torch.arange(2).repeat(2)), NAMES, r"classes from -1 to 0"),
        (TensorDataset(torch.randn(4, 3), torch.rand(4)), NAMES, "a class index a sample"),
        (TensorDataset(torch.randn(4, 3), torch.ones(4, 2).long()), NAMES, "a class index a sample"),
        (TensorDataset(torch.randn(0, 3), torch.zeros(0).long()), NAMES, "train_loader is empty"),
    ],
)
def test_what_is_wrong_with_training_data_is_said(train: Any, names: Any, why: str) -> None:
    for kind in (LinearProbe, KNNProbe):
        probe = known(kind(features, DataLoader(train, batch_size=2)), names)
        with pytest.raises(ValueError, match=f"^{kind.__name__}: .*{why}"):
            probe.prepare(TRAINER, Encoder())


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"features": "encoder"}, "features='encoder' must be a function"),
        ({"train_loader": 3}, "train_loader=3 must be a loader"),
        ({"penalty": 0}, "penalty=0 must be a finite number above 0"),
        ({"penalty": float("inf")}, "penalty=inf"),
        ({"seed": -1}, "seed=-1"),
        ({"features": lambda module, x: [x]}, "features returned list"),
        ({"features": lambda module, x: module(x)[:3]}, "features gave 12 rows for 60 samples"),
    ],
)
def test_bad_arguments_are_named(change: Any, why: str) -> None:
    with pytest.raises(ValueError, match=f"^LinearProbe: .*{why}"):
        known(LinearProbe(**{"features": features, "train_loader": loader(), **change})).prepare(
            TRAINER, Encoder()
        )
    with pytest.raises(ValueError, match="KNNProbe: neighbours=0"):
        KNNProbe(features, loader(), neighbours=0)


def test_before_it_is_fitted_it_says_so() -> None:
    for probe in both():
        with pytest.raises(RuntimeError, match="was not fitted"):
            probe(Encoder(), list(data().tensors))
        with pytest.raises(ValueError, match="nothing is fitted yet"):
            probe.head()
        assert probe.fitted() == {}


def test_what_is_saved_of_it_tells_two_runs_apart_and_no_more() -> None:
    probe = known(LinearProbe(features, loader(), penalty=2.0))
    told = identity(probe)
    probe.prepare(TRAINER, Encoder())
    assert identity(probe) == told == identity(known(LinearProbe(features, loader(seed=9), penalty=2.0)))
    assert not is_opaque(told)
    assert told != identity(LinearProbe(features, loader()))
    assert identity(KNNProbe(features, loader())) != identity(KNNProbe(features, loader(), neighbours=5))


class Second(Processes):
    """As the second of two, of which the first has fitted otherwise."""

    def gather_objects(self, share: Any) -> list[Any]:
        if isinstance(share, dict):
            return [{name: tensor + 1 for name, tensor in share.items()}, share]
        return [None, share]


def test_all_processes_take_the_first_ones_fit() -> None:
    alone, probe, encoder = both()[0], both()[0], Encoder()
    alone.prepare(TRAINER, encoder)
    prepare(probe, TRAINER, encoder, Second(1, 2))
    assert_same(probe.fitted(), {name: tensor + 1 for name, tensor in alone.fitted().items()})
    prepare(lambda module, batch: None, TRAINER, encoder, Second(1, 2))  # which nothing has to be fitted of


def test_a_fit_in_inference_mode_is_the_same() -> None:
    """Lightning validates in it."""
    first, second = both()[0], both()[0]
    first.prepare(TRAINER, Encoder())
    with torch.inference_mode():
        second.prepare(TRAINER, Encoder())
        second(Encoder(), list(data().tensors))
    assert_same(first.fitted(), second.fitted())
    assert not any(tensor.is_inference() for tensor in second.fitted().values())
