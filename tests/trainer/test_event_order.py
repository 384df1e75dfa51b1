"""The gates: where they stand among a trainer's callbacks, and what they pass on."""

from __future__ import annotations

from typing import Any

import lightning.pytorch
import pytest
import pytorch_lightning

from lightning_classprune.trainer.event_order import insert_gates


@pytest.mark.parametrize("package", [lightning.pytorch, pytorch_lightning])
@pytest.mark.parametrize("checkpoints", [0, 2])
def test_the_verdict_falls_between_early_stopping_and_checkpoints(package: Any, checkpoints: int) -> None:
    callbacks, calls = package.callbacks, []
    stopping = callbacks.EarlyStopping("loss")
    saving = [callbacks.ModelCheckpoint(monitor=f"loss {i}") for i in range(checkpoints)]
    owner, last = callbacks.Callback(), callbacks.Callback()
    made = package.Trainer(
        accelerator="cpu", callbacks=[last, owner, stopping, *saving],
        logger=False, enable_checkpointing=bool(checkpoints), enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    users = list(made.callbacks)

    def note(name: str) -> Any:
        return lambda *_: calls.append(name)

    names = ("judge", "seal", "deliver", "interrupted")
    before = insert_gates(made, owner, **{name: note(name) for name in names})
    assert before == users
    assert before is not made.callbacks
    gate, seal = (c for c in made.callbacks if c not in users)
    assert made.callbacks == [owner, last, stopping, gate, *saving, seal]
    assert isinstance(gate, callbacks.EarlyStopping)
    assert isinstance(seal, callbacks.Checkpoint)
    # Lightning writes no state of theirs that a later run would miss.
    assert gate.state_dict() == {}
    assert gate.state_key != stopping.state_key
    for event in (
        gate.on_train_epoch_end,
        seal.on_train_epoch_end,
        gate.on_train_end,
        gate.on_validation_end,
    ):
        event(made, None)
    seal.on_exception(made, None, KeyError())
    assert calls == list(names)
