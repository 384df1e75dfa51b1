"""A run of two processes that is judged once, at its end: `python judged_job.py <folder>`; each saves what it saw."""

from __future__ import annotations

import sys

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_classprune import ClassAwarePruningCallback, Files, Fixed, Guard
from tests.support import ddp_job
from tests.support.compare import weights

torch.set_num_threads(1)


class Net(ddp_job.Net):
    """Takes images of 2 x 4 pixels in [0, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(1).clamp(0.001, 0.999).logit())


def dataset(n: int, seed: int) -> TensorDataset:
    x, y, numbers = ddp_job.dataset(n, seed).tensors
    return TensorDataset(x.sigmoid().view(n, 1, 2, 4), y, numbers)


def main(folder: str) -> None:
    pl.seed_everything(7, verbose=False)
    callback = ClassAwarePruningCallback(
        2,
        {1: 0.3},
        guard_dataloader=DataLoader(dataset(301, 3), batch_size=50),
        target_sparsity=0.8,
        search=Fixed(fraction=0.5, rewind="lr", max_rounds=2),
        guard=Guard(offset="validation", judging="end", max_fp_rise=0.3, corruptions={"impulse_noise": 0.4}),
        files=Files(ladder=f"{folder}/tickets", judged=["int8"], nested=True),
    )
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    net = Net()
    data = (DataLoader(dataset(203, n), batch_size=16, shuffle=n == 1) for n in (1, 2))
    trainer.fit(net, *data)
    seen = {
        "ledger": [{**row, "seconds": 0} for row in callback.ledger],
        "weights": weights(net),
        "masks": callback.masks,
        "offsets": callback.offsets,
    }
    torch.save(seen, f"{folder}/rank-{trainer.global_rank}.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
