"""`Guard(epoch="best")`: of every round the epoch that the user's own monitor calls best is judged and delivered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor

from lightning_classprune import ClassAwarePruningCallback
from lightning_classprune.trainer.names import canonical
from tests.support.compare import assert_same, weights, without_seconds
from tests.support.kit import Tiny, fit, pruner, val_loader, verdicts
from tests.support.older import EMAWeightAveraging
from tests.support.witness import Keep, log_messages

#: What is logged at the end of each epoch of the loop: rounds of three epochs, whose best are 1 (of 3), 2 and 3.
SCORES = (0.9, 0.5, 0.2, 0.1, 0.4, 0.3, 0.1, 0.2, 0.6)
BEST = (0, 4, 8)


class Scored(Tiny):
    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("f1", SCORES[self.trainer.current_epoch])


class Ends(pl.Callback):
    """The weights at the end of each epoch, and at the start of each."""

    def __init__(self) -> None:
        self.ends: list[dict[str, Tensor]] = []
        self.starts: list[dict[str, Tensor]] = []

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.starts.append(weights(pl_module))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        average = next((c for c in trainer.callbacks if isinstance(c, EMAWeightAveraging)), None)
        self.ends.append(weights(pl_module if average is None else average._average_model.module))


def scored() -> Scored:
    torch.manual_seed(11)
    return Scored(dropout=0.3)


def best_pruner(**options: Any) -> ClassAwarePruningCallback:
    return pruner(**{"epoch": "best", "max_rounds": 2, "rewind": "lr"} | options)


def checkpoint(folder: Path, **options: Any) -> ModelCheckpoint:
    return ModelCheckpoint(folder, **{"monitor": "f1", "mode": "max", "save_last": True} | options)


def one(path: Path) -> dict[str, Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("average", [False, True])
def test_the_best_epoch_is_judged_kept_rewound_to_and_delivered(tmp_path: Path, average: bool) -> None:
    callback, ends, files = best_pruner(), Ends(), checkpoint(tmp_path)
    others = [EMAWeightAveraging(decay=0.5)] if average else []
    module = scored()
    with log_messages() as said:
        fit(module, callback, ends, files, *others, max_epochs=3)
    assert verdicts(callback) == ["baseline", "accepted", "accepted"]
    assert_same(weights(module), ends.ends[BEST[2]])
    assert Path(files.best_model_path).name == "accepted-round=02.ckpt"
    assert files.best_model_score == torch.tensor(0.6)
    assert_same(one(Path(files.best_model_path)), ends.ends[BEST[2]])
    for number, (round_start, accepted) in enumerate(zip((3, 6), BEST, strict=False)):
        mask = {name: kept for name, kept in callback.masks.items() if number == 1}  # of the last round
        came, judged = ends.starts[round_start], ends.ends[accepted]
        for name, tensor in came.items():
            if canonical(name) in callback.masks:
                held = mask.get(name, tensor != 0)
                assert torch.equal(tensor[held], judged[name][held]), name
            else:
                assert torch.equal(tensor, judged[name]), name
    told = [line for line in said if "is its candidate" in line]
    assert told == [
        f"round {i}: epoch {k} of 3 is its candidate, the best by f1 ({s})"
        for i, (k, s) in enumerate(((1, 0.9), (2, 0.4), (3, 0.6)))
    ]


@pytest.mark.parametrize(("rewind", "at"), [("none", "epoch end"), ("lr", "validation end")])
def test_a_run_resumed_anywhere_ends_as_it_would_have(tmp_path: Path, rewind: str, at: str) -> None:
    def go(folder: str, resume: str | None = None) -> tuple[Any, Any, Keep]:
        (tmp_path / folder).mkdir()
        callback, keep = best_pruner(rewind=rewind, max_rounds=1), Keep(tmp_path / folder, at)
        module = scored()
        fit(
            module,
            callback,
            keep,
            EarlyStopping("f1", mode="max", patience=9),
            ckpt_path=resume,
            max_epochs=3,
        )
        return module, callback, keep

    module, callback, keep = go("whole")
    for number in (1, 2, 4):
        again, resumed, _ = go(f"from-{number}", keep.files[number])
        assert_same(weights(again), weights(module))
        assert without_seconds(resumed.ledger) == without_seconds(callback.ledger)


def test_refused_where_nothing_may_choose(tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match="no callback has one"):
        fit(scored(), best_pruner())
    with pytest.raises(
        MisconfigurationException, match=r"by f1 on validation data, and the guard reads the same"
    ):
        fit(scored(), best_pruner(guard_dataloader=None), checkpoint(tmp_path))
    copy = best_pruner(guard_dataloader=val_loader())
    with pytest.raises(MisconfigurationException, match="40 of 40 validation samples"):
        fit(scored(), copy, checkpoint(tmp_path))


def test_the_last_epoch_is_judged_where_none_ends_with_validation(tmp_path: Path) -> None:
    callback, ends = best_pruner(max_rounds=1), Ends()
    module = scored()
    with pytest.warns(UserWarning, match="f1 was logged at the end of no epoch of round 1 that counts"):
        fit(module, callback, ends, checkpoint(tmp_path), max_epochs=2, check_val_every_n_epoch=5)
    assert_same(weights(module), ends.ends[-1])
