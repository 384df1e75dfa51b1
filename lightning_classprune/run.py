"""A run: the transactions of one `fit` - judge, commit or roll back, prune, rewind - over the parts."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from math import inf
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn

from lightning_classprune import rounds
from lightning_classprune.companions import Averaging, Checkpoints, EarlyStoppings, EpochFollowers, of_type
from lightning_classprune.compatibility import warn_where_global_epochs_count
from lightning_classprune.criteria import CRITERIA
from lightning_classprune.enforcement import Enforcement
from lightning_classprune.guard import ErrorBudget, Verdict
from lightning_classprune.guard_data import Predict
from lightning_classprune.horizon import Horizon, Limits, epochs_done, remaining_after
from lightning_classprune.images import log_figure
from lightning_classprune.judge import Judge
from lightning_classprune.keeping import LadderKeeper
from lightning_classprune.masks import Masks, apply_masks, local, pack, unpack
from lightning_classprune.outcomes import Outcomes
from lightning_classprune.preflight import (
    check_criterion,
    check_length_left,
    check_rewind_point,
    find_guard_data,
    find_parameters,
    find_sharding,
    find_units,
    make_plan,
    starting_masks,
)
from lightning_classprune.processes import Processes
from lightning_classprune.prunable import Prunable
from lightning_classprune.randomness import (
    base_seed,
    loader_generators,
    random_state,
    seed_process,
    set_random_state,
    untouched_randomness,
)
from lightning_classprune.resuming import (
    STATE_VERSION,
    check_same_parameters,
    check_same_run,
    finish_epoch,
    inside_epoch_end,
    logged_metrics,
    restore_metrics,
    run_settings,
    shapes,
    step_plateau_schedulers,
)
from lightning_classprune.rewinding import (
    Tensors,
    TrainingState,
    capture_buffers,
    capture_tensors,
    capture_trainable,
    capture_training,
    hold_schedulers,
    release_schedulers,
    restore_buffers,
    restore_tensors,
    restore_trainable,
    restore_training,
)
from lightning_classprune.round_length import check_total_epochs, does_not_fit, rebuild_training
from lightning_classprune.rows import abandoned_row, baseline_row, round_metrics, verdict_row
from lightning_classprune.search import Search, find_validation_data
from lightning_classprune.settings import Settings
from lightning_classprune.sharding import reshard
from lightning_classprune.status import Status, status
from lightning_classprune.tickets import (
    RewindPoint,
    Ticket,
    load_point,
    pack_ticket,
    save_point,
    unpack_ticket,
    write_point,
)


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
        self.limits = Limits.of(trainer)
        self.early_stopping = EarlyStoppings(of_type(trainer, "EarlyStopping"))
        self.checkpoints = Checkpoints(of_type(trainer, "ModelCheckpoint"))
        self.averaging = Averaging(of_type(trainer, "WeightAveraging"))
        self.by_epoch = EpochFollowers(
            of_type(trainer, "GradientAccumulationScheduler"),
            of_type(trainer, "BaseFinetuning"),
            of_type(trainer, "WeightAveraging"),
            lambda: (self.horizon.start_epoch, self.horizon.start_step),
        )
        self.enforcement = Enforcement()
        self.seed = base_seed()

        self.state = rounds.RoundState()
        self.masks: Masks = {}
        self.ledger: list[dict[str, Any]] = []
        self.accepted: Ticket | None = None
        self.rewind_point: RewindPoint | None = None
        self.rewind_reference: dict[str, str] | None = (
            None  # what checkpoints hold where the point has its own file
        )
        self.pending = False  # a verdict was given, the next round is not set up yet
        self.sealed = True  # what ModelCheckpoint tracks agrees with the last verdict
        self.delivered = False
        self.final_state: dict[str, Any] = {}
        self.prepared = False
        self.seconds_before = 0.0
        self.round_started = time.monotonic()
        self.resumed: Mapping[str, Any] | None = None
        self.random_state: Any = None
        self.loaded_epochs = 0  # how far the loop was in the checkpoint that is resumed
        self.foreign_epochs: int | None = None

    # -- before the first batch --

    def prepare(self, pl_module: Any) -> None:
        """`on_fit_start`: the strategy is set up, training state is not restored yet; check the model, set limits."""
        self.module = pl_module
        # Without `seed_everything` every process draws its own seed; a round has one.
        self.seed = self.processes.first(self.seed)
        parameters = find_parameters(pl_module, self.prunable, frozen=self.by_epoch.unfreezes)
        self.sharding = find_sharding(self.trainer, pl_module, self.processes)
        self.units = find_units(self.settings, self.trainer, pl_module, parameters, self.sharding)
        self.parameters = self.units.parameters
        self.fresh_training = capture_training(self.trainer)
        self.masks = starting_masks(self.parameters, self.inherited, self.sharding, self.processes)
        self.plan = make_plan(self.settings, self.masks, self.units)
        pruned = self.units.pruned(self.masks)
        self.state = replace(self.state, accepted=pruned, candidate=pruned)
        tests = rounds.largest_number_of_tests(self.plan)
        budget = ErrorBudget(self.settings.alpha, self.settings.retries, tests)
        self.judge = Judge(self.settings, self.predict, self.processes, budget)
        self.search: Search | None = None
        check_criterion(self.settings.criterion, self.parameters)
        self.set_horizon()
        self.prepared = True

    def set_horizon(self) -> None:
        """Begin, or go on where the checkpoint was written, which some strategies load only after `on_fit_start`."""
        if self.resumed is not None:
            self._adopt(self.resumed)
            if self.state.round > 0 and self.settings.round_epochs is not None:
                # What the checkpoint holds of the schedule is loaded next, and was made for this length.
                rebuild_training(self.trainer, self.fresh_training, self.limits, self.settings.round_epochs)
        else:
            self.horizon = self._first_horizon()
        # Lightning takes a step limit for a reason to repeat an epoch when it resumes, so it comes back after that.
        limits = replace(self.horizon.limits(self.limits), max_steps=-1)
        if self.resumed is not None:
            # A round that was saved at its end, before its verdict, must not look like a job with nothing to do.
            limits = replace(limits, max_epochs=-1)
        limits.apply(self.trainer)
        if self.state.finished is not None:
            self.trainer.fit_loop.max_epochs = self.loaded_epochs

    def start(self) -> None:
        """`on_train_start`: loops are restored; find and check the guard data, hold masks, set the step limit."""
        self.data = find_guard_data(self.trainer, self.guard_argument, self.processes)
        if not self.trainer.fast_dev_run:
            foreign = self.foreign_epochs if self.resumed is None else None
            check_rewind_point(self.trainer, self.settings.rewind, self.limits, foreign)
            check_total_epochs(self.limits, self.settings.max_total_epochs)
            self._try_guard_data()
            if self.settings.schedule is not None:
                self.search = Search(self.judge, find_validation_data(self.trainer, self.data, self.judge))
        self._begin_ladder()
        self._hold()
        if self.resumed is not None:
            self._resume(self.resumed)
            return
        apply_masks(self.sharding.pieces(self.masks), self.parameters)
        if self.foreign_epochs is None or self.settings.baseline == "current":
            self.horizon = replace(self.horizon, start_step=self.trainer.global_step)
        check_length_left(self.limits, self.horizon, epochs_done(self.trainer), self.trainer.global_step)
        self.horizon.limits(self.limits).apply(self.trainer)
        if self._keeps_start():
            self._capture_point(self._remaining_length())
        if self.settings.baseline == "current":
            self._end_of_round(job_over=False)

    def _resume(self, saved: Mapping[str, Any]) -> None:
        self._restore_randomness()
        if self.search is not None:
            self.search.load_state_dict(saved["search"])
        if self.settings.rewind.kind == "none" and self.state.round > 0 and not self.pending:
            hold_schedulers(self.trainer)
        restore_trainable(self.module, saved["trainable"])
        if saved["buffers"] is not None:
            same = len(saved["buffers"]) == self.processes.world_size
            restore_buffers(self.module, saved["buffers"][self.processes.rank if same else 0])
        self.horizon.limits(self.limits).apply(self.trainer)
        restore_metrics(self.trainer, saved["metrics"])
        if saved["early_stopped"] and not self.pending:
            self.early_stopping.mark_stopped()
        progress = self.trainer.fit_loop.epoch_progress.current
        if progress.ready > progress.processed and self._round_is_over() and not self.pending:
            finish_epoch(self.trainer)
        if progress.ready == progress.processed:
            # The checkpoint of an epoch's last batch skips the end of that epoch when it is resumed.
            self.end_of_epoch()
            if saved["inside_epoch_end"]:
                step_plateau_schedulers(self.trainer)

    def _begin_ladder(self) -> None:
        earlier = self.resumed.get("ladder") if self.resumed is not None else None
        self.ladder.begin(self.ledger, earlier, self.accepted, self.sharding, self.module)

    def _restore_randomness(self) -> None:
        if self.random_state is not None:
            set_random_state(self.random_state["state"])
            for generator, state in zip(self._generators(), self.random_state["generators"], strict=False):
                generator.set_state(state)

    def _first_horizon(self) -> Horizon:
        epochs, steps = self.limits.max_epochs, self.limits.max_steps
        if self.foreign_epochs is None:
            return Horizon(epochs_done(self.trainer), 0, epochs, steps)
        if self.settings.baseline == "current":
            return Horizon(self.foreign_epochs, 0, epochs, steps)
        horizon = Horizon(0, 0, epochs, steps)
        check_length_left(self.limits, horizon, self.foreign_epochs, self.trainer.global_step)
        return horizon

    def _try_guard_data(self) -> None:
        outcomes = self.judge.outcomes(self.trainer, self.module, self.data, limit=1)
        if outcomes is not None and not len(outcomes.target):
            raise MisconfigurationException(
                "guard_dataloader: the guard data is empty, nothing can be judged"
            )

    def _remaining_length(self) -> tuple[int, int]:
        """Length of a round from here, -1 for no limit: all of it, or what a foreign checkpoint has left."""
        epochs, steps = self.limits.max_epochs, self.limits.max_steps
        if self.foreign_epochs is None:
            return epochs, steps
        return (
            epochs - self.foreign_epochs if epochs != -1 else -1,
            steps - self.trainer.global_step if steps != -1 else -1,
        )

    def _keeps_start(self) -> bool:
        """Whether the start of round 0 is needed later: to rewind to it or to score by it."""
        rewind = self.settings.rewind
        if rewind.kind == "init" or (rewind.kind in ("epoch", "step") and rewind.at == 0):
            return True
        return rewind.keeps_weights and self.settings.criterion is not CRITERIA["magnitude"]

    # -- the end of an epoch, of a round, of the job --

    def end_of_epoch(self) -> None:
        """Judge if the round is over: by its length, by EarlyStopping, or because the job is being stopped."""
        if self.pending or self.state.finished is not None:
            return
        # What EarlyStopping decided is saved, Lightning's flag is not.
        asked = self.trainer.should_stop or self.early_stopping.stopped()
        stopping = self.processes.any(asked and self.trainer.fit_loop._can_stop_early)
        job_over = stopping and not self.early_stopping.stopped()
        if stopping or self._round_is_over():
            self._end_of_round(job_over)
        elif epochs_done(self.trainer) >= (self.settings.max_total_epochs or inf):
            self._end_of_round(job_over=True)  # of a round whose length was not known in epochs
        elif self.search is not None and self.search.is_halfway(self.horizon, epochs_done(self.trainer)):
            self._halfway(self.search)

    def _halfway(self, search: Search) -> None:
        """Look at validation data: the dense network sets what a candidate is compared with, which may be hopeless."""
        outcomes = self._on_validation(search)
        if self.state.round == 0:
            search.halfway = outcomes
        elif (reason := search.hopeless_at_half(outcomes)) is not None:
            self._abandon(f"half-way through the round, {reason}", job_over=False)

    def _on_validation(self, search: Search) -> Outcomes | None:
        reshard(self.module)
        self.processes.equalize_buffers(self.module)
        with self.averaging.swapped_in(self.module):
            return search.outcomes(self.trainer, self.module)

    def _abandon(self, reason: str, job_over: bool) -> None:
        self._note(abandoned_row(self._common(), reason))
        self.sealed = False
        self.state = rounds.after_abandonment(self.plan, self.state)
        if job_over and self.state.finished is None:
            self.state = replace(self.state, finished="the job was stopped")
        self._extend_or_end()

    def _round_is_over(self) -> bool:
        return self.horizon.is_over(epochs_done(self.trainer), self.trainer.global_step)

    def _end_of_round(self, job_over: bool) -> None:
        if self.search is not None:
            seen = self._on_validation(self.search)
            if self.judge.baseline is None:
                self.search.dense = seen
            elif (reason := self.search.hopeless(seen)) is not None:
                self._abandon(reason, job_over)
                return
        reshard(self.module)
        self.processes.equalize_buffers(self.module)
        with self.averaging.swapped_in(self.module):
            limit = 1 if self.trainer.fast_dev_run else None
            outcomes = self.judge.outcomes(self.trainer, self.module, self.data, limit)
            tensors = capture_tensors(self.module)
        if self.judge.baseline is None:
            impossible = self.judge.take_baseline(outcomes, rehearsal=bool(self.trainer.fast_dev_run))
            self.state = replace(self.state, finished=impossible)
            verdict = None
        else:
            verdict = self.judge.verdict(outcomes)
        accepted = verdict is None or verdict.accepted
        goes_on = accepted and outcomes is not None and self.state.finished is None
        reach = self._reach(tensors) if goes_on else None
        self._record(outcomes, verdict)
        if accepted and outcomes is not None:
            masks = {name: mask.clone() for name, mask in self.masks.items()}
            training, stopping = capture_training(self.trainer), self.early_stopping.capture()
            self.accepted = Ticket(masks, tensors, training, stopping)
            self.ladder.keep(self.accepted, self.ledger, self.sharding, self.module)
        self.sealed = False
        if self.state.finished is None:
            self.state = rounds.after_verdict(self.plan, self.state, accepted, reach)
        if job_over and self.state.finished is None:
            self.state = replace(self.state, finished="the job was stopped")
        if (
            self.rewind_point is None
            and not self.settings.rewind.keeps_weights
            and self.state.finished is None
        ):
            self.state = replace(self.state, finished="round 0 ended before the rewind point was reached")
        self._extend_or_end()

    def _reach(self, tensors: Tensors) -> int | None:
        """How far the network that was just accepted can be pruned without retraining; it is put back bit for bit."""
        if self.search is None:
            return None
        assert self.settings.schedule is not None

        def prune(pruned: int) -> None:
            restore_tensors(self.module, tensors)
            with untouched_randomness():
                masks = self._pruned(self.masks, pruned)
            apply_masks(self.sharding.pieces(masks), self.parameters)

        present = self.state.candidate
        looks = self.settings.schedule.looks(self.plan.total, present, self.plan.target)
        with self.averaging.swapped_in(self.module):
            reach = self.search.limit(self.trainer, self.module, present, looks, prune)
            restore_tensors(self.module, tensors)
        return reach

    def _common(self) -> dict[str, Any]:
        return {
            "round": self.state.round,
            "attempt": self.state.attempt,
            "sparsity": self.sparsity,
            "units": "channels" if self.settings.granularity == "channel" else "weights",
            "epochs": epochs_done(self.trainer) - self.horizon.start_epoch,
            "seconds": round(self._seconds(), 3),
            "seed": self.seed,
            "validation_passes": 0 if self.search is None else self.search.passes,
        }

    def _record(self, outcomes: Outcomes | None, verdict: Verdict | None) -> None:
        common = self._common()
        protected = {self.settings.class_names[i]: i for i in self.settings.protect}
        if verdict is None:
            reason = self.state.finished or "the dense network, against which every round is judged"
            row = baseline_row(common, outcomes, protected, reason)
        else:
            row = verdict_row(common, outcomes, protected, self.judge.baseline, verdict)
        self._note(row)

    def _note(self, row: dict[str, Any]) -> None:
        self.ledger.append(row)
        if self.search is not None:
            self.search.passes = 0
        rank_zero_info(
            f"round {row['round']}: sparsity {row['sparsity']:.2%}, {row['verdict']}: {row['reason']}"
        )
        if self.processes.rank == 0:
            # The step at which Lightning logs the end of this epoch: some loggers drop what goes back.
            step = max(self.trainer.fit_loop.epoch_loop._batches_that_stepped - 1, 0)
            for logger in self.trainer.loggers:
                logger.log_metrics(round_metrics(row, self.judge.budget), step=step)
            log_figure(self.trainer.loggers, self.ledger, step)

    def _extend_or_end(self) -> None:
        loop = self.trainer.fit_loop
        start_epoch, start_step = epochs_done(self.trainer), self.trainer.global_step
        epochs, steps = self._round_length()
        if self.state.finished is None:
            full = does_not_fit(self.trainer, start_epoch, (epochs, steps), self.settings.max_total_epochs)
            self.state = replace(self.state, finished=full)
        if self.state.finished is not None:
            self.horizon = Horizon(start_epoch, start_step, 0, 0)
            loop.max_epochs = start_epoch
            rank_zero_info(f"pruning ends: {self.state.finished}")
            return
        self.pending = True
        self.trainer.should_stop = False
        self.horizon = Horizon(start_epoch, start_step, epochs, steps)
        self.horizon.limits(self.limits).apply(self.trainer)

    def _round_length(self) -> tuple[int, int]:
        if self.settings.round_epochs is not None:
            return self.settings.round_epochs, self.limits.max_steps
        if self.settings.rewind.keeps_weights or self.rewind_point is None:
            return self.limits.max_epochs, self.limits.max_steps
        return self.rewind_point.length

    def after_epoch(self) -> None:
        """The last hook at the end of an epoch, after ModelCheckpoint's."""
        self.seal()
        if self.trainer.fit_loop.restarting:
            step_plateau_schedulers(self.trainer)

    def seal(self) -> None:
        """After ModelCheckpoint has had its epoch end: make what it tracks agree with the verdict."""
        if self.sealed or self.trainer.fast_dev_run:
            return
        self.sealed = True
        if self.ledger[-1]["verdict"] in ("baseline", "accepted"):
            self.checkpoints.accept(self.trainer, self.ledger[-1]["round"])
        else:
            self.checkpoints.refuse(self.trainer)

    def deliver(self) -> None:
        """Leave the last accepted ticket in the module, bit for bit as it was judged."""
        if self.delivered:
            return
        self.delivered = True
        self._begin_ladder()  # a finished run that is resumed has not started
        refused = (
            self.state.round > 0
            and self.accepted is not None
            and self.ledger[-1]["verdict"] not in ("baseline", "accepted")
        )
        self.restore_accepted()
        self.seal()
        if refused and not self.trainer.fast_dev_run:
            assert self.accepted is not None
            restore_training(self.trainer, self.accepted.training or self.fresh_training)
            self.early_stopping.restore(self.accepted.stopping)
            self.checkpoints.save_delivered(self.trainer)
        # Taken here, where all processes are: for checkpoints written after the fit, when the module is the ticket.
        self.final_state = self.state_dict() | {"accepted": None, "rewind_point": None}

    def restore_accepted(self) -> None:
        """Put the last accepted ticket into the module; before a first verdict there is none, and nothing changes."""
        if self.accepted is not None and hasattr(self, "module"):
            restore_tensors(self.module, self.accepted.tensors)
            self.masks = self.accepted.masks
            # A checkpoint takes the average for the model, and this is what it is to find.
            self.averaging.restart(self.module)

    def close(self) -> None:
        """Leave the trainer as the user had it."""
        self.enforcement.release()
        release_schedulers(self.trainer)
        self.by_epoch.release()
        self.limits.apply(self.trainer)

    # -- the start of a round --

    @property
    def sparsity(self) -> float:
        """Pruned share of the units, in [0, 1]."""
        return self.units.pruned(self.masks) / self.units.total if self.prepared else 0.0

    @property
    def round_epoch(self) -> int:
        """Epochs that the present round has processed."""
        return epochs_done(self.trainer) - self.horizon.start_epoch

    def start_of_epoch(self) -> None:
        """Set up the next round if a verdict is pending; give samplers the round's own epoch."""
        self.seal()
        seeded = False
        if self.pending:
            self._begin_round()
            seeded = True
        elif self.trainer.fit_loop.is_resuming and self.random_state is not None:
            self._restore_randomness()
            seeded = True
        if seeded or self.state.round:
            for sampler in _samplers(self.trainer.fit_loop._combined_loader.flattened):
                if hasattr(sampler, "set_epoch"):
                    sampler.set_epoch(
                        self.round_epoch + (0 if self.state.round else self.horizon.start_epoch)
                    )
        if seeded and not self._lightning_will_iterate():
            iter(self.trainer.fit_loop._data_fetcher)
        if self.state.round == 0:
            self._capture_epoch()

    def start_of_batch(self) -> None:
        """Capture the rewind point `step:K`."""
        rewind = self.settings.rewind
        if rewind.kind == "step" and self.rewind_point is None and self.state.round == 0:
            step = self.trainer.global_step - self.horizon.start_step
            if step == rewind.at:
                self._capture_point(remaining_after(self.trainer, self.limits, 0, step, whole_epochs=False))

    def _capture_epoch(self) -> None:
        rewind = self.settings.rewind
        if rewind.kind == "epoch" and self.rewind_point is None and self.round_epoch == rewind.at:
            step = self.trainer.global_step - self.horizon.start_step
            self._capture_point(
                remaining_after(self.trainer, self.limits, rewind.at, step, whole_epochs=True)
            )

    def _capture_point(self, length: tuple[int, int]) -> None:
        self.rewind_point = RewindPoint(capture_tensors(self.module), capture_training(self.trainer), length)
        if self.rewind_file is not None:
            saved = save_point(self.rewind_point, self.sharding)
            self.rewind_reference = write_point(saved, self.rewind_file, write=self.processes.rank == 0)

    def _begin_round(self) -> None:
        assert self.accepted is not None
        self.pending = False
        reshard(self.module)
        restore_tensors(self.module, self.accepted.tensors)
        self.masks = self._pruned(self.accepted.masks, self.state.candidate)
        self.processes.require_equal(self.masks)
        self._rewind()
        self.processes.equalize_buffers(self.module)
        apply_masks(self.sharding.pieces(self.masks), self.parameters)
        self.module.zero_grad()
        self.early_stopping.reset()
        self.checkpoints.reset()
        self.by_epoch.reset()
        self.averaging.restart(self.module)
        self._hold()
        warn_where_global_epochs_count(self.trainer, self.horizon)
        self.seconds_before, self.round_started = 0.0, time.monotonic()
        seed_process(self.seed)
        for generator in self._generators():
            generator.manual_seed(generator.initial_seed())

    def _hold(self) -> None:
        """Keep the pruned weights at zero from now on."""
        reshard(self.module)
        self.enforcement.hold(self.sharding.pieces(self.masks), self.parameters, self.trainer.optimizers)

    def _pruned(self, masks: Masks, pruned: int) -> Masks:
        start = self.rewind_point.tensors if self.rewind_point is not None else None

        def scores(name: str) -> torch.Tensor:
            weight = local(self.parameters[name])
            return self.settings.criterion(weight, weight if start is None else start[name].to(weight.device))

        return self.units.shrink(masks, scores, pruned)

    def _rewind(self) -> None:
        kind = self.settings.rewind.kind
        if kind == "none":
            assert self.accepted is not None
            assert self.accepted.training is not None
            release_schedulers(self.trainer)
            restore_training(self.trainer, self.accepted.training)
            hold_schedulers(self.trainer)
            if all(group["lr"] == 0 for o in self.trainer.optimizers for group in o.param_groups):
                rank_zero_warn(
                    "rewind='none' holds the learning rate at its final value, which is 0: nothing will train"
                )
        elif kind == "lr":
            self._restart_training(self.fresh_training)
        else:
            assert self.rewind_point is not None
            assert self.rewind_point.training is not None
            restore_tensors(self.module, self.rewind_point.tensors)
            self._restart_training(self.rewind_point.training)

    def _restart_training(self, state: TrainingState) -> None:
        if self.settings.round_epochs is None:
            restore_training(self.trainer, state)
        else:
            rebuild_training(self.trainer, state, self.limits, self.settings.round_epochs)

    def _lightning_will_iterate(self) -> bool:
        """Whether the epoch about to start makes a new iterator (Lightning's own condition)."""
        loop = self.trainer.fit_loop
        return self.trainer.current_epoch > 0 and not loop.is_resuming and not loop.epoch_loop.restarting

    def status(self, recall: Mapping[str, float]) -> Status:
        """Where the run stands.

        Args:
            recall: Of the protected classes in the round's last validation, by name.
        """
        progress, batches = self.trainer.fit_loop.epoch_progress.current, self.trainer.num_training_batches
        done = self.trainer.fit_loop.epoch_loop.batch_progress.current.processed
        inside = progress.ready > progress.processed and batches
        return status(
            plan=self.plan,
            state=self.state,
            horizon=self.horizon,
            epochs=progress.processed,
            steps=self.trainer.global_step,
            share=done / batches if inside else 0.0,
            budget=self.judge.budget,
            tolerances={self.settings.class_names[i]: t for i, t in self.settings.protect.items()},
            recall=recall,
            rows=self.ledger,
            seconds=0.0 if self.pending else self._seconds(),
            max_total_epochs=self.settings.max_total_epochs,
        )

    def _seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.round_started

    # -- saving --

    def state_dict(self) -> dict[str, Any]:
        """Everything that a later process needs to go on: plain dicts of tensors and primitives."""
        return {
            "version": STATE_VERSION,
            "settings": run_settings(self.settings, self.limits),
            "parameters": shapes(self.parameters),
            "rounds": self.state.state_dict(),
            **self.judge.state_dict(),
            "horizon": self.horizon.state_dict(),
            "pending": self.pending,
            "sealed": self.sealed,
            "seed": self.seed,
            "seconds": self._seconds(),
            "masks": {name: pack(mask) for name, mask in self.masks.items()},
            "ledger": [dict(row) for row in self.ledger],
            "search": None if self.search is None else self.search.state_dict(),
            "accepted": pack_ticket(
                self.accepted, self.sharding, with_training=self.settings.rewind.kind == "none"
            ),
            "rewind_point": self._saved_point(),
            "ladder": self.ladder.folder,
            "checkpoints": self.checkpoints.state_dict(),
            "early_stopped": self.early_stopping.stopped(),
            "metrics": logged_metrics(self.trainer),
            "inside_epoch_end": inside_epoch_end(self.trainer),
            "trainable": capture_trainable(self.module),
            # Sharded checkpoints keep one process' buffers, and any one's; statistics differ from process to process.
            "buffers": self.processes.gather_objects(capture_buffers(self.module)) if self.sharding else None,
            "random": self.processes.gather_objects(
                {"state": random_state(), "generators": [g.get_state() for g in self._generators()]}
            ),
        }

    def _saved_point(self) -> dict[str, Any] | None:
        if self.rewind_point is None:
            return None
        return self.rewind_reference or save_point(self.rewind_point, self.sharding)

    def _generators(self) -> list[torch.Generator]:
        loader = self.trainer.fit_loop._combined_loader
        return loader_generators(loader.flattened) if loader is not None else []

    def continue_from(self, saved: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned, if this is the same run; it is read when the model is there."""
        check_same_run(saved, run_settings(self.settings, self.limits))
        self.resumed = saved
        if self.prepared:
            self.set_horizon()

    def _adopt(self, saved: Mapping[str, Any]) -> None:
        check_same_parameters(saved, shapes(self.parameters))
        device = {name: mask.device for name, mask in self.masks.items()}
        self.masks = {name: unpack(m).to(device[name]) for name, m in saved["masks"].items()}
        self.state = rounds.RoundState.from_state_dict(saved["rounds"])
        self.judge.load_state_dict(saved)
        self.horizon = Horizon.from_state_dict(saved["horizon"])
        self.pending, self.sealed = saved["pending"], saved["sealed"]
        self.seed, self.seconds_before = saved["seed"], saved["seconds"]
        self.ledger = [dict(row) for row in saved["ledger"]]
        self.accepted = unpack_ticket(saved["accepted"], device, self.sharding)
        point = saved["rewind_point"]
        self.rewind_point = load_point(point, self.sharding)
        self.rewind_reference = point if point is not None and "file" in point else None
        self.checkpoints.load_state_dict(saved["checkpoints"])
        if len(saved["random"]) == self.processes.world_size:
            self.random_state = saved["random"][self.processes.rank]
        else:
            rank_zero_warn(
                f"the checkpoint was written by {len(saved['random'])} processes and is resumed by "
                f"{self.processes.world_size}: the run goes on correctly, but not bit for bit as it would have"
            )


def _samplers(loaders: list[Any]) -> list[Any]:
    batch_samplers = [getattr(loader, "batch_sampler", None) for loader in loaders]
    return [getattr(loader, "sampler", None) for loader in loaders] + [
        getattr(batch_sampler, "sampler", None) for batch_sampler in batch_samplers
    ]
