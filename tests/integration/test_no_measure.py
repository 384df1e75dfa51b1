"""Networks by which nothing can be measured, in real fits: no pruning of them is accepted, and each is told of."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_classprune import ClassAwarePruningCallback, Cut, Fixed, Guard
from lightning_classprune.ledger.text import achievement
from tests.support.compare import assert_same, weights
from tests.support.kit import fit, plain_pruner, pruner, tiny, train_loader, verdicts

FEATURES = 10


def data(n: int, seed: int, share: float = 0.2) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, FEATURES, generator=generator)
    score = x[:, 0] + x[:, 1]
    return TensorDataset(x, (score > torch.quantile(score, 1 - share)).long())


def loaders() -> tuple[DataLoader[Any], DataLoader[Any], DataLoader[Any]]:
    """Training, validation and guard."""
    return (
        DataLoader(data(256, 1), batch_size=32, shuffle=True),
        DataLoader(data(100, 2), batch_size=50),
        DataLoader(data(400, 3), batch_size=100),
    )


class Net(pl.LightningModule):
    """A perceptron of two scores."""

    outputs = 2

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.net = nn.Sequential(
            nn.Linear(FEATURES, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, self.outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def loss(self, scores: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(scores, target)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.loss(self(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.loss(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 0.02)


class AlwaysPositive(Net):
    def loss(self, scores: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(scores, target, weight=torch.tensor([1.0, 1000.0]))


class NeverPositive(Net):
    def loss(self, scores: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(scores, target, weight=torch.tensor([1000.0, 1.0]))


class Probabilities(Net):
    outputs = 1

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.net(x)).squeeze(1)

    def loss(self, scores: Tensor, target: Tensor) -> Tensor:
        return nn.functional.binary_cross_entropy(scores, target.float())


def pruned(net: Net, max_fp_rise: float | None, **options: Any) -> ClassAwarePruningCallback:
    train, val, guard = loaders()
    defaults = {"target_sparsity": 0.99, "fraction": 0.8, "guard_dataloader": guard}
    callback = plain_pruner(**(defaults | {"max_fp_rise": max_fp_rise} | options))
    fit(net, callback, train=train, val=val, max_epochs=2)
    return callback


@pytest.mark.parametrize("kind", [AlwaysPositive, NeverPositive])
@pytest.mark.parametrize("confidence", [0.95, None])
def test_nothing_is_accepted_of_one_that_cannot_get_worse(kind: type[Net], confidence: float | None) -> None:
    net = kind()
    with pytest.warns(
        UserWarning, match="calls (every|no) case this class.*Every candidate will be unproven"
    ):
        callback = pruned(net, 0.1, confidence=confidence)
    assert verdicts(callback)[0] == "baseline"
    assert "accepted" not in verdicts(callback)
    assert "it cannot get worse at finding it" in callback.ledger[0]["reason"]
    assert callback.sparsity == 0
    assert all((weight != 0).all() for weight in net.parameters() if weight.ndim == 2)
    assert achievement(callback.ledger).startswith("No pruning step was")


def test_where_all_would_be_judged_at_the_end_no_round_is_trained() -> None:
    with pytest.warns(UserWarning, match="Every candidate will be unproven"):
        callback = pruned(NeverPositive(), 0.1, judging="end")
    assert verdicts(callback) == ["baseline"]
    assert "it cannot get worse at finding it" in callback.ledger[0]["reason"]


@pytest.mark.parametrize("kind", [AlwaysPositive, NeverPositive])
def test_where_false_alarms_are_not_guarded_it_is_said_loudly(kind: type[Net]) -> None:
    with pytest.warns(UserWarning, match="False alarms are not guarded .*so a verdict means little"):
        callback = pruned(kind(), None)
    assert "accepted" in verdicts(callback)
    assert "it cannot get worse at finding it" in callback.ledger[0]["reason"]
    assert "not guarded" in achievement(callback.ledger)
    assert "which means little, for the dense network calls" in achievement(callback.ledger)


@pytest.mark.parametrize("max_fp_rise", [0.1, None])
def test_probabilities_beside_a_threshold_of_zero_end_the_pruning_but_lose_no_training(
    max_fp_rise: float | None,
) -> None:
    net, plain = Probabilities(), Probabilities()
    with pytest.warns(UserWarning, match="before training all scores lie between 0 and 1.*threshold=0.5"):
        callback = pruned(net, max_fp_rise)
    assert verdicts(callback) == ["baseline"]
    assert callback.ledger[0]["reason"].startswith("all scores lie between 0 and 1, like probabilities")
    train, val, _ = loaders()
    fit(plain, train=train, val=val, max_epochs=2)
    assert_same(weights(net), weights(plain))


def test_probabilities_with_a_threshold_among_them_are_judged() -> None:
    assert len(pruned(Probabilities(), 0.5, threshold=0.5, protect={1: 0.5}).ledger) > 1


def test_one_label_in_every_row_is_a_class() -> None:
    x, y = data(60, 4).tensors
    one_hot = DataLoader(TensorDataset(x[:, :8], nn.functional.one_hot(y, 2)), batch_size=20)
    with pytest.raises(
        MisconfigurationException, match=r"exactly one of 2 labels.*target.argmax\(1\).*num_classes=2"
    ):
        fit(tiny(task="labels"), pruner(guard_dataloader=one_hot), train=train_loader(task="labels"))


# --- a candidate that calls everything positive, of a good dense network ---


class Linear(pl.LightningModule):
    """Good as it comes: the class' mean is shifted in feature 0; its training calls everything positive."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(20, 1)
        with torch.no_grad():
            self.layer.weight.zero_()
            self.layer.weight[0, 0] = 1
            self.layer.weight[0, 1:] = 1e-4
            self.layer.bias.fill_(-1.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        weight = torch.tensor(50.0)
        return nn.functional.binary_cross_entropy_with_logits(
            self(batch[0])[:, 0], batch[1].float(), pos_weight=weight
        )

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.2)


def shifted(n: int, seed: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    y = (torch.rand(n, generator=generator) < 0.4).long()
    x = torch.randn(n, 20, generator=generator)
    x[:, 0] += 3 * y
    return TensorDataset(x, y)


def largest_first(weight: Tensor, reference: Tensor) -> Tensor:
    return -weight.abs()


@pytest.mark.parametrize(("max_fp_rise", "verdict"), [(0.1, "refused"), (None, "accepted")])
def test_a_candidate_that_calls_everything_positive_is_refused(
    max_fp_rise: float | None, verdict: str
) -> None:
    guard = Guard(baseline="current", max_fp_rise=max_fp_rise)
    callback = ClassAwarePruningCallback(
        2,
        {1: 0.05},
        target_sparsity=0.95,
        search=Fixed(fraction=0.95, rewind="none"),
        cut=Cut(criterion=largest_first),
        guard=guard,
        guard_dataloader=DataLoader(shifted(600, 3), batch_size=200),
    )
    fit(
        Linear(),
        callback,
        train=DataLoader(shifted(200, 1), batch_size=20),
        val=DataLoader(shifted(100, 2), batch_size=100),
        max_epochs=4,
    )
    row = callback.ledger[1]
    told = row["classes"]["1"]
    assert callback.ledger[0]["classes"]["1"]["fp"] < 0.15 * told["negatives"]
    assert told["fp"] > 0.9 * told["negatives"]
    assert row["verdict"] == verdict
    assert told["fp_risen"]
    if max_fp_rise is None:
        assert "which is shown to be more" in achievement(callback.ledger)
        assert "false alarms were not guarded" in achievement(callback.ledger)
    else:
        assert "a rise of the false-alarm rate above 0.1 is shown at 95% confidence" in row["reason"]
        assert callback.sparsity == 0
