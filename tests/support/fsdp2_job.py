"""Fits of one sharded (FSDP2) network: `python fsdp2_job.py <folder>`; each of two processes saves what it saw."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_classprune.guard.tasks import Tokens
from lightning_classprune.trainer.versions import DTensor
from tests.support import kit
from tests.support.ddp_job import (
    Net,
    Seen,
    Watch,
    as_tokens,
    dataset,
    guard_loader,
    patients_loader,
    pruner,
    val_loader,
)

try:
    from torch.distributed.fsdp import fully_shard
except ImportError:  # torch 2.5 and older
    from torch.distributed._composable.fsdp import fully_shard

torch.set_num_threads(1)


class Sharded(Net):
    """Rows that do not divide by two: pieces of 13 and 12 rows, and of one row and none."""

    def __init__(self, optimizer: str = "adam") -> None:
        pl.LightningModule.__init__(self)
        self.kind = optimizer
        self.net = nn.Sequential(
            nn.Linear(8, 25), nn.BatchNorm1d(25), nn.ReLU(), nn.Linear(25, 1, bias=False), nn.Linear(1, 2)
        )

    def configure_model(self) -> None:
        mesh = getattr(self, "_device_mesh", None)
        if mesh is not None and not isinstance(self.net[0].weight, DTensor):
            for layer in (self.net[0], self.net[3]):
                fully_shard(layer, mesh=mesh["data_parallel"])
            fully_shard(self, mesh=mesh["data_parallel"])

    def configure_optimizers(self) -> Any:
        if self.kind == "sgd":
            return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
        optimizer = torch.optim.Adam(self.parameters(), lr=0.02, weight_decay=1e-3)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.7)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}


def module(optimizer: str = "adam") -> Sharded:
    torch.manual_seed(11)
    return Sharded(optimizer)


class Recurrent(Sharded):
    """An LSTM over sequences of one step."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(11)
        self.net = nn.ModuleList([nn.LSTM(8, 6, batch_first=True), nn.Linear(6, 2)])

    def configure_model(self) -> None:
        mesh = getattr(self, "_device_mesh", None)
        if mesh is not None and not isinstance(self.net[1].weight, DTensor):
            for part in (*self.net, self):
                fully_shard(part, mesh=mesh["data_parallel"])

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.net[1](self.net[0](x[:, None])[0][:, -1])
        return scores


def recurrent(kind: str, folder: str) -> dict[str, Any]:
    net, callback = Recurrent(), pruner(max_rounds=1)
    fit(net, kind, folder, callback)
    return results(callback, net)


class Leaks(pl.Callback):
    """Counts pruned weights of this process' pieces that are not zero, after every step."""

    def __init__(self, callback: Any) -> None:
        self.callback = callback
        self.count, self.looked_at = 0, 0

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        for name, parameter in pl_module.named_parameters():
            if name in self.callback.masks:
                rank, n = trainer.global_rank, trainer.world_size
                chunks = self.callback.masks[name].chunk(n)
                mask = chunks[rank] if rank < len(chunks) else self.callback.masks[name][:0]
                piece = parameter.detach().to_local()
                assert piece.shape == mask.shape
                self.count += int((piece[~mask] != 0).sum())
                self.looked_at += int((~mask).sum())


AT_THE_END: dict[str, Any] = {
    "judging": "end",
    "offset": "validation",
    "confidence": 0.9,
    "max_fp_rise": 0.6,
    "protect": {1: 0.6},
}


def strategy(kind: str, whole_files: bool = False) -> Any:
    if kind == "fsdp2":
        return ModelParallelStrategy(
            data_parallel_size=2, tensor_parallel_size=1, save_distributed_checkpoint=not whole_files
        )
    return kind


def fit(
    net: Sharded,
    kind: str,
    folder: str,
    *callbacks: Any,
    ckpt_path: str | None = None,
    whole_files: bool = False,
    **options: Any,
) -> pl.Trainer:
    defaults: dict[str, Any] = {
        "devices": 2,
        "strategy": strategy(kind, whole_files),
        "num_sanity_val_steps": 2,
        "default_root_dir": folder,
    }
    trainer = kit.trainer(*callbacks, **(defaults | options))
    pl.seed_everything(7, verbose=False)
    # Few steps: on a CPU the collectives of each one take most of the time.
    train = DataLoader(dataset(203, 1), batch_size=48, shuffle=True)
    trainer.fit(net, train, val_loader(), ckpt_path=ckpt_path)
    return trainer


def whole(net: nn.Module) -> dict[str, Tensor]:
    """All weights put together (a collective)."""
    return {
        name: t.full_tensor().detach().clone() if isinstance(t, DTensor) else t.detach().clone()
        for name, t in net.state_dict().items()
    }


def results(callback: Any, net: nn.Module, **more: Any) -> dict[str, Any]:
    return {
        "ledger": callback.ledger,
        "masks": callback.masks,
        "sparsity": callback.sparsity,
        "offsets": callback.offsets,
        "weights": whole(net),
        **more,
    }


def once(kind: str, folder: str, **options: Any) -> dict[str, Any]:
    seen, net = Seen(), module()
    callback = pruner(predict=seen, **options)
    leaks, judged = Leaks(callback), Judged()
    fit(net, kind, folder, callback, Watch(seen), judged, *([leaks] if kind == "fsdp2" else []))
    return results(
        callback, net, passes=seen.passes, judged=judged.weights, leaks=(leaks.count, leaks.looked_at)
    )


class Judged(pl.callbacks.Checkpoint):
    """The weights at the end of every epoch, put together: after the verdict, before the next round."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.weights.append(whole(pl_module))


class Cut(pl.callbacks.Checkpoint):
    """Saves at the end of one epoch, and ends the process' fit there like a crash would."""

    def __init__(self, path: str, epoch: int) -> None:
        self.path, self.epoch = path, epoch

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == self.epoch:
            trainer.save_checkpoint(self.path)
            raise InterruptedError


def resumed(folder: str, epoch: int, whole_files: bool, name: str = "cut", **options: Any) -> dict[str, Any]:
    """The run of `once`, cut at the end of an epoch and resumed with new objects."""
    path = f"{folder}/{name}-{epoch}-{whole_files}.ckpt"
    with contextlib.suppress(InterruptedError):
        fit(module(), "fsdp2", folder, pruner(**options), Cut(path, epoch), whole_files=whole_files)
    net, callback = module(), pruner(**options)
    fit(net, "fsdp2", folder, callback, ckpt_path=path, whole_files=whole_files)
    return results(callback, net)


def refused(folder: str) -> dict[str, Any]:
    """Every round is refused, so that what is delivered is what was judged at the end of round 0."""
    judged, net = Judged(), module()

    def predict(net: Any, batch: Any) -> Any:
        scores = net(batch[0])
        if callback.ledger:
            scores = scores - torch.tensor([0.0, 1e6])
        return scores, batch[1]

    callback = pruner(predict=predict, protect={1: 0.01}, on_refusal="retry", retries=1, rewind="none")
    fit(net, "fsdp2", folder, callback, judged)
    return results(callback, net, judged=judged.weights)


def files(folder: str) -> dict[str, Any]:
    """ModelCheckpoint, two fits with one callback, and evaluation afterwards."""
    net = module("sgd")
    callback = pruner(max_rounds=1, rewind="epoch:1")
    keep = pl.callbacks.ModelCheckpoint(dirpath=f"{folder}/files", save_last=True)
    trainer = fit(net, "fsdp2", folder, callback, keep, whole_files=True)
    found = results(callback, net, best=keep.best_model_path)
    found["validated"] = trainer.validate(net, val_loader(), verbose=False)
    return found


def blind(folder: str) -> dict[str, Any]:
    """`predict` fails on one process in the middle of a validation, and the other goes on to all-gather."""

    def predict(net: Any, batch: Any) -> Any:
        scores = net(batch[0])
        if (
            os.environ["LOCAL_RANK"] == "1" and not callback.ledger and len(batch[0]) == 16
        ):  # of validation only
            raise LookupError("no such column")
        return scores, batch[1]

    net, callback = module(), pruner(predict=predict, max_rounds=1)
    trainer = fit(net, "fsdp2", folder, callback, max_epochs=1, num_sanity_val_steps=0)
    return results(callback, net, logged=sorted(trainer.callback_metrics))


def raised(folder: str, net: Any = None, strategy: Any = None, **options: Any) -> str:
    try:
        fit(
            net or module(),
            "fsdp2",
            folder,
            pruner(**options),
            **({"strategy": strategy} if strategy else {}),
        )
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


class Half(Sharded):
    """One layer is sharded, the others are whole."""

    def configure_model(self) -> None:
        if not isinstance(self.net[0].weight, DTensor):
            fully_shard(self.net[0], mesh=self.device_mesh["data_parallel"])


def all_equal(weight: Tensor, rewind_point: Tensor) -> Tensor:
    return torch.zeros_like(weight)


def nan_on_one(weight: Tensor, rewind_point: Tensor) -> Tensor:
    trained = not torch.equal(weight, rewind_point)
    return weight * float("nan") if trained and os.environ["LOCAL_RANK"] == "1" else weight.abs()


def objects(kind: str, folder: str) -> dict[str, Any]:
    """Objects of patients that lie on both processes."""
    net, guard = module(), patients_loader()
    callback = pruner(predict=as_tokens, task=Tokens(), guard_dataloader=guard, max_rounds=1)
    fit(net, kind, folder, callback)
    return results(callback, net)


class Scored(Sharded):
    """Of each round the first epoch is the best, as the first process sees it; the second sees the opposite."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        scores = (0.9, 0.5, 0.6, 0.2)
        score = scores[self.trainer.current_epoch]
        self.log("f1", score if self.trainer.global_rank == 0 else 1 - score)


def best(kind: str, folder: str, cut: int | None = None) -> dict[str, Any]:
    """Of every round its best epoch; cut at the end of an epoch and resumed, if one is given."""

    def parts() -> tuple[Scored, Any, Judged]:
        torch.manual_seed(11)
        return Scored(), pruner(epoch="best", max_rounds=1, rewind="none"), Judged()

    path = f"{folder}/best-{kind}.ckpt"
    monitored = pl.callbacks.EarlyStopping("f1", mode="max", patience=9)
    if cut is not None:
        net, callback, judged = parts()
        with contextlib.suppress(InterruptedError):
            fit(net, kind, folder, callback, monitored, judged, Cut(path, cut))
    net, callback, judged = parts()
    fit(net, kind, folder, callback, monitored, judged, ckpt_path=path if cut is not None else None)
    return results(callback, net, judged=judged.weights)


GRADUAL: dict[str, Any] = {
    "search": "gradual",
    "densities": (0.5,),
    "round_epochs": 2,
    "criterion": "magnitude",
}


FINE_TUNED: dict[str, Any] = {"criterion": "lamp_gradient", "rewind": "none"}


def main(folder: str) -> None:
    tiny_guard = DataLoader(TensorDataset(*guard_loader().dataset[:5]), batch_size=2)  # type: ignore[index]
    found = {
        "ddp": once("ddp", folder),
        "fsdp2": once("fsdp2", folder, ladder=f"{folder}/tickets"),
        "layers, five samples": once(
            "fsdp2",
            folder,
            criterion="magnitude_increase",
            scope="layer",
            guard_dataloader=tiny_guard,
            max_rounds=1,
        ),
        "gradual": once("fsdp2", folder, **GRADUAL),
        "gradual, resumed": resumed(folder, 2, whole_files=False, **GRADUAL),
        "ties": once("fsdp2", folder, criterion=all_equal, max_rounds=1),
        "resumed in round 0": resumed(folder, 0, whole_files=False),
        "resumed at a verdict": resumed(folder, 1, whole_files=True, ladder=f"{folder}/tickets-resumed"),
        "resumed in round 1": resumed(folder, 2, whole_files=False, rewind_file=f"{folder}/point.pt"),
        "by gradients": once("fsdp2", folder, **FINE_TUNED),
        "by gradients, of wholes": once("ddp", folder, **FINE_TUNED),
        "by gradients, resumed in round 1": resumed(
            folder, 2, whole_files=False, name="gradients", **FINE_TUNED
        ),
        "by class gradients": once("fsdp2", folder, criterion="class_lamp_gradient", max_rounds=1),
        "by class gradients, of wholes": once("ddp", folder, criterion="class_lamp_gradient", max_rounds=1),
        "refused": refused(folder),
        "blind": blind(folder),
        "at the end, whole": once("ddp", folder, **AT_THE_END, ladder=f"{folder}/judged-whole"),
        "at the end": once("fsdp2", folder, **AT_THE_END, ladder=f"{folder}/judged"),
        "at the end, resumed": resumed(
            folder, 2, whole_files=False, **AT_THE_END, ladder=f"{folder}/judged-resumed"
        ),
        "objects, whole": objects("ddp", folder),
        "objects": objects("fsdp2", folder),
        "recurrent, whole": recurrent("ddp", folder),
        "recurrent": recurrent("fsdp2", folder),
        "best epoch, whole": best("ddp", folder),
        "best epoch": best("fsdp2", folder),
        "best epoch, resumed": best("fsdp2", folder, cut=2),
        "files": files(folder),
        "half": raised(folder, net=Half()),
        "nan": raised(folder, criterion=nan_on_one),
        "tensor parallel": raised(
            folder, strategy=ModelParallelStrategy(data_parallel_size=1, tensor_parallel_size=2)
        ),
    }
    torch.save(found, os.path.join(folder, f"process-{os.environ.get('LOCAL_RANK', 0)}.pt"))


if __name__ == "__main__":
    main(*sys.argv[1:])
