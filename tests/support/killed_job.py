"""One job that can be killed at a chosen moment and started again: `python killed_job.py <folder> <moment> <strategy>`,
or with `<ckpt_path> <judging>` behind.

It resumes from the last checkpoint in its folder if there is one, and writes `result-<process>.pt` when it is through.
A moment is `<event>:<n>`, with which the process kills itself (SIGKILL) at the n-th such event:

    batch       a training batch is done
    judged      a batch of the guard data is being predicted
    verdict     a verdict was given, or an epoch ended without one; nothing of it is saved yet
    saved       ModelCheckpoint has had the end of an epoch
    begun       an epoch begins, with the next round set up if there is one
    refused     a batch of a round that follows a refusal begins
    write       a checkpoint is written; half of its bytes are
    rename      a checkpoint is written, and not yet in its place
    place       a file of our own (a ticket, the ladder's list, a hash) is written, and not yet in its place
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from fsspec.implementations.local import LocalFileOpener
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_classprune import ClassAwarePruningCallback, FNTolerance
from lightning_classprune.tickets.ladder import Ladder
from tests.support import kit
from tests.support.compare import weights
from tests.support.ddp_job import Net, dataset, train_loader, val_loader

torch.set_num_threads(1)

EVENTS = ("batch", "judged", "verdict", "saved", "begun", "refused", "write", "rename", "place")
REFUSED = (2, 4)  # attempts, counted from the dense one, 0


class Killer:
    """Counts events and kills the process at the chosen one."""

    def __init__(self, moment: str) -> None:
        self.event, _, count = moment.partition(":")
        self.left = int(count or 0)
        self.counts = dict.fromkeys(EVENTS, 0)

    def state_dict(self) -> dict[str, Any]:
        """Nothing: a run that was killed goes on as one that is not."""
        return {}

    def __call__(self, event: str) -> bool:
        """Whether the next thing to do is to die."""
        self.counts[event] += 1
        return event == self.event and self.counts[event] == self.left

    def at(self, event: str) -> None:
        if self(event):
            die()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Hooks(pl.Callback):
    def __init__(self, killer: Killer, pruner: ClassAwarePruningCallback, counted: Path) -> None:
        self.killer, self.pruner, self.counted = killer, pruner, counted

    def on_fit_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.is_global_zero:  # a launcher's child keeps its counts to itself otherwise
            self.counted.write_text(json.dumps(self.killer.counts))

    def on_train_epoch_start(self, *_: Any) -> None:
        self.killer.at("begun")

    def on_train_batch_start(self, *_: Any) -> None:
        if self.pruner.ledger and self.pruner.ledger[-1]["verdict"] in ("refused", "unproven"):
            self.killer.at("refused")

    def on_train_batch_end(self, *_: Any) -> None:
        self.killer.at("batch")


class EpochEnd(Checkpoint):
    """Among the checkpoint callbacks, so that the verdict comes first."""

    def __init__(self, killer: Killer, event: str) -> None:
        self.killer, self.event = killer, event

    @property
    def state_key(self) -> str:
        return self.event

    def on_train_epoch_end(self, *_: Any) -> None:
        self.killer.at(self.event)


def watch_writes(killer: Killer) -> Any:
    """Die while Lightning writes a file; returns a function that ends the watch."""
    write, commit, replace = LocalFileOpener.write, LocalFileOpener.commit, Path.replace

    def dying_replace(self: Path, target: Any) -> Path:
        killer.at("place")
        return replace(self, target)

    def dying_write(self: LocalFileOpener, data: bytes) -> Any:
        if killer("write"):
            write(self, data[: len(data) // 2])
            self.f.flush()
            die()
        return write(self, data)

    def dying_commit(self: LocalFileOpener) -> None:
        killer.at("rename")
        commit(self)

    LocalFileOpener.write, LocalFileOpener.commit = dying_write, dying_commit  # type: ignore[method-assign]
    Path.replace = dying_replace  # type: ignore[method-assign]

    def stop() -> None:
        LocalFileOpener.write, LocalFileOpener.commit = write, commit  # type: ignore[method-assign]
        Path.replace = replace  # type: ignore[method-assign]

    return stop


def make(
    killer: Killer, folder: str, judging: str = "round", search: str = "fixed"
) -> ClassAwarePruningCallback:
    """Rounds of which two are refused; with `judging="end"`, none."""

    def predict(module: Net, batch: list[Tensor]) -> tuple[Tensor, Tensor]:
        scores = module(batch[0])
        if pruner._run is not None and pruner._run.trainer.state.stage == "validate" and len(batch[1]) == 40:
            killer.at("judged")
        if judging == "round" and len(pruner.ledger) in REFUSED:
            scores = scores - torch.tensor([0.0, 1e6])
        return scores, batch[1]

    refusals = {"on_refusal": "retry", "retries": 2} if judging == "round" else {"max_fp_rise": 0.4}
    steps: dict[str, Any] = {"fraction": 0.5}
    if search == "gradual":
        steps = {"search": search, "densities": (0.5, 0.3), "round_epochs": 3, "max_rounds": 3}
    pruner = kit.pruner(
        protect={1: FNTolerance(rate=0.4)},
        confidence=0.9,
        judging=judging,
        **steps,
        **refusals,
        predict=predict,
        guard_dataloader=DataLoader(dataset(240, 3), batch_size=40),
        ladder=f"{folder}/tickets",
    )
    return pruner


def run(
    folder: str,
    moment: str = "",
    strategy: str = "auto",
    ckpt_path: str = "last",
    judging: str = "round",
    search: str = "fixed",
) -> dict[str, int]:
    """Train in this process; returns how often each event came."""
    killer = Killer(moment)
    pruner = make(killer, folder, judging, search)
    stop = watch_writes(killer)
    counted = Path(folder) / "counts.json"
    files = ModelCheckpoint(dirpath=f"{folder}/files", monitor="val_loss", save_last=True)
    trainer = kit.trainer(
        Hooks(killer, pruner, counted),
        pruner,
        EpochEnd(killer, "verdict"),
        files,
        EpochEnd(killer, "saved"),
        devices=1 if strategy == "auto" else 2,
        strategy=strategy,
        num_sanity_val_steps=2,
        default_root_dir=folder,
    )
    pl.seed_everything(7, verbose=False)
    net = Net()
    try:
        trainer.fit(net, train_loader(), val_loader(), ckpt_path=ckpt_path)
    finally:
        stop()
    if strategy != "auto":
        killer.counts = json.loads(counted.read_text())
    result = {
        "weights": weights(net),
        "masks": pruner.masks,
        "ledger": pruner.ledger,
        "budget": pruner.state_dict()["budget"],
        "ladder": Ladder(f"{folder}/tickets").entries(),
        "best": Path(files.best_model_path).name,
        "counts": killer.counts,
    }
    torch.save(result, f"{folder}/result-{trainer.global_rank}.pt")
    return killer.counts


if __name__ == "__main__":
    run(*sys.argv[1:])
