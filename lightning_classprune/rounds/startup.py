"""Startup: what happens of a run from the trainer's `setup` to the first batch.

A run begins with the weights as they come, with those of another training's checkpoint, or where an earlier process
left it. Lightning tells which in steps, and some strategies restore a checkpoint later than others.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor

from lightning_classprune.guard.conditions import Condition, plain
from lightning_classprune.guard.data import (
    GuardData,
    check_guard_data,
    check_not_selected_by,
    find_guard_data,
    find_validation_loaders,
)
from lightning_classprune.guard.error_budget import ErrorBudget
from lightning_classprune.guard.evaluator import Evaluator
from lightning_classprune.guard.judge import Judge
from lightning_classprune.guard.leaks import check_apart, check_guard, check_units_apart
from lightning_classprune.guard.task import Columns, OfUnits, Outcomes, Task
from lightning_classprune.ledger.recording import Recorder
from lightning_classprune.pruning.cutter import Cutter, check_criterion, starting_masks
from lightning_classprune.pruning.masks import HeldMasks, Masks
from lightning_classprune.pruning.parameters import tell_coverage
from lightning_classprune.rounds.best_epoch import BestEpoch
from lightning_classprune.rounds.clock import (
    RoundClock,
    check_length_left,
    check_rewind_point,
    check_total_epochs,
)
from lightning_classprune.rounds.file_candidates import FileCandidates, FileMaker
from lightning_classprune.rounds.gradual import check_length_is_known
from lightning_classprune.rounds.nested import check_can_nest
from lightning_classprune.rounds.plan import largest_number_of_tests, make_plan
from lightning_classprune.rounds.randomness import RoundRandomness
from lightning_classprune.rounds.resuming import (
    check_same_run,
    finish_epoch,
    restore_left_out,
    run_settings,
    step_plateau_schedulers,
)
from lightning_classprune.rounds.rewind import release_schedulers
from lightning_classprune.rounds.run import PruningRun
from lightning_classprune.rounds.search import Search, find_validation_data
from lightning_classprune.rounds.settings import Settings
from lightning_classprune.rounds.start import RoundStart
from lightning_classprune.tickets.keeper import LadderKeeper
from lightning_classprune.tickets.kept import KeptTickets
from lightning_classprune.tickets.spent import SpentTests
from lightning_classprune.trainer.batches import described, reading
from lightning_classprune.trainer.checkpoint_hashes import hash_checkpoints, release_checkpoints
from lightning_classprune.trainer.compatibility import refuse_finders, refuse_optimizers
from lightning_classprune.trainer.forward import PreparedPredict, default_predict
from lightning_classprune.trainer.loaders import is_stream
from lightning_classprune.trainer.monitor import find_monitor
from lightning_classprune.trainer.other_callbacks import OtherCallbacks
from lightning_classprune.trainer.processes import Processes
from lightning_classprune.trainer.sharding import Sharding
from lightning_classprune.trainer.versions import of_type


class Startup:
    """Brings one run up to its first batch; made in `setup`, while limits and callbacks are the user's still.

    Args:
        settings: The arguments, checked.
        trainer: The trainer of the fit.
        inherited: Masks that an earlier fit delivered.
        earlier: The state that it left.
        closing: The run that is resumed is not gone on with: what it kept is judged.
        maker: Of the files that are judged; None where none are.
    """

    def __init__(
        self,
        settings: Settings,
        trainer: Any,
        inherited: Masks,
        *,
        earlier: Mapping[str, Any] | None = None,
        closing: bool = False,
        maker: FileMaker | None = None,
    ) -> None:
        self._settings = settings
        self._earlier = earlier or {}
        self._trainer = trainer
        self._inherited = inherited
        self._closing = closing
        self._maker = maker
        self._processes = Processes(trainer.global_rank, trainer.world_size)
        ladder = None if trainer.fast_dev_run else settings.files.ladder
        self._ladder = LadderKeeper(ladder, settings.card(), self._processes)
        self._clock = RoundClock(trainer)
        self._other_callbacks = OtherCallbacks(trainer, lambda: self._clock.start)
        self._randomness = RoundRandomness(trainer, self._processes)
        self._run: PruningRun | None = None
        self._resumed: Mapping[str, Any] | None = None
        self._loaded_epochs = 0  # how far the loop was in the checkpoint that is resumed
        self._foreign_epochs: int | None = None
        self._extended = False
        judges_best = settings.guard.epoch == "best" and not trainer.fast_dev_run
        self._monitor = find_monitor(trainer, "Guard.epoch='best'") if judges_best else None
        self._token = uuid.uuid4().hex
        hash_checkpoints(trainer)

    # -- what a checkpoint says, before the run is prepared or after --

    def note_checkpoint(self, epochs: int, state: Mapping[str, Any] | None) -> None:
        """A checkpoint is loaded.

        Args:
            epochs: That its loop had processed.
            state: Of ours in it; None where it has none.
        """
        if self._is_put_back(state):
            return
        self._loaded_epochs = epochs
        if state is not None and not _has_not_begun(state):
            return
        if state is None or epochs:
            self._foreign_epochs = epochs
            rank_zero_info("the checkpoint has no pruning state: its weights are where round 0 starts")
        if self._run is not None:
            self._set_horizon(self._run)

    def _is_put_back(self, state: Mapping[str, Any] | None) -> bool:
        """Whether another callback goes back to what it has just saved: nothing of ours has happened between.

        A finder of rates or batch sizes saves the trainer, trains with callbacks of its own, and puts all back.
        """
        begun = self._run is not None and self._run.begun
        return begun or (state is not None and state.get("before_start_of") == self._token)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds of a run that has not begun: what it is to go on from, or that there is nothing."""
        return dict(self._resumed or {"before_start_of": self._token})

    def continue_from(self, saved: dict[str, Any]) -> None:
        """Go on from what `PruningRun.state_dict` returned, if this is the same run."""
        if self._is_put_back(saved) or _has_not_begun(saved):
            return
        self._extended = check_same_run(saved, run_settings(self._settings, self._clock.user))
        if self._closing and saved["was_judged"]:
            raise MisconfigurationException(
                "judge: this run was judged already, and a judgement is final; its verdicts are in callback.ledger"
            )
        self._resumed = saved
        if self._run is not None:
            self._set_horizon(self._run)

    # -- the events --

    def prepare(self, pl_module: Any) -> PruningRun:
        """`on_fit_start`: the strategy is set up, training state is not restored yet; check the model, set limits."""
        settings, trainer, processes = self._settings, self._trainer, self._processes
        if self._resumed is not None or self._foreign_epochs is not None:
            refuse_finders(trainer)
        refuse_optimizers(trainer.optimizers)
        self._randomness.agree()
        frozen = self._other_callbacks.by_epoch.unfreezes
        cutter = Cutter.find(settings.cut, settings.criterion, trainer, pl_module, processes, frozen=frozen)
        units, sharding = cutter.units, cutter.sharding
        if settings.files.nested:
            check_can_nest(trainer, sharded=bool(sharding))
        tell_coverage(pl_module, units.parameters)
        round_start = RoundStart(settings, trainer, pl_module, self._clock, sharding)
        masks = starting_masks(units.parameters, self._inherited, sharding, processes)
        plan = make_plan(settings, masks, units)
        budget = ErrorBudget(settings.guard.alpha, settings.search.retries, largest_number_of_tests(plan))
        settings.criterion.restart()
        if not settings.criterion.looks_first:
            check_criterion(settings.criterion, units.parameters)
        evaluator = Evaluator(settings.task, settings.predict, processes, self._conditions())
        name = processes.first(uuid.uuid4().hex[:8])  # in those of the files that it keeps
        kept = self._kept(name)
        run = PruningRun(
            settings=settings,
            trainer=trainer,
            module=pl_module,
            processes=processes,
            plan=plan,
            cutter=cutter,
            judge=Judge(evaluator, settings.protected, budget),
            round_start=round_start,
            clock=self._clock,
            other_callbacks=self._other_callbacks,
            randomness=self._randomness,
            recorder=Recorder(trainer),
            ladder=self._ladder,
            kept=kept,
            files=self._files(kept, sharding),
            spent=SpentTests(self._folder(), name, processes),
            best=None if self._monitor is None else BestEpoch(self._monitor, trainer, processes),
            held=HeldMasks(masks, as_bits=bool(sharding)),
        )
        if units.pruned(masks):
            run.earlier = self._earlier
        self._set_horizon(run)
        self._run = run
        return run

    def _conditions(self) -> tuple[Condition, ...]:
        """Under what the guard's cases are judged besides as they come."""
        guard = self._settings.guard
        try:
            return tuple(
                Condition(name, guard.corruption(name, self._trainer.datamodule), limits)
                for name, limits in guard.limits_under(self._settings.protected).items()
            )
        except ValueError as error:
            raise MisconfigurationException(str(error)) from error

    def _kept(self, name: str) -> KeptTickets | None:
        """Where candidates wait for their judgement: the ladder's folder, else that of the checkpoints."""
        if self._settings.guard.judging != "end" or self._trainer.fast_dev_run:
            return None
        return KeptTickets(self._folder(), name, self._processes)

    def _files(self, kept: KeptTickets | None, sharding: Sharding) -> FileCandidates | None:
        """The files that are judged with the candidates.

        Raises:
            MisconfigurationException: No process has the whole network to make them of.
        """
        if kept is None or self._maker is None:
            return None
        kinds = self._settings.files.judged
        if sharding:
            raise MisconfigurationException(
                f"Files.judged={list(kinds)}: a sharded module (FSDP) is on no process as a whole, of which a file "
                "could be made; use DDP, or judged=[]"
            )
        return FileCandidates(kinds, self._maker, lambda: kept.folder, self._processes)

    def _folder(self) -> str:
        """Where a run keeps files of its own: in that of the ladder, or of the checkpoints."""
        beside = [
            callback.dirpath for callback in of_type(self._trainer, "ModelCheckpoint") if callback.dirpath
        ]
        folder = self._settings.files.ladder or next(iter(beside), None) or self._trainer.default_root_dir
        return os.fspath(folder)

    def _set_horizon(self, run: PruningRun) -> None:
        """Begin, or go on where the checkpoint was written, which some strategies load only after `on_fit_start`."""
        # Lightning takes a step limit for a reason to repeat an epoch when it resumes, so it comes back after that.
        if self._resumed is not None:
            run.load_state_dict(self._resumed, extended=self._extended)
            if run.state.round > 0:
                run.round_start.before_loading()
            # A round that was saved at its end, before its verdict, must not look like a job with nothing to do.
            self._clock.apply(max_steps=-1, max_epochs=-1)
        else:
            ahead = self._settings.guard.baseline == "current"
            self._clock.begin_round_zero(self._foreign_epochs, ahead=ahead)
            if self._foreign_epochs is not None and not ahead:
                self._check_length_left(self._foreign_epochs)
            self._clock.apply(max_steps=-1)
        if run.state.finished is not None and not (self._extended and run.can_be_reopened):
            self._trainer.fit_loop.max_epochs = self._loaded_epochs

    def _check_length_left(self, epochs: int) -> None:
        check_length_left(self._clock.user, self._clock.horizon, epochs, self._trainer.global_step)

    def start(self) -> None:
        """`on_train_start`: loops are restored; find and check the guard data, hold masks, set the step limit."""
        assert self._run is not None
        run = self._run
        run.data = find_guard_data(self._trainer, self._settings.guard_dataloader, self._processes)
        if not self._trainer.fast_dev_run:
            self._check_limits_and_data(run)
        run.delivery.begin_ladder(run.recorder.rows)
        if not self._trainer.fast_dev_run:
            run.cutter.rehearse(run.masks, self._trainer.optimizers)
        run.cutter.hold(run.masks, self._trainer.optimizers)
        run.begun = True
        if self._closing:
            self._close_run(run)
            return
        if self._resumed is not None:
            self._go_on(run, self._resumed)
            return
        if self._foreign_epochs is None:
            run.round_start.begin()
        if not self._trainer.fast_dev_run:
            run.round_start.rehearse()
        run.cutter.apply(run.masks)
        if self._foreign_epochs is None or self._settings.guard.baseline == "current":
            self._clock.count_steps_from_here()
        self._check_length_left(self._clock.epochs)
        self._clock.apply()
        run.round_start.at_start(self._foreign_epochs)
        if self._settings.guard.baseline == "current":
            run.end_of_round(job_over=False)

    def _close_run(self, run: PruningRun) -> None:
        """Judge what a resumed run kept, and train nothing."""
        if self._resumed is None or not run.closing.is_open:
            raise MisconfigurationException(
                "judge: there is no run with a dense network to judge its candidates by; go on with it until round 0 "
                "is over"
            )
        run.close()
        run.state = replace(run.state, finished=run.state.finished or "it was closed before its end")
        self._clock.set_round(0, 0)
        self._trainer.fit_loop.max_epochs = self._clock.epochs

    def _check_limits_and_data(self, run: PruningRun) -> None:
        settings, user = self._settings, self._clock.user
        foreign = self._foreign_epochs if self._resumed is None else None
        check_rewind_point(self._trainer, settings.search.point, user, foreign)
        if run.gradual.is_on:
            check_length_is_known(self._trainer, run.round_start.length)
        check_total_epochs(user, settings.search.max_total_epochs)
        evaluator = run.judge.evaluator
        columns = self._first_columns(run)
        outcomes = None if columns is None else evaluator.task.outcomes(columns, {})
        check_guard_data(outcomes)
        if columns is not None:
            self._check_columns(evaluator.task, columns)
            self._check_cases(run, run.data, columns, plain(run.judge.dense), "guard_dataloader")
            for condition in evaluator.conditions:
                evaluator.columns(self._trainer, run.module, run.data, under=condition)
        if outcomes is not None and self._resumed is None:
            run.judge.tell_power(outcomes)
        run.rehearse_criterion()
        if run.files is not None:
            run.files.rehearse(self._trainer, run.module)
        asks = settings.asks_validation
        if asks is not None:
            data = find_validation_data(self._trainer, run.data, self._processes, asks)
            run.search = Search(
                evaluator, settings.protected, data, with_offset=settings.guard.offset == "validation"
            )
            self._check_validation(run, run.search)
        if self._monitor is not None:
            check_not_selected_by(self._trainer, run.data, self._monitor.name)
        self._check_leaks(run, asks, columns)

    def _first_columns(self, run: PruningRun) -> Columns | None:
        """The guard data, read for the first time; how their batches are read is said unless they are pairs."""
        predict, told, short = self._settings.predict, set[str](), set[torch.dtype]()

        def noting(module: Any, batch: Any) -> Any:
            if predict is default_predict and not (isinstance(batch, tuple | list) and len(batch) == 2):
                told.add(described(reading(batch), batch))
            returned = predict(module, batch)
            scores = returned[0] if isinstance(returned, tuple | list) and returned else None
            if isinstance(scores, Tensor) and scores.dtype in (torch.bfloat16, torch.float16):
                short.add(scores.dtype)
            return returned

        # A predict that is fitted to the network first says itself what it reads.
        asked = predict if isinstance(predict, PreparedPredict) else noting
        evaluator = replace(run.judge.evaluator, predict=asked)
        columns = evaluator.columns(self._trainer, run.module, run.data)
        for dtype in short:
            rank_zero_info(
                f"the guard judges scores of {dtype}, as precision={self._trainer.precision!r} computes them: where "
                "the best two of a case are rounded to one number, the first class is called; a predict of your own "
                "may compute them in 32 bits"
            )
        for one in sorted(told):
            rank_zero_info(f"predict: batches are read as {one}")
        return columns

    def _check_cases(
        self, run: PruningRun, data: GuardData, columns: Columns, known: Outcomes | None, what: str
    ) -> None:
        """Networks are compared case by case: the cases must be the same at every reading, and after a resume."""
        evaluator = run.judge.evaluator
        first = evaluator.task.outcomes(columns, {})
        if known is not None and not first.same_cases(known):
            raise MisconfigurationException(
                f"{what}: its {len(first)} cases are not the {len(known)} on which networks were compared before this "
                "checkpoint was written; give the data that the run had, in their order, or begin a new run"
            )
        if not any(is_stream(loader) for loader in data.loaders):
            return  # of a data set the samples are read one by one in a fixed order
        again = evaluator.columns(self._trainer, run.module, data)
        second = None if again is None else evaluator.task.outcomes(again, {})
        if second is not None and not second.same_cases(first):
            raise MisconfigurationException(
                f"{what}: read twice, the stream gave {len(first)} cases and then {len(second)}, or others, or in "
                "another order; every reading must give the same, so pass a DataLoader over a map-style data set, or a "
                "stream that begins anew, without shuffling, each time it is asked"
            )

    def _check_validation(self, run: PruningRun, search: Search) -> None:
        saved = None if self._resumed is None else self._resumed["search"]
        known = None if saved is None else saved["dense"]
        streams = any(is_stream(loader) for loader in search.data.loaders)
        if known is None and not streams:
            return
        columns = search.evaluator.columns(self._trainer, run.module, search.data)
        if columns is not None:
            dense = None if known is None else search.evaluator.task.restored(known)
            self._check_cases(run, search.data, columns, dense, "validation data")

    def _check_columns(self, task: Task, columns: Columns) -> None:
        """What is wrong with targets is wrong for ever; a network that is not trained yet may give any scores."""
        if wrong := task.wrong_targets(columns):
            raise MisconfigurationException(f"guard data: {wrong}")
        if self._resumed is None and (wrong := task.wrong_scores(columns)):
            rank_zero_warn(
                f"guard data: before training {wrong}; if that is still so after round 0, pruning ends there"
            )

    def _check_leaks(self, run: PruningRun, asks: str | None, columns: Columns | None) -> None:
        task = run.judge.evaluator.task
        ids = task.ids(columns) if columns and isinstance(task, OfUnits) else None
        contents = check_guard(run.data, self._processes)
        training = self._trainer.fit_loop._combined_loader.flattened
        apart = [(training, "training samples", "data that trained the weights must not judge them")]
        if run.search is not None:
            mend = f"{asks} lets validation data choose what the guard judges"
            apart.append((run.search.data.loaders, "validation samples", mend))
        elif self._monitor is not None:
            mend = "Guard.epoch='best' lets validation data choose what the guard judges"
            apart.append((find_validation_loaders(self._trainer) or [], "validation samples", mend))
        if isinstance(self._settings.predict, PreparedPredict):
            why = "data that a probe was fitted on must not judge it"
            apart.append((self._settings.predict.loaders, "samples that the probe is fitted on", why))
        for loaders, what, why in apart:
            mend = f"{why}; give the guard a split of its own (guard_dataloader=...)"
            check_apart(run.data, contents, loaders, what, mend, self._processes)
            if ids is not None:
                predict, processes = self._settings.predict, self._processes
                check_units_apart(self._trainer, run.module, ids, loaders, what, mend, predict, processes)

    def _go_on(self, run: PruningRun, saved: Mapping[str, Any]) -> None:
        self._randomness.go_on()
        if run.search is not None:
            run.search.load_state_dict(saved["search"])
            run.tell_labels()
        if run.state.round > 0 and not run.pending:
            run.round_start.after_loading()
        self._clock.apply()
        restore_left_out(saved, self._trainer, run.module, self._processes)
        if saved["early_stopped"] and not run.pending:
            self._other_callbacks.early_stopping.mark_stopped()
        progress = self._trainer.fit_loop.epoch_progress.current
        if progress.ready > progress.processed and self._clock.is_over() and not run.pending:
            finish_epoch(self._trainer)
        if progress.ready == progress.processed:
            # The checkpoint of an epoch's last batch skips the end of that epoch when it is resumed.
            run.end_of_epoch()
            if saved["inside_epoch_end"]:
                step_plateau_schedulers(self._trainer)
        if self._extended and run.can_be_reopened:
            run.reopen()

    def close(self) -> None:
        """Leave the trainer as the user had it, whether the run came to its first batch or not."""
        if self._run is not None:
            self._run.cutter.release()
        release_schedulers(self._trainer)
        release_checkpoints(self._trainer)
        self._other_callbacks.by_epoch.release()
        self._clock.release()


def _has_not_begun(state: Mapping[str, Any]) -> bool:
    """Whether the run that saved this had not come to its first batch."""
    return "before_start_of" in state
