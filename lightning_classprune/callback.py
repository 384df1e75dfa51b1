"""ClassAwarePruningCallback: wires Lightning's events to a run."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import lightning.pytorch as lightning_pytorch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lightning_classprune.export.judged_files import JudgedFiles
from lightning_classprune.guard.options import Guard
from lightning_classprune.guard.task import Outcomes
from lightning_classprune.guard.tasks import AnyTask
from lightning_classprune.guard.tolerance import FNTolerance
from lightning_classprune.guard.validation_recall import RECALL, ValidationRecall, recalls
from lightning_classprune.ledger.frame import ledger_frame
from lightning_classprune.ledger.rows import Row
from lightning_classprune.pruning.masks import Masks, pack, unpack
from lightning_classprune.pruning.options import UNSAID, Cut
from lightning_classprune.rounds.options import AnySearch, SearchName
from lightning_classprune.rounds.run import PruningRun
from lightning_classprune.rounds.settings import Settings, refuse_unknown
from lightning_classprune.rounds.startup import Startup
from lightning_classprune.rounds.status import Status
from lightning_classprune.tickets.options import Files
from lightning_classprune.trainer.child_results import ChildResults
from lightning_classprune.trainer.compatibility import check_trainer
from lightning_classprune.trainer.event_order import insert_gates
from lightning_classprune.trainer.forward import Predict
from lightning_classprune.trainer.versions import warn_of_checkpoint

if TYPE_CHECKING:
    import pandas

    _BASES = (lightning_pytorch.Callback,)
    _Callback = lightning_pytorch.Callback
else:
    # A Trainer of `pytorch_lightning` takes its own Callback class only, and the same object must serve both.
    try:
        import pytorch_lightning

        class _Callback(lightning_pytorch.Callback, pytorch_lightning.Callback):
            pass

    except ImportError:
        _Callback = lightning_pytorch.Callback


class ClassAwarePruningCallback(_Callback):
    """Iterative magnitude pruning that may not miss what the dense network finds.

    Within one `trainer.fit`, the network is trained densely once; then rounds of pruning, rewinding and retraining
    follow, each as long as the trainer's own `max_epochs`/`max_steps`. A round stands only if the guard's evidence says
    that the protected classes' false negatives (FN) have not risen beyond the tolerance; a refused round is undone.
    The module ends as the sparsest network that was judged and accepted, bit for bit.

    After Entezari & Saukh 2019 (arXiv 1909.10364), with the guard that the method lacks.

    Args:
        num_classes: Number of classes, or of labels in a multi-label task; 2 or more.
        protect: Protected class (index, or name with `class_names`) -> allowed rise of its FN rate in [0, 1], or an
            `FNTolerance`.
        class_names: One name a class, for `protect`, ledger and logs; indices by default.
        target_sparsity: Pruned share of the prunable weights to aim at, in (0, 1).
        search: How the next density is chosen, and its round trained: `"fixed"`, `"adaptive"`, `"gradual"`, or
            `Fixed(...)`, `Adaptive(...)`, `Gradual(...)`.
        guard: How a candidate is judged.
        cut: What is pruned, and by which criterion; left out, a gradual search without a `task` cuts by
            `"lamp_gradient"`.
        files: What is kept beside the trainer's checkpoints.
        threshold: Decision threshold on raw one-logit or multi-label scores; a score at it is positive.
        predict: `(pl_module, batch) -> (scores, target)`, or `(scores, target, case)` with the id of each sample's
            independent unit (patient, part, drive); by default batches of common forms are read (`trainer.batches`),
            and a module may return an object with `.logits`.
        task: What is found or missed: classes or labels by default; objects with one of `lightning_classprune.tasks`.
        guard_dataloader: Loader, or function that returns one; default the datamodule's `guard_dataloader()`, else
            the validation data, with a warning.

    Raises:
        ValueError: An argument is out of range; the message names it.
        TypeError: There is no such argument; of those that moved the message says where.
    """

    def __init__(
        self,
        num_classes: int,
        protect: Mapping[int | str, float | FNTolerance],
        *,
        class_names: Sequence[str] | None = None,
        target_sparsity: float = 0.99,
        search: SearchName | AnySearch = "fixed",
        guard: Guard = Guard(),
        cut: Cut = UNSAID,
        files: Files = Files(),
        threshold: float = 0.0,
        predict: Predict | None = None,
        guard_dataloader: Callable[[], Any] | Any = None,
        task: AnyTask | None = None,
        **unknown: NoReturn,
    ) -> None:
        super().__init__()
        refuse_unknown(unknown)
        self.settings = Settings.read(
            num_classes=num_classes,
            protect=protect,
            class_names=class_names,
            target_sparsity=target_sparsity,
            search=search,
            guard=guard,
            cut=cut,
            files=files,
            threshold=threshold,
            predict=predict,
            guard_dataloader=guard_dataloader,
            task=task,
        )
        self._startup: Startup | None = None  # from `setup` on
        self._run: PruningRun | None = None  # from `on_fit_start` on
        self._callbacks_before: list[Any] | None = None
        self._masks: Masks = {}
        self._sparsity = 0.0
        self._ledger: list[Row] = []
        self._offsets = {one.name: 0.0 for one in self.settings.protected}
        self._closing = self._closing_checkpoint = False
        self._state: dict[str, Any] = {}
        self._child_results = ChildResults()
        self._recall: dict[str, float] = {}

    # -- results --

    @property
    def masks(self) -> Masks:
        """Masks by parameter name, True = kept: of the round in training during `fit`, as delivered after it."""
        self._collect()
        return self._run.masks if self._run is not None else self._masks

    @property
    def sparsity(self) -> float:
        """Pruned share of the prunable weights (of the channels with granularity `"channel"`) under `masks`."""
        self._collect()
        return self._run.sparsity if self._run is not None else self._sparsity

    @property
    def ledger(self) -> list[Row]:
        """One row per judged round: what was tried, what was measured, the verdict and the reason."""
        self._collect()
        return self._run.recorder.rows if self._run is not None else self._ledger

    @property
    def offsets(self) -> dict[str, float]:
        """Bias to add to a class' score that the delivered module does not already contain, by protected class.

        0.0 where there is none, or where the last layer's bias has taken it.
        """
        self._collect()
        if self._run is not None:
            return self._run.delivery.offsets(one.name for one in self.settings.protected)
        return dict(self._offsets)

    @property
    def guard_outcomes(self) -> dict[str, Outcomes]:
        """After a fit: targets and decisions on the guard data, of the `dense` and of the `delivered` network.

        Empty if no network was judged.
        """
        self._collect()
        saved = {
            "dense": self._state.get("dense_outcomes"),
            "delivered": self._state.get("accepted_outcomes"),
        }
        task = self.settings.task
        return {name: task.restored(one) for name, one in saved.items() if one is not None}

    @property
    def round_epoch(self) -> int:
        """Epoch within the present round; `trainer.current_epoch` counts over all rounds."""
        return self._run.clock.round_epoch if self._run is not None else 0

    def status(self) -> Status | None:
        """Where the run stands, for a person who watches; None outside of training."""
        run = self._run
        return run.status(self._recall) if run is not None else None

    def ledger_frame(self) -> pandas.DataFrame:
        """The ledger as a pandas frame, one row per round and protected class (see `frames.ledger_frame`).

        Raises:
            ModuleNotFoundError: pandas is not installed; the message says how to get it.
        """
        return ledger_frame(self.ledger)

    @property
    def awaits_judgement(self) -> bool:
        """Whether the run was interrupted before the guard judged what it kept (`Guard(judging="end")`)."""
        self._collect()
        if self._run is not None:
            return self._run.closing.is_open
        open_run = self._state.get("was_judged") is False and self._state.get("dense_outcomes") is not None
        return self.settings.guard.judging == "end" and open_run

    def judge(self, trainer: Any, *data: Any, **fit_arguments: Any) -> None:
        """Close an interrupted run of `Guard(judging="end")` as it stands: the guard judges what was kept, once.

        Nothing is trained. A judgement is final: the run can neither be resumed nor judged again. The command for a
        run folder is `classprune-judge RUN`.

        Args:
            trainer: With this callback.
            *data: What `trainer.fit` takes: the model and its data; after an interrupted fit in this process they are
                known.
            **fit_arguments: Further arguments of `trainer.fit`, such as `ckpt_path` in another process than the one
                that was interrupted.

        Raises:
            MisconfigurationException: There is nothing to close, or it was judged already.
        """
        if self.settings.guard.judging != "end":
            raise MisconfigurationException(
                "judge closes a run of Guard(judging='end'); with judging='round' every round is judged as it ends"
            )
        if not data and not fit_arguments:
            data, fit_arguments = _of_the_last_fit(trainer)
        trainer.should_stop = False  # of the interrupted fit, which Lightning 2.4 leaves so
        # Lightning reads a checkpoint after `setup`, where it does not say that there is one.
        self._closing, self._closing_checkpoint = True, fit_arguments.get("ckpt_path") is not None
        try:
            trainer.fit(*data, **fit_arguments)
        finally:
            self._closing = self._closing_checkpoint = False

    # -- events of a fit --

    @property
    def _present(self) -> PruningRun:
        """The run of the fit that is going on."""
        assert self._run is not None
        return self._run

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Check the trainer and take the places from which rounds can be steered."""
        if stage != "fit":
            return
        check_trainer(trainer, self)
        earlier, self._sparsity, self._ledger, self._state = self._state, 0.0, [], {}
        settings = self.settings
        maker = None
        if settings.files.judged and not trainer.fast_dev_run:
            classes, kinds = settings.class_names, settings.files.judged
            maker = JudgedFiles(kinds, classes, settings.threshold, settings.predict)
            maker.check_packages()
        self._startup = Startup(
            settings, trainer, self._masks, earlier=earlier, closing=self._closing, maker=maker
        )
        if self._closing and not self._closing_checkpoint:
            if not earlier:
                raise MisconfigurationException(
                    "judge: this callback knows of no run; give ckpt_path=... of one"
                )
            self._startup.continue_from(earlier)
        names = [one.name for one in settings.protected]
        self._validation_recall = ValidationRecall(names, settings.task, settings.predict)
        self._callbacks_before = insert_gates(
            trainer,
            self,
            judge=lambda *_: self._present.end_of_epoch(),
            seal=lambda *_: self._present.after_epoch(),
            deliver=lambda *_: self._present.deliver(),
            interrupted=lambda *_: self._interrupted(trainer),
        )

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """The model is on its device: check it, and set the limits of the loop."""
        assert self._startup is not None
        self._run = self._startup.prepare(pl_module)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Everything is restored: check the guard data and begin, or go on."""
        assert self._startup is not None
        self._startup.start()
        known = {} if self._present.pending else trainer.callback_metrics
        self._recall = recalls({name: float(value) for name, value in known.items()})

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Set up the next round if a verdict was given."""
        self._present.start_of_epoch()
        if self._present.clock.round_epoch == 0:
            self._recall = {}  # that of the round before

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """A rewind point may be inside an epoch."""
        self._present.start_of_batch()

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """A criterion may listen to the gradients that are about to be used."""
        self._present.before_optimizer_step(optimizer)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The mask of the round may shrink."""
        self._present.end_of_batch()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Other callbacks are to find the delivered network; the gate puts it in again after weight averaging."""
        if not self._present.closing.is_open:
            self._present.restore_accepted()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Before anyone saves: a batch may be unfinished."""
        if self._run is not None:
            self._run.on_exception()

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """A resumed run that was finished already skips training; it delivers here."""
        self._present.deliver()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Keep the results and leave the trainer as it was."""
        if stage == "fit":
            self._close(trainer)

    def _interrupted(self, trainer: Any) -> None:
        """An exception ends the fit: the module keeps the last accepted ticket, the trainer its own settings."""
        if self._run is not None:
            self._run.interrupted()
        self._close(trainer)

    def _close(self, trainer: Any) -> None:
        if self._startup is None:
            return
        startup, run = self._startup, self._run
        self._startup = self._run = None
        self._validation_recall.forget()
        if run is not None:
            run.deliver_unjudged()
            self._masks, self._sparsity, self._ledger = run.masks, run.sparsity, run.recorder.rows
            self._offsets = run.delivery.offsets(one.name for one in self.settings.protected)
            self._state = run.final_state
        startup.close()
        if trainer.is_global_zero:
            masks = {name: pack(mask) for name, mask in self._masks.items()}
            self._child_results.post(
                {
                    "masks": masks,
                    "sparsity": self._sparsity,
                    "ledger": self._ledger,
                    "offsets": self._offsets,
                    "state": self._state,
                }
            )
        if self._callbacks_before is not None:
            trainer.callbacks, self._callbacks_before = self._callbacks_before, None

    def _collect(self) -> None:
        """Take over what a copy of this callback did in a child process."""
        if (results := self._child_results.collect()) is not None:
            self._masks = {name: unpack(mask) for name, mask in results["masks"].items()}
            self._sparsity = results["sparsity"]
            self._ledger, self._state = results["ledger"], results["state"]
            self._offsets = results["offsets"]

    # -- recall at every validation --

    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Start counting."""
        if self._run is not None:
            self._run.cutter.look()
            self._validation_recall.begin(trainer, pl_module)

    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """What the network says of the batch need not be asked twice."""
        if self._run is not None:
            self._validation_recall.listen(pl_module)

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Count one batch."""
        if self._run is not None:
            self._validation_recall.add(trainer, pl_module, batch, dataloader_idx)

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Log recall, FN and support of the protected classes."""
        if self._run is None:
            return
        if trainer.sanity_checking:
            self._validation_recall.count()
            return
        if self._run.best is not None:
            self._run.best.has_validated()
        metrics = self._validation_recall.metrics(trainer)
        self._recall = recalls(metrics)
        for name, value in metrics.items():
            pl_module.log(name, value, prog_bar=name.startswith(RECALL), sync_dist=trainer.world_size > 1)

    # -- saving --

    def state_dict(self) -> dict[str, Any]:
        """Everything that resuming needs, in tensors and primitives (`weights_only=True` loads it)."""
        self._collect()
        if self._startup is not None and self._run is not None and not self._run.begun:
            return self._startup.state_dict()
        return self._run.state_dict() if self._run is not None else self._state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the run that wrote this; a run with other settings is refused."""
        if self._startup is not None:
            self._startup.continue_from(state_dict)

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Note how far the checkpoint had got."""
        if self._startup is not None:
            warn_of_checkpoint(trainer, checkpoint)
            epochs = int(checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])
            self._startup.note_checkpoint(epochs, checkpoint.get("callbacks", {}).get(self.state_key))

    def __getstate__(self) -> dict[str, Any]:
        self._collect()
        # Lightning hangs the module's `log` methods on callbacks; a copy must not carry a whole model along.
        return {
            k: v
            for k, v in self.__dict__.items()
            if k not in ("log", "log_dict", "_startup", "_run", "_validation_recall", "_callbacks_before")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _startup=None, _run=None, _callbacks_before=None)

    def __deepcopy__(self, memo: dict[int, Any]) -> ClassAwarePruningCallback:
        twin = object.__new__(type(self))
        memo[id(self)] = twin
        twin.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return twin


def _of_the_last_fit(trainer: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The model and the data that a trainer had."""
    if trainer.lightning_module is None:
        raise MisconfigurationException("judge: this trainer has fitted nothing; give the model and its data")
    if trainer.datamodule is not None:
        return (trainer.lightning_module,), {"datamodule": trainer.datamodule}
    loop = trainer.fit_loop
    loaders = loop._data_source.instance, loop.epoch_loop.val_loop._data_source.instance
    return (trainer.lightning_module, *loaders), {}
