"""Several fits in two processes: `python ddp_job.py <strategy> <folder>`; each saves what it saw of each fit."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from lightning_classprune import ClassAwarePruningCallback
from lightning_classprune.guard.objects import ObjectTask
from lightning_classprune.guard.tasks import Detection, Tokens
from lightning_classprune.job.objects.final_test import ObjectTest
from tests.support import kit, shapes
from tests.support.compare import weights

torch.set_num_threads(1)


class Net(pl.LightningModule):
    """BatchNorm makes buffers that differ between processes; dropout makes the random state matter."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(8, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Dropout(0.1), nn.Linear(24, 2)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_loss", cross_entropy(self(batch[0]), batch[1]), sync_dist=True)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def dataset(n: int, seed: int) -> TensorDataset:
    """Samples with their number as the third tensor."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 8, generator=generator)
    y = (x[:, 0] + x[:, 1] * x[:, 2] + 0.5 * torch.randn(n, generator=generator) > 0.3).long()
    return TensorDataset(x, y, torch.arange(n))


def train_loader() -> DataLoader[Any]:
    return DataLoader(dataset(203, 1), batch_size=16, shuffle=True)


def val_loader() -> DataLoader[Any]:
    return DataLoader(dataset(61, VALIDATION_SEED), batch_size=16)


GUARD_SIZE = 251
VALIDATION_SEED = 5  # the sample that pads the shards is a positive, so that counting it twice would show


def guard_loader(**options: Any) -> DataLoader[Any]:
    return DataLoader(dataset(GUARD_SIZE, 3), batch_size=40, **options)


def patients_loader() -> DataLoader[Any]:
    """The guard's samples as three of each patient, whom the processes share; no patient is in training too."""
    x, y, numbers = dataset(GUARD_SIZE, 3).tensors
    return DataLoader(TensorDataset(x, y, 1000 + numbers), batch_size=40)


def as_tokens(module: Net, batch: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Sentences of one token, so that only positives are objects, with patients."""
    return module(batch[0])[:, None], batch[1][:, None], batch[2] // 3


def of_patients(module: Net, batch: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Classes of samples, with patients."""
    return module(batch[0]), batch[1], batch[2] // 3


class Seen:
    """A predict function that notes what it met in every pass over the guard data.

    Samples, buffers, and the buffers that training had left.
    """

    def __init__(self) -> None:
        self.passes: list[tuple[list[int], set[str], str]] = []
        self.judging = False

    def __call__(self, module: Net, batch: list[Tensor]) -> tuple[Tensor, Tensor]:
        if self.judging:
            numbers, buffers, _ = self.passes[-1]
            numbers.extend(batch[2].tolist())
            buffers.add(digest(dict(module.named_buffers())))
        return module(batch[0]), batch[1]


class Watch(pl.Callback):
    """Notes each validation's logged counts beside the weights that this process validated with."""

    def __init__(self, seen: Seen | None = None) -> None:
        self.seen = seen
        self.validations: list[dict[str, Any]] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Net) -> None:
        if self.seen is not None:
            self.seen.passes.append(([], set(), digest(dict(pl_module.named_buffers()))))
            self.seen.judging = True

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Net) -> None:
        if self.seen is not None:
            self.seen.judging = False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Net) -> None:
        if not trainer.sanity_checking:
            logged = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("classprune/")}
            self.validations.append({"logged": logged, "weights": weights(pl_module)})


class Stop(pl.Callback):
    """Asks for the end of the job on one process only."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Net) -> None:
        if trainer.global_rank == 1 and trainer.current_epoch == 1:
            trainer.should_stop = True


class Held(pl.Callback):
    """Trains under fixed masks by the plainest means: what a round must equal."""

    def __init__(self, masks: dict[str, Tensor]) -> None:
        self.masks = masks

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: Net, optimizer: Any) -> None:
        for name, parameter in pl_module.named_parameters():
            if name in self.masks and parameter.grad is not None:
                parameter.grad.mul_(self.masks[name])

    @torch.no_grad()
    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Net, *_: Any) -> None:
        for name, parameter in pl_module.named_parameters():
            if name in self.masks:
                parameter.mul_(self.masks[name])


def digest(tensors: dict[str, Tensor]) -> str:
    sha = hashlib.sha256()
    for name in sorted(tensors):
        sha.update(name.encode() + tensors[name].detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()


def pruner(**options: Any) -> ClassAwarePruningCallback:
    """The kit's, with half of the weights a round and guard data of this job."""
    half = {"fraction": 0.5} if "search" not in options else {}
    return kit.pruner(**({"guard_dataloader": guard_loader()} | half | options))


def make_trainer(strategy: str, folder: str, *callbacks: Any, **options: Any) -> pl.Trainer:
    defaults: dict[str, Any] = {
        "devices": 2,
        "strategy": strategy,
        "default_root_dir": folder,
    }
    return kit.trainer(*callbacks, **(defaults | options))


def module(seed: int = 11) -> Net:
    torch.manual_seed(seed)
    return Net()


def fit(
    net: Net,
    strategy: str,
    folder: str,
    *callbacks: Any,
    seed: int | None = 7,
    val: Any = None,
    **options: Any,
) -> pl.Trainer:
    trainer = make_trainer(strategy, folder, *callbacks, **options)
    if seed is not None:
        pl.seed_everything(seed, verbose=False)
    trainer.fit(net, train_loader(), val or val_loader())
    return trainer


def results(callback: ClassAwarePruningCallback, net: Net, **more: Any) -> dict[str, Any]:
    return {"ledger": callback.ledger, "masks": callback.masks, "weights": weights(net), **more}


# -- the fits --


def uneven(strategy: str, folder: str) -> dict[str, Any]:
    """Guard, validation and training sets of odd size; a shuffled guard loader without a DistributedSampler."""
    seen, net = Seen(), module()
    watch = Watch(seen)
    files = pl.callbacks.ModelCheckpoint(dirpath=f"{folder}/uneven", save_top_k=-1, filename="{epoch}")
    callback = pruner(
        predict=seen, guard_dataloader=guard_loader(shuffle=True), ladder=f"{folder}/uneven-tickets"
    )
    fit(net, strategy, folder, callback, watch, files)
    return results(callback, net, passes=seen.passes, validations=watch.validations)


def sampled(strategy: str, folder: str) -> dict[str, Any]:
    """A guard loader that has a shuffling DistributedSampler already; no validation, which would equal the buffers."""
    seen, net = Seen(), module()
    rank = int(os.environ.get("LOCAL_RANK", 0))
    sampler = DistributedSampler(dataset(GUARD_SIZE, 3), num_replicas=2, rank=rank, shuffle=True)
    callback = pruner(predict=seen, guard_dataloader=guard_loader(sampler=sampler), max_rounds=1)
    fit(net, strategy, folder, callback, Watch(seen), max_epochs=1, limit_val_batches=0)
    return results(callback, net, passes=seen.passes)


def averaged(strategy: str, folder: str) -> dict[str, Any]:
    """Averages of weights and of BatchNorm's statistics, which no validation makes equal."""
    net = module()
    callback = pruner(max_rounds=1)
    kind = getattr(pl.callbacks, "EMAWeightAveraging", None)  # from Lightning 2.6 on
    averages = [kind(decay=0.8)] if kind else []
    fit(net, strategy, folder, callback, *averages, max_epochs=1, limit_val_batches=0)
    return results(callback, net)


def validation(strategy: str, folder: str) -> dict[str, Any]:
    """No guard data: the validation loader, in which Lightning has put its padding sampler."""
    seen, net = Seen(), module()
    callback = pruner(predict=seen, guard_dataloader=None, max_rounds=1)
    fit(net, strategy, folder, callback, Watch(seen), max_epochs=1)
    return results(callback, net, passes=seen.passes)


def few(strategy: str, folder: str) -> dict[str, Any]:
    """Fewer guard samples than processes."""
    net = module()
    one = TensorDataset(*dataset(GUARD_SIZE, 3)[[int(dataset(GUARD_SIZE, 3).tensors[1].argmax())]])
    callback = pruner(guard_dataloader=DataLoader(one, batch_size=4), max_rounds=1)
    fit(net, strategy, folder, callback, max_epochs=1)
    return results(callback, net)


def unseeded(strategy: str, folder: str) -> dict[str, Any]:
    """Every process has drawn a seed of its own."""
    os.environ.pop("PL_GLOBAL_SEED", None)
    torch.manual_seed(1000 + int(os.environ.get("LOCAL_RANK", 0)))
    net = Net()
    callback = pruner(max_rounds=1)
    fit(net, strategy, folder, callback, seed=None, max_epochs=1)
    return results(callback, net)


def stopped(strategy: str, folder: str) -> dict[str, Any]:
    """One process asks to stop in round 0."""
    net = module()
    callback = pruner()
    trainer = fit(net, strategy, folder, callback, Stop(), max_epochs=4)
    return results(callback, net, epochs=trainer.current_epoch)


def rewound(strategy: str, folder: str) -> dict[str, Any]:
    """Round 1 beside a fit of its own that starts from the initial weights under the masks of round 1."""
    inside = module()
    callback = pruner(max_rounds=1)
    fit(inside, strategy, folder, callback)
    alone = module()
    with torch.no_grad():
        for name, parameter in alone.named_parameters():
            if name in callback.masks:
                parameter.masked_fill_(~callback.masks[name], 0.0)
    fit(alone, strategy, folder, Held(callback.masks))
    return results(callback, inside, alone=weights(alone))


def adaptive(strategy: str, folder: str) -> dict[str, Any]:
    """Steps by the validation data, of odd size, in shorter rounds."""
    net = module()
    callback = pruner(
        search="adaptive",
        round_epochs=1,
        on_refusal="stop",
        retries=0,
        protect={1: 0.3},
        target_sparsity=0.9,
        max_rounds=3,
    )
    fit(net, strategy, folder, callback)
    return results(callback, net)


def objects(strategy: str, folder: str) -> dict[str, Any]:
    """Objects, of units that lie on both processes."""
    net = module()
    callback = pruner(
        predict=as_tokens, task=Tokens(), guard_dataloader=patients_loader(), max_rounds=1, cluster="any"
    )
    watch = Watch()
    fit(net, strategy, folder, callback, watch)
    return results(callback, net, validations=watch.validations)


def patients(strategy: str, folder: str) -> dict[str, Any]:
    """Classes of several samples a patient; the draw is the same on both processes."""
    net = module()
    callback = pruner(predict=of_patients, guard_dataloader=patients_loader(), max_rounds=1)
    fit(net, strategy, folder, callback)
    return results(callback, net, outcomes=callback.guard_outcomes["dense"].state_dict())


class Detector(shapes.MaskNet):
    """An untrained one, which may be looked at."""

    def test_step(self, batch: Any, batch_idx: int) -> None:
        pass


def boxes_of_patients(module: Detector, batch: list[Tensor]) -> Any:
    return *shapes.boxes(module, batch), batch[2]


def look_at_boxes(trainer_of: Callable[[ObjectTest], pl.Trainer]) -> dict[str, Any]:
    """An odd number of pictures, of patients whom processes share."""
    torch.manual_seed(11)
    task = ObjectTask(Detection(), ("none", "square"), [1], 0.0, "one", with_offset=False)
    others = ObjectTask(Detection(), ("none", "square"), [1], 0.0, "one", with_offset=False)
    test = ObjectTest(task, boxes_of_patients, others)
    trainer_of(test).test(Detector(), shapes.pictures(25, 3, batch_size=4), verbose=False)
    assert test.tested is not None
    found, alarms = test.tested.found, test.tested.alarms
    nothing = replace(found, value=torch.zeros_like(found.value))
    misses, more = nothing.pairs(found, "square")
    told = {"alarms": vars(alarms), "verdict": [str(misses), str(more)], "others": dict(test.tested.others)}
    return {"found": found.state_dict(), "counts": test.tested.counted(), **told}


def boxes(strategy: str, folder: str) -> dict[str, Any]:
    """The job's last look at a detector, on both processes."""
    return look_at_boxes(lambda test: make_trainer(strategy, folder, test))


def leaking_units(strategy: str, folder: str) -> dict[str, Any]:
    """Patients of the guard are in training too."""
    callback = pruner(predict=of_patients)
    return {"raised": _raised(lambda: fit(module(), strategy, folder, callback, max_epochs=1))}


def gradual(strategy: str, folder: str) -> dict[str, Any]:
    """Masks that shrink inside rounds, by gradients of training data."""
    net = module()
    callback = pruner(search="gradual", densities=(0.5, 0.25), round_epochs=2)
    shrunk: list[float] = []

    class Trace(pl.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            shrunk.append(callback.sparsity)

    fit(net, strategy, folder, callback, Trace())
    return results(callback, net, shrunk=shrunk)


def _raised(action: Callable[[], Any]) -> str:
    try:
        action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def rank_dependent(strategy: str, folder: str) -> dict[str, Any]:
    """A criterion that is not the same everywhere."""

    def criterion(weight: Tensor, rewind_point: Tensor) -> Tensor:
        return weight.abs() if int(os.environ.get("LOCAL_RANK", 0)) == 0 else -weight.abs()

    callback = pruner(criterion=criterion)
    return {"raised": _raised(lambda: fit(module(), strategy, folder, callback, max_epochs=1))}


def nan_criterion(strategy: str, folder: str) -> dict[str, Any]:
    """A criterion that fails on one process, and only after training."""

    def criterion(weight: Tensor, rewind_point: Tensor) -> Tensor:
        trained = not torch.equal(weight, rewind_point)
        return weight * float("nan") if trained and os.environ["LOCAL_RANK"] == "1" else weight.abs()

    callback = pruner(criterion=criterion)
    return {"raised": _raised(lambda: fit(module(), strategy, folder, callback, max_epochs=1))}


def failing_predict(strategy: str, folder: str) -> dict[str, Any]:
    """`predict` fails on one process, at the end of round 0."""
    net = module()

    class Failing(Seen):
        def __call__(self, module: Net, batch: list[Tensor]) -> tuple[Tensor, Tensor]:
            if self.judging and os.environ["LOCAL_RANK"] == "1":
                raise LookupError("no such file")
            return super().__call__(module, batch)

    seen = Failing()
    callback = pruner(predict=seen)
    raised = _raised(lambda: fit(net, strategy, folder, callback, Watch(seen), max_epochs=1))
    return {"raised": raised, "ledger": callback.ledger}


def iterable(strategy: str, folder: str) -> dict[str, Any]:
    """Guard data that cannot be shared out exactly."""

    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(dataset(9, 3))

    callback = pruner(guard_dataloader=DataLoader(Stream(), batch_size=3))
    return {"raised": _raised(lambda: fit(module(), strategy, folder, callback, max_epochs=1))}


def failing_guard(strategy: str, folder: str) -> dict[str, Any]:
    """The user's guard function fails on one process."""

    def guard() -> DataLoader[Any]:
        if os.environ["LOCAL_RANK"] == "1":
            raise FileNotFoundError("guard.npz")
        return guard_loader()

    callback = pruner(guard_dataloader=guard)
    return {"raised": _raised(lambda: fit(module(), strategy, folder, callback, max_epochs=1))}


def failing_ladder(strategy: str, folder: str) -> dict[str, Any]:
    """The first process, which writes, cannot."""
    net = module()
    callback = pruner(ladder=os.path.join(__file__, "tickets"))
    return {"raised": _raised(lambda: fit(net, strategy, folder, callback, max_epochs=1))}


def failing_rewind_file(strategy: str, folder: str) -> dict[str, Any]:
    """The first process, which writes, could when the fit began, and cannot in its second epoch."""
    place = Path(folder) / "points"

    class Gone(pl.Callback):
        def on_train_epoch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.is_global_zero:
                place.rmdir()
                place.touch()

    callback = pruner(rewind="epoch:1", rewind_file=str(place / "point.pt"))
    return {"raised": _raised(lambda: fit(module(), strategy, folder, callback, Gone(), max_epochs=2))}


FITS = (
    uneven,
    sampled,
    averaged,
    validation,
    few,
    unseeded,
    stopped,
    rewound,
    adaptive,
    objects,
    patients,
    boxes,
    leaking_units,
    gradual,
    rank_dependent,
    nan_criterion,
    failing_predict,
    iterable,
    failing_guard,
    failing_ladder,
    failing_rewind_file,
)

if __name__ == "__main__":
    strategy, folder = sys.argv[1:3]
    names = sys.argv[3].split(",") if len(sys.argv) > 3 else [f.__name__ for f in FITS]
    found = {f.__name__: f(strategy, folder) for f in FITS if f.__name__ in names}
    torch.save(found, os.path.join(folder, f"process-{os.environ.get('LOCAL_RANK', 0)}.pt"))
