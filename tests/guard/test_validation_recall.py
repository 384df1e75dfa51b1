"""Recall at every validation of a real fit, against counts by hand."""

from __future__ import annotations

import math
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from lightning_classprune.guard import validation_recall
from lightning_classprune.guard.classification import ClassesOrLabels
from lightning_classprune.guard.validation_recall import RECALL, ValidationRecall, recalls
from lightning_classprune.trainer.forward import default_predict
from tests.support.kit import Tiny, dataset, fit, tiny, val_loader


class Counting(pl.Callback):
    """Counts as the pruning callback does, and keeps what it found at the end of each validation."""

    def __init__(self, predict: Any = default_predict, names: tuple[str, ...] = ("a", "b")) -> None:
        self.recall = ValidationRecall(names, ClassesOrLabels(("a", "b"), [0, 1], 0.0), predict)
        self.found: list[dict[str, float]] = []
        self.expected: list[tuple[Tensor, Tensor]] = []

    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.recall.reset()
        self.seen: list[tuple[Tensor, Tensor]] = []

    def on_validation_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.recall.listen(pl_module)

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        state = torch.get_rng_state()
        self.recall.add(trainer, pl_module, batch, dataloader_idx)
        assert torch.equal(state, torch.get_rng_state())
        self.seen.append((pl_module(batch[0]).argmax(1), batch[1]))

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.found.append(self.recall.metrics(trainer))
        self.expected.append((torch.cat([p for p, _ in self.seen]), torch.cat([t for _, t in self.seen])))


def test_recall_by_hand_at_every_validation() -> None:
    fit(tiny(), counting := Counting())
    assert len(counting.found) == 2
    for found, (predicted, target) in zip(counting.found, counting.expected, strict=True):
        for index, name in enumerate(("a", "b")):
            support, missed = (
                int((target == index).sum()),
                int(((target == index) & (predicted != index)).sum()),
            )
            assert found[f"classprune/support/{name}"] == support > 0
            assert found[f"classprune/fn/{name}"] == missed
            assert found[f"classprune/recall/{name}"] == pytest.approx(1 - missed / support)
    assert counting.found[0] != counting.found[1]


@pytest.mark.parametrize(("waiting", "times"), [(1, 4), (80, 2), (1 << 20, 1)])
def test_batches_are_counted_together_as_far_as_they_may_wait(
    waiting: int, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 16 samples with two scores each."""
    counts, count = list[int](), ValidationRecall._count

    def counted(self: ValidationRecall, returned: Any, real_of: Any) -> None:
        counts.append(len(returned[0]))
        count(self, returned, real_of)

    monkeypatch.setattr(ValidationRecall, "_count", counted)
    monkeypatch.setattr(validation_recall, "WAITING", waiting)
    fit(tiny(), counting := Counting(), val=DataLoader(dataset(64, 2), batch_size=16), max_epochs=1)
    assert len(counts) == times
    assert sum(counts) == 64
    (found,) = counting.found
    predicted, target = counting.expected[0]
    assert found["classprune/fn/b"] == int(((target == 1) & (predicted != 1)).sum())


class Asked(Tiny):
    """Counts how often it is asked, and may do with scores what it likes."""

    def __init__(self, step: str) -> None:
        super().__init__()
        self.step, self.times = step, 0

    def forward(self, x: Tensor) -> Tensor:
        self.times += not self.training
        return super().forward(x)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        if self.step == "once":
            self(batch[0])
        elif self.step == "other input":
            self(batch[0] * 2)
        elif self.step == "writes":
            self(batch[0]).mul_(-1)


@pytest.mark.parametrize(("step", "more"), [("once", 0), ("never", 1), ("other input", 1), ("writes", 1)])
def test_what_validation_has_asked_is_not_asked_again(step: str, more: int) -> None:
    torch.manual_seed(11)
    module, plain = Asked(step), tiny()
    batches = len(val_loader())
    counting = Counting()
    counting.on_validation_batch_end = lambda trainer, net, outputs, batch, *_: counting.recall.add(  # type: ignore[method-assign]
        trainer, net, batch, 0
    )
    counting.on_validation_epoch_end = lambda trainer, _: counting.found.append(  # type: ignore[method-assign]
        counting.recall.metrics(trainer)
    )
    fit(module, counting, max_epochs=1)
    assert module.times == batches * ((step != "never") + more)
    assert not module._forward_hooks
    fit(plain, expected := Counting(), max_epochs=1)
    assert counting.found == expected.found


def test_a_class_without_samples_has_no_recall() -> None:
    data = dataset(40, 2)
    only = [data[i] for i in range(40) if int(data[i][1]) == 0]
    fit(tiny(), counting := Counting(), val=DataLoader(only, batch_size=8), max_epochs=1)
    (found,) = counting.found
    assert (found["classprune/support/b"], found["classprune/fn/b"]) == (0, 0)
    assert list(recalls(found)) == ["a"]


def test_samples_that_only_pad_a_shard_are_not_counted() -> None:
    """Five samples for two processes: the second one's third is the first sample again."""
    data = dataset(5, 2)
    sampler = DistributedSampler(data, num_replicas=2, rank=1, shuffle=False)
    assert list(sampler) == [1, 3, 0]
    fit(
        tiny(),
        counting := Counting(),
        val=DataLoader(data, batch_size=2, sampler=sampler),
        max_epochs=1,
        use_distributed_sampler=False,
    )
    (found,) = counting.found
    assert found["classprune/support/a"] + found["classprune/support/b"] == 2
    assert found["classprune/support/b"] == int(data.tensors[1][[1, 3]].sum())


def test_a_network_that_has_diverged_has_no_numbers() -> None:
    def predict(module: Any, batch: Any) -> Any:
        return module(batch[0]) * (float("nan") if len(batch[0]) < 20 else 1.0), batch[1]

    fit(tiny(), counting := Counting(predict), val=val_loader(n=30), max_epochs=1)
    (found,) = counting.found
    assert len(found) == 6
    assert all(math.isnan(value) for value in found.values())


def test_validation_batches_that_predict_cannot_read_are_warned_of_once() -> None:
    asked = []

    def predict(module: Any, batch: Any) -> Any:
        asked.append(batch)
        raise KeyError("image")

    with pytest.warns(UserWarning, match="recall is not logged: predict cannot read the validation batches"):
        fit(tiny(), counting := Counting(predict))
    assert counting.found == [{}, {}]
    assert len(asked) == 1


def test_memory_that_is_out_is_no_matter_of_reading_batches() -> None:
    def predict(module: Any, batch: Any) -> Any:
        raise torch.cuda.OutOfMemoryError

    with pytest.raises(torch.cuda.OutOfMemoryError):
        fit(tiny(), Counting(predict), max_epochs=1)


def test_nonsense_is_the_users_fault() -> None:
    with pytest.raises(MisconfigurationException, match="predict returned targets from 3"):
        fit(tiny(), Counting(lambda module, batch: (module(batch[0]), batch[1] + 3)))


def test_recalls_are_told_from_everything_that_is_logged() -> None:
    logged = {"val_loss": 0.5, f"{RECALL}crack": 0.75, "classprune/fn/crack": 3.0, f"{RECALL}a/b": 1.0}
    assert recalls(logged) == {"crack": 0.75, "a/b": 1.0}
