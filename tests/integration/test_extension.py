"""A run that is extended is the run with the larger limits; a test is given once, whatever is resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_classprune import ClassAwarePruningCallback
from tests.support.compare import assert_same, weights, without_seconds
from tests.support.kit import fit, guard_loader, pruner, tiny, verdicts

# 40% a round: 72, 43 and 30 of 120 weights stay.
OPTIONS: dict[str, Any] = {"confidence": 0.9, "protect": {1: 0.9}}
ADAPTIVE: dict[str, Any] = {
    "search": "adaptive",
    "on_refusal": "stop",
    "retries": 0,
    "round_epochs": 1,
    "target_sparsity": 0.98,
}


def run(
    folder: Path, callback: ClassAwarePruningCallback, resume: Path | None = None, **options: Any
) -> pl.Trainer:
    checkpoint = ModelCheckpoint(folder, save_top_k=-1, save_last=True)
    return fit(tiny(), callback, checkpoint, ckpt_path=resume, max_epochs=1, **options)


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({"max_rounds": 1}, {"max_rounds": 3}),
        ({"max_total_epochs": 2}, {"max_total_epochs": None}),
        ({"target_sparsity": 0.5}, {"target_sparsity": 0.75}),
        (ADAPTIVE | {"max_rounds": 1}, ADAPTIVE | {"max_rounds": 2}),
    ],
)
def test_an_extended_run_is_the_run_with_the_larger_limits(
    tmp_path: Path, first: dict[str, Any], then: dict[str, Any]
) -> None:
    short, extended, whole = (pruner(**OPTIONS | options) for options in (first, then, then))
    run(tmp_path / "a", short)
    made = run(tmp_path / "a", extended, tmp_path / "a/accepted-round=01.ckpt")
    expected = run(tmp_path / "b", whole)
    assert len(extended.ledger) > len(short.ledger)
    if first.get("target_sparsity") != 0.5:  # whose last step is another
        assert_same(weights(made.lightning_module), weights(expected.lightning_module))
        assert without_seconds(extended.ledger) == without_seconds(whole.ledger)
    assert without_seconds(extended.ledger[: len(short.ledger)]) == without_seconds(short.ledger)


def test_a_run_that_was_refused_is_not_extended_and_its_test_is_not_given_again(tmp_path: Path) -> None:
    bad = {2}

    def predict(module: Any, batch: Any) -> Any:
        scores = module(batch[0])
        return scores - 1e6 * torch.tensor([0.0, 1.0]) * (len(now["callback"].ledger) in bad), batch[1]

    now: dict[str, ClassAwarePruningCallback] = {}

    def go(resume: str | None = None, seed: int = 3, **options: Any) -> list[str]:
        judged = {"predict": Predict(), "guard_dataloader": guard_loader(seed=seed)}
        now["callback"] = pruner(**OPTIONS | judged | options)
        made = run(tmp_path, now["callback"], None if resume is None else tmp_path / resume)
        told = made.callback_metrics
        # Of what is delivered, not of the round that was tried last.
        assert (told["classprune/sparsity"], told["classprune/round"], told["classprune/accepted"]) == (
            torch.tensor(0.4),
            1,
            1,
        )
        return verdicts(now["callback"])

    class Predict:
        def __call__(self, module: Any, batch: Any) -> Any:
            return predict(module, batch)

        def state_dict(self) -> dict[str, Any]:
            return {}

    assert go() == ["baseline", "accepted", "unproven"]
    (file,) = tmp_path.glob("tests-*.json")
    spent = file.read_bytes()
    assert [test["verdict"] for test in json.loads(spent).values()] == ["accepted", "unproven"]
    assert go("accepted-round=01.ckpt") == ["baseline", "accepted", "unproven"]
    assert file.read_bytes() == spent
    with pytest.raises(MisconfigurationException, match="cannot be extended, for the guard has refused"):
        go("accepted-round=01.ckpt", target_sparsity=0.8)
    with pytest.raises(
        MisconfigurationException, match=r"its 120 cases are not the 120 .* before this checkpoint"
    ):
        go("accepted-round=01.ckpt", seed=4)
    bad.clear()  # the code that judges is another
    with pytest.raises(MisconfigurationException, match="guard test 2 of this run was made already"):
        go("accepted-round=01.ckpt")
