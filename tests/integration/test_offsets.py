"""Decision offsets in real fits: what is delivered decides as what was judged, whoever decides."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_classprune import ClassAwarePruningCallback, DecisionOffset, load_ticket
from tests.support.compare import assert_same, weights, without_seconds
from tests.support.kit import Tiny, dataset, fit, plain_pruner, tiny, verdicts
from tests.support.witness import Keep

#: Of the candidates; the dense network is as it was trained.
SLIDE = 1.5


def data(n: int, seed: int, kind: str) -> TensorDataset:
    task = "labels" if kind == "labels" else "classes"
    return dataset(n, seed, task=task, classes=3 if kind in ("three", "labels") else 2)


class Sliding(Tiny):
    """A network whose retraining slides along the ROC curve: its weights know the classes, its bias does not.

    Args:
        kind: `"one"` logit, `"two"` or `"three"` scores, or `"labels"`.
        ending: `"bias"` of the last layer; `"none"`: it has none; `"scale"`: a layer without bias comes last.
    """

    def __init__(self, kind: str = "two", ending: str = "bias") -> None:
        outputs = {"one": 1, "two": 2}.get(kind, 3)
        super().__init__(
            outputs, {"one": "binary", "labels": "labels"}.get(kind, "classes"), dropout=0.0, lr=0.3
        )
        if ending == "none":
            self.net[4] = nn.Linear(12, outputs, bias=False)
        if ending == "scale":  # a bias of the right length that is not that of the scores
            self.net.append(nn.Linear(outputs, outputs, bias=False))

    def on_train_batch_end(self, *_: Any) -> None:
        if bool((self.net[0].weight == 0).any()) and self.net[4].bias is not None:
            with torch.no_grad():
                self.net[4].bias[-1] -= SLIDE / 6


def job(
    kind: str = "two", ending: str = "bias", protect: Any = None, **options: Any
) -> tuple[Sliding, ClassAwarePruningCallback]:
    torch.manual_seed(11)
    module = Sliding(kind, ending)
    defaults: dict[str, Any] = {
        "num_classes": 3 if kind in ("three", "labels") else 2,
        "protect": protect or {1: 0.1},
        "max_fp_rise": 0.25,
        "confidence": 0.8,
        "offset": "validation",
        "fraction": 0.4,
        "target_sparsity": 0.64,
        "guard_dataloader": DataLoader(data(900, 3, kind), batch_size=300),
    }
    return module, plain_pruner(**(defaults | options))


def run(module: Sliding, callback: ClassAwarePruningCallback, kind: str, *more: Any, **options: Any) -> Any:
    train = DataLoader(data(512, 1, kind), batch_size=64, shuffle=True)
    val = DataLoader(data(900, 2, kind), batch_size=450)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fit(module, callback, *more, train=train, val=val, **({"max_epochs": 4} | options))


def decided(module: Any, x: Tensor, kind: str) -> Tensor:
    with torch.no_grad():
        scores = module.eval()(x)
    return scores.argmax(1) if kind in ("two", "three") else (scores >= 0).long()


KINDS = [
    ("one", {1: 0.1}),
    ("two", {1: 0.1}),
    ("two", {0: 0.1}),
    ("three", {1: 0.2, 2: 0.2}),
    ("labels", {0: 0.1, 2: 0.1}),
]


@pytest.mark.parametrize(("kind", "protect"), KINDS)
def test_the_delivered_module_decides_by_itself_as_what_was_judged(kind: str, protect: Any) -> None:
    module, callback = job(kind, protect=protect)
    run(module, callback, kind)
    assert "accepted" in verdicts(callback)
    row = [one for one in callback.ledger if one["verdict"] == "accepted"][-1]
    chosen = {name: told["offset"] for name, told in row["classes"].items()}
    assert any(chosen.values())
    assert callback.offsets == dict.fromkeys(chosen, 0.0), "all of it is in the last layer's bias"
    x, target = data(900, 3, kind).tensors
    judged = callback.guard_outcomes["delivered"]
    assert torch.equal(judged.target, target)
    assert torch.equal(decided(module, x, kind), judged.predicted)
    for name, told in row["classes"].items():
        assert told["chance"] is not None
        index = int(name)
        positive, said = judged.found(index)
        assert told["fn"] == int((positive & ~said).sum())
        assert told["fp"] == int((~positive & said).sum())


@pytest.mark.parametrize(
    ("kind", "protect", "ending"), [*((*one, "none") for one in KINDS), ("two", {1: 0.1}, "scale")]
)
def test_where_no_bias_takes_it_the_offset_is_the_users_to_add(kind: str, protect: Any, ending: str) -> None:
    module, callback = job(kind, ending, protect)
    run(module, callback, kind)
    assert "accepted" in verdicts(callback)
    row = [one for one in callback.ledger if one["verdict"] == "accepted"][-1]
    assert callback.offsets == {name: told["offset"] for name, told in row["classes"].items()}
    assert any(callback.offsets.values())
    x, _ = data(900, 3, kind).tensors
    judged = callback.guard_outcomes["delivered"].predicted
    assert not torch.equal(decided(module, x, kind), judged)
    names = [str(i) for i in range(callback.settings.num_classes)]
    behind = nn.Sequential(module, DecisionOffset(callback.offsets, names))
    assert torch.equal(decided(behind, x, kind), judged)


def test_an_offset_saves_what_drifting_would_lose() -> None:
    """The same run with and without: without, the candidate misses too many."""
    accepted = []
    for offset in ("validation", "none"):
        module, callback = job("two", offset=offset)
        run(module, callback, "two")
        accepted.append(verdicts(callback).count("accepted"))
        if offset == "none":
            assert all(c["offset"] == 0.0 for row in callback.ledger for c in row["classes"].values())
    assert accepted[0] > accepted[1]


class Starts(pl.Callback):
    """The weights at the first batch of every round."""

    def __init__(self, callback: ClassAwarePruningCallback) -> None:
        self.callback, self.seen = callback, {}

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        round_ = len(self.callback.ledger)
        if round_ not in self.seen:
            run = self.callback._run
            assert run is not None
            ticket = run.delivery.accepted
            self.seen[round_] = (
                weights(pl_module),
                None if ticket is None else dict(ticket.tensors),
                {name: mask.clone() for name, mask in run.masks.items()},
                None if ticket is None else (ticket.offsets, ticket.folded_into),
            )


def test_a_round_that_rewinds_the_rate_starts_from_weights_without_the_offset(tmp_path: Path) -> None:
    module, callback = job("two", rewind="lr", ladder=str(tmp_path))
    starts = Starts(callback)
    run(module, callback, "two", starts)
    assert verdicts(callback)[:3] == ["baseline", "accepted", "accepted"]
    begun, accepted, masks, (offsets, place) = starts.seen[2]
    assert place == "net.4.bias"
    assert offsets["1"] != 0
    for name, value in begun.items():
        if name.endswith("weight") and name in masks:
            assert torch.equal(value, accepted[name] * masks[name])
        elif name in accepted:
            assert torch.equal(value, accepted[name])
    # The ladder's ticket of that round has it.
    ticket = tiny(dropout=0.0)
    load_ticket(sorted(tmp_path.glob("*.safetensors"))[1], ticket)
    shift = ticket.net[4].bias.detach() - accepted["net.4.bias"]
    assert shift[1].item() == pytest.approx(offsets["1"], abs=1e-6)
    assert shift[0].item() == 0


def test_the_last_ticket_of_the_ladder_is_the_delivered_network(tmp_path: Path) -> None:
    module, callback = job("two", ladder=str(tmp_path))
    run(module, callback, "two")
    assert "accepted" in verdicts(callback)
    ticket = tiny(dropout=0.0)
    load_ticket(sorted(tmp_path.glob("*.safetensors"))[-1], ticket)
    assert_same(weights(ticket), weights(module))


@pytest.mark.parametrize("ending", ["bias", "none"])
def test_resumed_is_the_same_run_bit_for_bit(ending: str, tmp_path: Path) -> None:
    keep = Keep(tmp_path, "epoch end")
    module, callback = job("two", ending)
    run(module, callback, "two", keep)
    assert "accepted" in verdicts(callback)
    for path in keep.files[2::5]:
        other, resumed = job("two", ending)
        run(other, resumed, "two", ckpt_path=path, seed=99)
        assert_same(weights(other), weights(module))
        assert without_seconds(resumed.ledger) == without_seconds(callback.ledger)
        assert resumed.offsets == callback.offsets


@pytest.mark.parametrize("judging", ["round", "end"])
def test_without_validation_data_of_its_own_it_is_refused_before_training(judging: str) -> None:
    module, callback = job("two", judging=judging)
    before = weights(module)
    train = DataLoader(data(96, 1, "two"), batch_size=24)
    with pytest.raises(MisconfigurationException, match="no validation data"):
        fit(module, callback, train=train, val=train, limit_val_batches=0)
    module, callback = job("two", judging=judging, guard_dataloader=None)
    own = DataLoader(data(96, 3, "two"), batch_size=24)
    with pytest.raises(MisconfigurationException, match="the two are the same"):
        fit(module, callback, train=train, val=own)
    assert callback.ledger == []
    assert_same(weights(module), before)


def test_a_decision_offset_knows_its_classes() -> None:
    with pytest.raises(ValueError, match=r"unknown classes \['x'\]"):
        DecisionOffset({"x": 1.0}, ["a", "b"])
    scores = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    assert DecisionOffset({"b": -1.5}, ["a", "b"])(scores).tolist() == [[1.0, 0.5], [3.0, -1.5]]
    assert DecisionOffset({"a": 0.5}, ["a", "b"])(torch.tensor([0.25, 1.0])).tolist() == [-0.25, 0.5]
    assert DecisionOffset({"b": 0.5}, ["a", "b"])(torch.tensor([[0.25]])).tolist() == [[0.75]]
