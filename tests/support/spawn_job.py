"""A fit whose launcher trains in child processes: `python spawn_job.py ddp_spawn|ddp_fork <folder>`."""

from __future__ import annotations

import copy
import sys
from typing import Any

import lightning.pytorch as pl
import torch

from tests.support.compare import weights
from tests.support.ddp_job import fit, make_trainer, module, pruner, train_loader, val_loader


class Tell(pl.Callback):
    """Saves what the child process had in the end."""

    def __init__(self, folder: str, callback: Any) -> None:
        self.folder, self.callback = folder, callback

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        told = {"ledger": self.callback.ledger, "masks": self.callback.masks}
        torch.save(told, f"{self.folder}/child-{trainer.global_rank}.pt")


def main(strategy: str, folder: str) -> None:
    net, callback = module(), pruner()
    before, early = callback.ledger, copy.deepcopy(callback)
    trainer = fit(net, strategy, folder, callback, Tell(folder, callback))
    found = {
        "before": before,
        "ledger": callback.ledger,
        "masks": callback.masks,
        "sparsity": callback.sparsity,
        "weights": weights(net),
        "copies": [len(early.ledger), len(copy.deepcopy(callback).ledger)],
    }
    if strategy == "ddp_fork":  # as above where processes start slowly
        trainer.save_checkpoint(f"{folder}/parent.ckpt")
        states = torch.load(f"{folder}/parent.ckpt", weights_only=True)["callbacks"]
        found["saved"] = len(states["ClassAwarePruningCallback"]["ledger"])
        again, copied = pruner(), copy.deepcopy(net)
        resumed = make_trainer(strategy, folder, again)
        resumed.fit(copied, train_loader(), val_loader(), ckpt_path=f"{folder}/parent.ckpt")
        found["resumed"] = {"ledger": again.ledger, "weights": weights(copied)}
        second = make_trainer(strategy, folder, callback, max_epochs=1)
        second.fit(net, train_loader(), val_loader())
        found["second"] = callback.ledger
    torch.save(found, f"{folder}/parent.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
