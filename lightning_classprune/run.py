"""A run: the transactions of one `fit` - judge, commit or roll back, begin a round, deliver - over the parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from math import inf
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_info

from lightning_classprune import rounds
from lightning_classprune.companions import Companions
from lightning_classprune.compatibility import warn_where_global_epochs_count
from lightning_classprune.cutting import Cutter
from lightning_classprune.guard import ErrorBudget
from lightning_classprune.guard_data import Predict
from lightning_classprune.judge import Judge
from lightning_classprune.keeping import LadderKeeper
from lightning_classprune.masks import Masks, pack, unpack
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
    STATE_VERSION,
    check_same_parameters,
    check_same_run,
    finish_epoch,
    left_out,
    restore_left_out,
    run_settings,
    shapes,
    step_plateau_schedulers,
)
from lightning_classprune.rewinding import (
    Tensors,
    capture_tensors,
    capture_training,
    release_schedulers,
    restore_tensors,
    restore_training,
)
from lightning_classprune.round_clock import RoundClock
from lightning_classprune.round_length import check_total_epochs, does_not_fit
from lightning_classprune.round_randomness import RoundRandomness
from lightning_classprune.round_start import RoundStart
from lightning_classprune.rows import stands
from lightning_classprune.search import Search, find_validation_data
from lightning_classprune.settings import Settings
from lightning_classprune.sharding import reshard
from lightning_classprune.status import Status, status
from lightning_classprune.tickets import Ticket, pack_ticket, unpack_ticket


class PruningRun:
    """Everything that lives for one `fit`."""

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
        self.settings = settings
        self.predict = predict
        self.rewind_file = rewind_file
        self.guard_argument = guard_dataloader
        self.prunable = prunable
        self.trainer = trainer
        self.inherited = inherited
        self.processes = Processes(trainer.global_rank, trainer.world_size)
        self.ladder = LadderKeeper(None if trainer.fast_dev_run else ladder, settings, self.processes)
        self.clock = RoundClock(trainer)
        self.companions = Companions(trainer, lambda: self.clock.start)
        self.randomness = RoundRandomness(trainer, self.processes)
        self.recorder = Recorder(trainer)

        self.state = rounds.RoundState()
        self.masks: Masks = {}
        self.accepted: Ticket | None = None
        self.pending = False  # a verdict was given, the next round is not set up yet
        self.delivered = False
        self.final_state: dict[str, Any] = {}
        self.prepared = False
        self.resumed: Mapping[str, Any] | None = None
        self.loaded_epochs = 0  # how far the loop was in the checkpoint that is resumed
        self.foreign_epochs: int | None = None

    # -- before the first batch --

    def prepare(self, pl_module: Any) -> None:
        """`on_fit_start`: the strategy is set up, training state is not restored yet; check the model, set limits."""
        self.module = pl_module
        self.randomness.agree()
        frozen = self.companions.by_epoch.unfreezes
        self.cutter = Cutter.find(
            self.settings, self.trainer, pl_module, self.prunable, self.processes, frozen=frozen
        )
        units, self.sharding = self.cutter.units, self.cutter.sharding
        self.round_start = RoundStart(
            self.settings, self.trainer, pl_module, self.clock, self.sharding, self.rewind_file
        )
        self.masks = starting_masks(units.parameters, self.inherited, self.sharding, self.processes)
        self.plan = make_plan(self.settings, self.masks, units)
        pruned = units.pruned(self.masks)
        self.state = replace(self.state, accepted=pruned, candidate=pruned)
        tests = rounds.largest_number_of_tests(self.plan)
        budget = ErrorBudget(self.settings.alpha, self.settings.retries, tests)
        self.judge = Judge(self.settings, self.predict, self.processes, budget)
        self.search: Search | None = None
        check_criterion(self.settings.criterion, units.parameters)
        self.set_horizon()
        self.prepared = True

    def set_horizon(self) -> None:
        """Begin, or go on where the checkpoint was written, which some strategies load only after `on_fit_start`."""
        # Lightning takes a step limit for a reason to repeat an epoch when it resumes, so it comes back after that.
        if self.resumed is not None:
            self._adopt(self.resumed)
            if self.state.round > 0:
                self.round_start.before_loading()
            # A round that was saved at its end, before its verdict, must not look like a job with nothing to do.
            self.clock.apply(max_steps=-1, max_epochs=-1)
        else:
            ahead = self.settings.baseline == "current"
            self.clock.begin_round_zero(self.foreign_epochs, ahead=ahead)
            if self.foreign_epochs is not None and not ahead:
                self._check_length_left(self.foreign_epochs)
            self.clock.apply(max_steps=-1)
        if self.state.finished is not None:
            self.trainer.fit_loop.max_epochs = self.loaded_epochs

    def _check_length_left(self, epochs: int) -> None:
        check_length_left(self.clock.user, self.clock.horizon, epochs, self.trainer.global_step)

    def start(self) -> None:
        """`on_train_start`: loops are restored; find and check the guard data, hold masks, set the step limit."""
        self.data = find_guard_data(self.trainer, self.guard_argument, self.processes)
        if not self.trainer.fast_dev_run:
            foreign = self.foreign_epochs if self.resumed is None else None
            check_rewind_point(self.trainer, self.settings.rewind, self.clock.user, foreign)
            check_total_epochs(self.clock.user, self.settings.max_total_epochs)
            check_guard_data(self.judge.outcomes(self.trainer, self.module, self.data, limit=1))
            if self.settings.schedule is not None:
                self.search = Search(self.judge, find_validation_data(self.trainer, self.data, self.judge))
        self._begin_ladder()
        self.cutter.hold(self.masks, self.trainer.optimizers)
        if self.resumed is not None:
            self._resume(self.resumed)
            return
        self.cutter.apply(self.masks)
        if self.foreign_epochs is None or self.settings.baseline == "current":
            self.clock.count_steps_from_here()
        self._check_length_left(self.clock.epochs)
        self.clock.apply()
        self.round_start.at_start(self.foreign_epochs)
        if self.settings.baseline == "current":
            self._end_of_round(job_over=False)

    def _resume(self, saved: Mapping[str, Any]) -> None:
        self.randomness.go_on()
        if self.search is not None:
            self.search.load_state_dict(saved["search"])
        if self.state.round > 0 and not self.pending:
            self.round_start.after_loading()
        self.clock.apply()
        restore_left_out(saved, self.trainer, self.module, self.processes)
        if saved["early_stopped"] and not self.pending:
            self.companions.early_stopping.mark_stopped()
        progress = self.trainer.fit_loop.epoch_progress.current
        if progress.ready > progress.processed and self.clock.is_over() and not self.pending:
            finish_epoch(self.trainer)
        if progress.ready == progress.processed:
            # The checkpoint of an epoch's last batch skips the end of that epoch when it is resumed.
            self.end_of_epoch()
            if saved["inside_epoch_end"]:
                step_plateau_schedulers(self.trainer)

    def _begin_ladder(self) -> None:
        earlier = self.resumed.get("ladder") if self.resumed is not None else None
        self.ladder.begin(self.recorder.rows, earlier, self.accepted, self.sharding, self.module)

    # -- the end of an epoch, of a round, of the job --

    def end_of_epoch(self) -> None:
        """Judge if the round is over: by its length, by EarlyStopping, or because the job is being stopped."""
        if self.pending or self.state.finished is not None:
            return
        # What EarlyStopping decided is saved, Lightning's flag is not.
        asked = self.trainer.should_stop or self.companions.early_stopping.stopped()
        stopping = self.processes.any(asked and self.trainer.fit_loop._can_stop_early)
        job_over = stopping and not self.companions.early_stopping.stopped()
        if stopping or self.clock.is_over():
            self._end_of_round(job_over)
        elif self.clock.epochs >= (self.settings.max_total_epochs or inf):
            self._end_of_round(job_over=True)  # of a round whose length was not known in epochs
        elif self.search is not None and self.search.is_halfway(self.clock.horizon, self.clock.epochs):
            with self._as_judged():
                reason = self.search.at_half(self.trainer, self.module, dense=self.state.round == 0)
            if reason is not None:
                self._abandon(reason, job_over=False)

    def _end_of_round(self, job_over: bool) -> None:
        if self.search is not None:
            with self._as_judged():
                reason = self.search.at_end(self.trainer, self.module)
            if reason is not None:
                self._abandon(reason, job_over)
                return
        with self._as_judged():
            limit = 1 if self.trainer.fast_dev_run else None
            outcomes = self.judge.outcomes(self.trainer, self.module, self.data, limit)
            tensors = capture_tensors(self.module)
        verdict = None
        if self.judge.baseline is None:
            impossible = self.judge.take_baseline(outcomes, rehearsal=bool(self.trainer.fast_dev_run))
            self.state = replace(self.state, finished=impossible)
        else:
            verdict = self.judge.verdict(outcomes)
        accepted = verdict is None or verdict.accepted
        goes_on = accepted and outcomes is not None and self.state.finished is None
        reach = self._reach(tensors) if goes_on else None
        why = self.state.finished or "the dense network, against which every round is judged"
        self.recorder.judged(self._facts(), outcomes, verdict, self.judge, why)
        if accepted and outcomes is not None:
            self._commit(tensors)
        if self.state.finished is None:
            self.state = rounds.after_verdict(self.plan, self.state, accepted, reach)
        self._extend_or_end(job_over)

    def _commit(self, tensors: Tensors) -> None:
        masks = {name: mask.clone() for name, mask in self.masks.items()}
        training, stopping = capture_training(self.trainer), self.companions.early_stopping.capture()
        self.accepted = Ticket(masks, tensors, training, stopping)
        self.ladder.keep(self.accepted, self.recorder.rows, self.sharding, self.module)

    @contextmanager
    def _as_judged(self) -> Iterator[None]:
        """Inside, the module is what it would be delivered as: averaged weights, the first process' buffers on all."""
        reshard(self.module)
        self.processes.equalize_buffers(self.module)
        with self.companions.averaging.swapped_in(self.module):
            yield

    def _reach(self, tensors: Tensors) -> int | None:
        """How far the network that was just accepted can be pruned without retraining; it is put back bit for bit."""
        if self.search is None:
            return None
        assert self.settings.schedule is not None
        origin, present = self.round_start.origin, self.state.candidate
        looks = self.settings.schedule.looks(self.plan.total, present, self.plan.target)
        with self.companions.averaging.swapped_in(self.module):
            reach = self.search.limit(
                self.trainer,
                self.module,
                present,
                looks,
                lambda pruned: self.cutter.try_on(tensors, self.masks, pruned, origin),
            )
            restore_tensors(self.module, tensors)
        return reach

    def _abandon(self, reason: str, job_over: bool) -> None:
        self.recorder.abandoned(self._facts(), reason, self.judge)
        self.state = rounds.after_abandonment(self.plan, self.state)
        self._extend_or_end(job_over)

    def _facts(self) -> dict[str, Any]:
        """What the ledger says of an attempt whatever its verdict."""
        return {
            "round": self.state.round,
            "attempt": self.state.attempt,
            "sparsity": self.sparsity,
            "units": "channels" if self.settings.granularity == "channel" else "weights",
            "epochs": self.clock.round_epoch,
            "seconds": round(self.clock.seconds, 3),
            "seed": self.randomness.seed,
            "validation_passes": 0 if self.search is None else self.search.passes,
        }

    def _extend_or_end(self, job_over: bool) -> None:
        """Let the next round follow, or none; what ModelCheckpoint tracks is still of the one that has ended."""
        self.companions.checkpoints.sealed = False
        if self.search is not None:
            self.search.passes = 0
        length = self.round_start.length
        finished = self.state.finished
        if finished is None and job_over:
            finished = "the job was stopped"
        if finished is None and self.round_start.missed:
            finished = "round 0 ended before the rewind point was reached"
        if finished is None:
            finished = does_not_fit(self.trainer, self.clock.epochs, length, self.settings.max_total_epochs)
        if finished is None:
            self.pending = True
            self.trainer.should_stop = False
            self.clock.set_round(*length)
            self.clock.apply()
            return
        self.state = replace(self.state, finished=finished)
        self.clock.set_round(0, 0)
        self.trainer.fit_loop.max_epochs = self.clock.epochs
        rank_zero_info(f"pruning ends: {finished}")

    def after_epoch(self) -> None:
        """The last hook at the end of an epoch, after ModelCheckpoint's."""
        self.seal()
        if self.trainer.fit_loop.restarting:
            step_plateau_schedulers(self.trainer)

    def seal(self) -> None:
        """After ModelCheckpoint has had its epoch end: make what it tracks agree with the verdict."""
        if self.recorder.rows:
            self.companions.checkpoints.seal(self.trainer, self.recorder.rows[-1])

    def deliver(self) -> None:
        """Leave the last accepted ticket in the module, bit for bit as it was judged."""
        if self.delivered:
            return
        self.delivered = True
        self._begin_ladder()  # a finished run that is resumed has not started
        refused = self.state.round > 0 and self.accepted is not None and not stands(self.recorder.rows[-1])
        self.restore_accepted()
        self.seal()
        if refused and not self.trainer.fast_dev_run:
            assert self.accepted is not None
            restore_training(self.trainer, self.accepted.training or self.round_start.fresh)
            self.companions.early_stopping.restore(self.accepted.stopping)
            self.companions.checkpoints.save_delivered(self.trainer)
        # Taken here, where all processes are: for checkpoints written after the fit, when the module is the ticket.
        self.final_state = self.state_dict() | {"accepted": None, "rewind_point": None}

    def restore_accepted(self) -> None:
        """Put the last accepted ticket into the module; before a first verdict there is none, and nothing changes."""
        if self.accepted is not None and hasattr(self, "module"):
            restore_tensors(self.module, self.accepted.tensors)
            self.masks = self.accepted.masks
            # A checkpoint takes the average for the model, and this is what it is to find.
            self.companions.averaging.restart(self.module)

    def close(self) -> None:
        """Leave the trainer as the user had it."""
        if self.prepared:
            self.cutter.release()
        release_schedulers(self.trainer)
        self.companions.by_epoch.release()
        self.clock.release()

    # -- the start of a round --

    @property
    def sparsity(self) -> float:
        """Pruned share of the units, in [0, 1]."""
        return self.cutter.sparsity(self.masks) if self.prepared else 0.0

    def start_of_epoch(self) -> None:
        """Set up the next round if a verdict is pending; give samplers the round's own epoch."""
        self.seal()
        seeded = self.pending
        if self.pending:
            self._begin_round()
        elif self.trainer.fit_loop.is_resuming:
            seeded = self.randomness.go_on()
        if seeded or self.state.round:
            self.randomness.tell_samplers(self.clock.round_epoch if self.state.round else self.clock.epochs)
        if seeded:
            self.randomness.renew_iterator()
        if self.state.round == 0:
            self.round_start.at_epoch()

    def start_of_batch(self) -> None:
        """A rewind point may be inside an epoch."""
        if self.state.round == 0:
            self.round_start.at_step()

    def _begin_round(self) -> None:
        assert self.accepted is not None
        self.pending = False
        reshard(self.module)
        restore_tensors(self.module, self.accepted.tensors)
        self.masks = self.cutter.shrink(self.accepted.masks, self.state.candidate, self.round_start.origin)
        self.processes.require_equal(self.masks)
        self.round_start.go_back(self.accepted)
        self.processes.equalize_buffers(self.module)
        self.cutter.apply(self.masks)
        self.module.zero_grad()
        self.companions.start_round(self.module)
        self.cutter.hold(self.masks, self.trainer.optimizers)
        warn_where_global_epochs_count(self.trainer, self.clock.horizon)
        self.clock.restart_seconds()
        self.randomness.start_round()

    def status(self, recall: Mapping[str, float]) -> Status:
        """Where the run stands.

        Args:
            recall: Of the protected classes in the round's last validation, by name.
        """
        return status(
            plan=self.plan,
            state=self.state,
            horizon=self.clock.horizon,
            epochs=self.clock.epochs,
            steps=self.trainer.global_step,
            share=self.clock.share,
            budget=self.judge.budget,
            tolerances={self.settings.class_names[i]: t for i, t in self.settings.protect.items()},
            recall=recall,
            rows=self.recorder.rows,
            seconds=0.0 if self.pending else self.clock.seconds,
            max_total_epochs=self.settings.max_total_epochs,
        )

    # -- saving --

    def state_dict(self) -> dict[str, Any]:
        """Everything that a later process needs to go on: plain dicts of tensors and primitives."""
        with_training = self.settings.rewind.kind == "none"
        return {
            "version": STATE_VERSION,
            "settings": run_settings(self.settings, self.clock.user),
            "parameters": shapes(self.cutter.units.parameters),
            "rounds": self.state.state_dict(),
            **self.judge.state_dict(),
            **self.clock.state_dict(),
            "pending": self.pending,
            "sealed": self.companions.checkpoints.sealed,
            "masks": {name: pack(mask) for name, mask in self.masks.items()},
            "ledger": self.recorder.state_dict(),
            "search": None if self.search is None else self.search.state_dict(),
            "accepted": pack_ticket(self.accepted, self.sharding, with_training=with_training),
            "rewind_point": self.round_start.state_dict(),
            "ladder": self.ladder.folder,
            "checkpoints": self.companions.checkpoints.state_dict(),
            "early_stopped": self.companions.early_stopping.stopped(),
            **left_out(self.trainer, self.module, self.sharding),
            **self.randomness.state_dict(),
        }

    def continue_from(self, saved: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned, if this is the same run; it is read when the model is there."""
        check_same_run(saved, run_settings(self.settings, self.clock.user))
        self.resumed = saved
        if self.prepared:
            self.set_horizon()

    def _adopt(self, saved: Mapping[str, Any]) -> None:
        check_same_parameters(saved, shapes(self.cutter.units.parameters))
        device = {name: mask.device for name, mask in self.masks.items()}
        self.masks = {name: unpack(m).to(device[name]) for name, m in saved["masks"].items()}
        self.state = rounds.RoundState.from_state_dict(saved["rounds"])
        self.judge.load_state_dict(saved)
        self.clock.load_state_dict(saved)
        self.pending, self.companions.checkpoints.sealed = saved["pending"], saved["sealed"]
        self.recorder.load_state_dict(saved["ledger"])
        self.accepted = unpack_ticket(saved["accepted"], device, self.sharding)
        self.round_start.load_state_dict(saved["rewind_point"])
        self.companions.checkpoints.load_state_dict(saved["checkpoints"])
        self.randomness.load_state_dict(saved)
