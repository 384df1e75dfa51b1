"""A probe in a fit of an encoder that sees no labels: judged, watched, kept, handed over and resumed with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from torch.utils.data import DataLoader, TensorDataset

from lightning_classprune import (
    ClassAwarePruningCallback,
    Cut,
    Files,
    Fixed,
    Guard,
    KNNProbe,
    LinearProbe,
    load_ticket,
    save_ticket,
)
from lightning_classprune.guard.tasks import Tokens
from tests.support.compare import assert_same, weights
from tests.support.kit import fit


class SimCLR(pl.LightningModule):
    """Brings two noisy views of a sample together, away from all others (Chen et al. 2020, arXiv 2002.05709)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.encoder = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8))
        self.projection = nn.Linear(8, 4)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x = batch[0]
        views = torch.cat([x + 0.2 * torch.randn_like(x) for _ in range(2)])
        z = normalize(self.projection(self.encoder(views)))
        likeness = z @ z.T / 0.5
        likeness.fill_diagonal_(-torch.inf)
        return cross_entropy(likeness, torch.arange(len(z)).roll(len(x)))

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("width", self.encoder(batch[0]).std())

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.01)


def features(module: SimCLR, x: Tensor) -> Tensor:
    return module.encoder(x)


def labelled(n: int, seed: int) -> DataLoader[Any]:
    generator = Generator().manual_seed(seed)
    x, y = torch.randn(n, 8, generator=generator), torch.randint(2, (n,), generator=generator)
    x[:, :2] += 2.0 * y[:, None]
    return DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)


def unlabelled() -> DataLoader[Any]:
    return DataLoader(TensorDataset(labelled(64, 1).dataset.tensors[0]), batch_size=32, shuffle=True)


def linear() -> LinearProbe:
    return LinearProbe(features, labelled(64, 2))


def fitted(folder: Path, probe: Any, module: Any = None, guard: Any = None, **options: Any) -> Any:
    callback = ClassAwarePruningCallback(
        2,
        {1: 0.4},
        predict=probe,
        guard_dataloader=labelled(80, 5),
        search=Fixed(fraction=0.5, rewind="lr", max_rounds=1),
        guard=Guard(max_fp_rise=0.4, **(guard or {})),
        cut=Cut(prunable=["encoder.*"]),
        files=Files(ladder=folder / "tickets"),
    )
    saving = pl.callbacks.ModelCheckpoint(folder, save_top_k=-1, filename="{epoch}")
    data = {"train": unlabelled(), "val": labelled(60, 6), "max_epochs": 2}
    return callback, fit(module or SimCLR(), callback, saving, **(data | options))


@pytest.mark.parametrize("kind", [LinearProbe, KNNProbe])
def test_an_encoder_is_judged_kept_and_handed_over_with_its_probe(kind: Any, tmp_path: Path) -> None:
    probe, module = kind(features, labelled(64, 2)), SimCLR()
    callback, trainer = fitted(tmp_path, probe, module)
    dense, pruned = callback.ledger
    assert pruned["verdict"] == "accepted"
    assert dense["classes"]["1"]["fn"] < 0.3 * dense["classes"]["1"]["support"]
    assert 0 <= float(trainer.callback_metrics["classprune/recall/1"]) <= 1, "the monitor has a probe too"

    # What is in hand decides the guard's cases as they were judged, and so does what the file has.
    x, y = labelled(80, 5).dataset.tensors
    module.eval()
    judged = callback.guard_outcomes["delivered"]
    assert torch.equal(judged.target.long(), y)
    assert torch.equal(nn.Sequential(module.encoder, probe.head())(x).argmax(1), judged.predicted.long())
    other = SimCLR().eval()
    ticket = load_ticket(tmp_path / "tickets", other)
    assert_same(weights(other), weights(module))
    assert torch.equal(probe.head(ticket.beside)(other.encoder(x)).argmax(1), judged.predicted.long())
    assert_same(ticket.beside, probe.fitted())
    save_ticket(tmp_path / "plain.safetensors", module.state_dict(), callback.masks)
    assert load_ticket(tmp_path / "plain.safetensors", other).beside == {}


def test_a_resumed_run_has_the_same_probe(tmp_path: Path) -> None:
    probe, again, module = linear(), linear(), SimCLR()
    callback, _ = fitted(tmp_path / "whole", probe)
    resumed, _ = fitted(tmp_path / "resumed", again, module, ckpt_path=tmp_path / "whole" / "epoch=2.ckpt")
    assert_same(
        [{**row, "seconds": 0} for row in resumed.ledger], [{**row, "seconds": 0} for row in callback.ledger]
    )
    assert_same(again.fitted(), probe.fitted())
    other = LinearProbe(features, labelled(64, 2), penalty=3.0)
    with pytest.raises(MisconfigurationException, match="predict was"):
        fitted(tmp_path / "other", other, ckpt_path=tmp_path / "whole" / "epoch=2.ckpt")


def test_an_offset_is_of_the_probes_scores_and_stays_beside(tmp_path: Path) -> None:
    callback, _ = fitted(tmp_path, linear(), guard={"offset": "validation", "judging": "end"})
    rows = [row for row in callback.ledger if row["verdict"] == "accepted"]
    assert [callback.offsets["1"]] == [row["classes"]["1"]["offset"] for row in rows] or not rows
    assert (tmp_path / "tickets" / "round=00.safetensors").exists()


def test_criteria_with_gradients_see_through_the_probe(tmp_path: Path) -> None:
    module = SimCLR()
    callback = ClassAwarePruningCallback(
        2,
        {1: 0.9},
        predict=linear(),
        guard_dataloader=labelled(40, 5),
        search=Fixed(fraction=0.5, rewind="lr", max_rounds=1),
        guard=Guard(confidence=None, max_fp_rise=None),
        cut=Cut(criterion="class_gradient", prunable=["encoder.*"]),
    )
    fit(module, callback, train=labelled(64, 8), val=None, max_epochs=1)
    assert [row["sparsity"] for row in callback.ledger] == [0.0, 0.5]


@pytest.mark.parametrize(
    ("probe", "why"),
    [
        (lambda: LinearProbe(features, labelled(80, 5)), "samples that the probe is fitted on"),
        (
            lambda: LinearProbe(
                features, DataLoader(TensorDataset(torch.randn(9, 8), torch.zeros(9).long()))
            ),
            "no sample",
        ),
        (lambda: LinearProbe(lambda m, x: m.nothing(x), labelled(9, 2)), "nothing"),
    ],
)
def test_what_a_probe_cannot_be_fitted_on_is_refused_before_training(
    probe: Any, why: str, tmp_path: Path
) -> None:
    with pytest.raises((MisconfigurationException, AttributeError), match=why):
        fitted(tmp_path, probe())


def test_a_probe_decides_classes_only() -> None:
    with pytest.raises(ValueError, match=r"predict=LinearProbe\(\.\.\.\) decides classes, and task=Tokens"):
        ClassAwarePruningCallback(2, {1: 0.4}, predict=linear(), task=Tokens())
