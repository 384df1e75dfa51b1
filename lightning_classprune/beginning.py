"""Beginning: what happens of a run from the trainer's `setup` to the first batch.

A run begins with the weights as they come, with those of another training's checkpoint, or where an earlier process
left it. Lightning tells which in steps, and some strategies restore a checkpoint later than others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_info

from lightning_classprune import rounds
from lightning_classprune.companions import Companions
from lightning_classprune.cutting import Cutter
from lightning_classprune.error_budget import ErrorBudget
from lightning_classprune.guard_data import Predict
from lightning_classprune.judge import Judge
from lightning_classprune.keeping import LadderKeeper
from lightning_classprune.masks import Masks
from lightning_classprune.preflight import (
    check_criterion,
    check_guard_data,
    check_length_left,
    check_rewind_point,
    find_guard_data,
    make_plan,
    starting_masks,
)
from lightning_classprune.processes import Processes
from lightning_classprune.prunable import Prunable
from lightning_classprune.recording import Recorder
from lightning_classprune.resuming import (
    check_same_run,
    finish_epoch,
    restore_left_out,
    run_settings,
    step_plateau_schedulers,
)
from lightning_classprune.rewinding import release_schedulers
from lightning_classprune.round_clock import RoundClock
from lightning_classprune.round_length import check_total_epochs
from lightning_classprune.round_randomness import RoundRandomness
from lightning_classprune.round_start import RoundStart
from lightning_classprune.run import PruningRun
from lightning_classprune.search import Search, find_validation_data
from lightning_classprune.settings import Settings


class Beginning:
    """Brings one run up to its first batch; made in `setup`, while limits and callbacks are the user's still.

    Args:
        settings: The arguments, checked.
        predict: `(pl_module, batch) -> (scores, target)`.
        guard_dataloader: Loader, or function that returns one, or None.
        prunable: Which parameters.
        rewind_file: Keeps the rewind point; None leaves it to the checkpoints.
        ladder: Folder for the accepted tickets; None keeps none.
        trainer: The trainer of the fit.
        inherited: Masks that an earlier fit delivered.
    """

    def __init__(
        self,
        settings: Settings,
        predict: Predict,
        guard_dataloader: Any,
        prunable: Prunable,
        rewind_file: str | None,
        ladder: str | None,
        trainer: Any,
        inherited: Masks,
    ) -> None:
        self._settings = settings
        self._predict = predict
        self._guard_argument = guard_dataloader
        self._prunable = prunable
        self._rewind_file = rewind_file
        self._trainer = trainer
        self._inherited = inherited
        self._processes = Processes(trainer.global_rank, trainer.world_size)
        self._ladder = LadderKeeper(None if trainer.fast_dev_run else ladder, settings, self._processes)
        self._clock = RoundClock(trainer)
        self._companions = Companions(trainer, lambda: self._clock.start)
        self._randomness = RoundRandomness(trainer, self._processes)
        self._run: PruningRun | None = None
        self._resumed: Mapping[str, Any] | None = None
        self._loaded_epochs = 0  # how far the loop was in the checkpoint that is resumed
        self._foreign_epochs: int | None = None

    # -- what a checkpoint says, before the run is prepared or after --

    def note_checkpoint(self, epochs: int, *, foreign: bool) -> None:
        """A checkpoint is loaded.

        Args:
            epochs: That its loop had processed.
            foreign: It has no state of ours.
        """
        self._loaded_epochs = epochs
        if foreign:
            self._foreign_epochs = epochs
            rank_zero_info("the checkpoint has no pruning state: its weights are where round 0 starts")
            if self._run is not None:
                self._set_horizon(self._run)

    def continue_from(self, saved: dict[str, Any]) -> None:
        """Go on from what `PruningRun.state_dict` returned, if this is the same run."""
        check_same_run(saved, run_settings(self._settings, self._clock.user))
        self._resumed = saved
        if self._run is not None:
            self._set_horizon(self._run)

    # -- the events --

    def prepare(self, pl_module: Any) -> PruningRun:
        """`on_fit_start`: the strategy is set up, training state is not restored yet; check the model, set limits."""
        settings, trainer, processes = self._settings, self._trainer, self._processes
        self._randomness.agree()
        frozen = self._companions.by_epoch.unfreezes
        cutter = Cutter.find(settings, trainer, pl_module, self._prunable, processes, frozen=frozen)
        units, sharding = cutter.units, cutter.sharding
        round_start = RoundStart(settings, trainer, pl_module, self._clock, sharding, self._rewind_file)
        masks = starting_masks(units.parameters, self._inherited, sharding, processes)
        plan = make_plan(settings, masks, units)
        budget = ErrorBudget(settings.alpha, settings.retries, rounds.largest_number_of_tests(plan))
        check_criterion(settings.criterion, units.parameters)
        run = PruningRun(
            settings=settings,
            trainer=trainer,
            module=pl_module,
            processes=processes,
            plan=plan,
            cutter=cutter,
            judge=Judge(settings, self._predict, processes, budget),
            round_start=round_start,
            clock=self._clock,
            companions=self._companions,
            randomness=self._randomness,
            recorder=Recorder(trainer),
            ladder=self._ladder,
            masks=masks,
        )
        self._set_horizon(run)
        self._run = run
        return run

    def _set_horizon(self, run: PruningRun) -> None:
        """Begin, or go on where the checkpoint was written, which some strategies load only after `on_fit_start`."""
        # Lightning takes a step limit for a reason to repeat an epoch when it resumes, so it comes back after that.
        if self._resumed is not None:
            run.load_state_dict(self._resumed)
            if run.state.round > 0:
                run.round_start.before_loading()
            # A round that was saved at its end, before its verdict, must not look like a job with nothing to do.
            self._clock.apply(max_steps=-1, max_epochs=-1)
        else:
            ahead = self._settings.baseline == "current"
            self._clock.begin_round_zero(self._foreign_epochs, ahead=ahead)
            if self._foreign_epochs is not None and not ahead:
                self._check_length_left(self._foreign_epochs)
            self._clock.apply(max_steps=-1)
        if run.state.finished is not None:
            self._trainer.fit_loop.max_epochs = self._loaded_epochs

    def _check_length_left(self, epochs: int) -> None:
        check_length_left(self._clock.user, self._clock.horizon, epochs, self._trainer.global_step)

    def start(self) -> None:
        """`on_train_start`: loops are restored; find and check the guard data, hold masks, set the step limit."""
        assert self._run is not None
        run = self._run
        run.data = find_guard_data(self._trainer, self._guard_argument, self._processes)
        if not self._trainer.fast_dev_run:
            self._check_limits_and_data(run)
        run.begin_ladder()
        run.cutter.hold(run.masks, self._trainer.optimizers)
        if self._resumed is not None:
            self._go_on(run, self._resumed)
            return
        run.cutter.apply(run.masks)
        if self._foreign_epochs is None or self._settings.baseline == "current":
            self._clock.count_steps_from_here()
        self._check_length_left(self._clock.epochs)
        self._clock.apply()
        run.round_start.at_start(self._foreign_epochs)
        if self._settings.baseline == "current":
            run.end_of_round(job_over=False)

    def _check_limits_and_data(self, run: PruningRun) -> None:
        settings, user = self._settings, self._clock.user
        foreign = self._foreign_epochs if self._resumed is None else None
        check_rewind_point(self._trainer, settings.rewind, user, foreign)
        check_total_epochs(user, settings.max_total_epochs)
        check_guard_data(run.judge.outcomes(self._trainer, run.module, run.data, limit=1))
        if settings.schedule is not None:
            run.search = Search(run.judge, find_validation_data(self._trainer, run.data, run.judge))

    def _go_on(self, run: PruningRun, saved: Mapping[str, Any]) -> None:
        self._randomness.go_on()
        if run.search is not None:
            run.search.load_state_dict(saved["search"])
        if run.state.round > 0 and not run.pending:
            run.round_start.after_loading()
        self._clock.apply()
        restore_left_out(saved, self._trainer, run.module, self._processes)
        if saved["early_stopped"] and not run.pending:
            self._companions.early_stopping.mark_stopped()
        progress = self._trainer.fit_loop.epoch_progress.current
        if progress.ready > progress.processed and self._clock.is_over() and not run.pending:
            finish_epoch(self._trainer)
        if progress.ready == progress.processed:
            # The checkpoint of an epoch's last batch skips the end of that epoch when it is resumed.
            run.end_of_epoch()
            if saved["inside_epoch_end"]:
                step_plateau_schedulers(self._trainer)

    def close(self) -> None:
        """Leave the trainer as the user had it, whether the run came to its first batch or not."""
        if self._run is not None:
            self._run.cutter.release()
        release_schedulers(self._trainer)
        self._companions.by_epoch.release()
        self._clock.release()
