"""A run: the transactions of one `fit` - judge, commit or roll back, prune, rewind - over the parts."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn

from lightning_classprune import rounds
from lightning_classprune.companions import Averaging, Checkpoints, EarlyStoppings, EpochFollowers, of_type
from lightning_classprune.compatibility import warn_where_global_epochs_count
from lightning_classprune.criteria import CRITERIA
from lightning_classprune.enforcement import Enforcement
from lightning_classprune.evaluation import evaluate
from lightning_classprune.guard import ErrorBudget, Verdict, judge, judgeable
from lightning_classprune.guard_data import (
    GuardData,
    Predict,
    Source,
    find_guard_loaders,
    is_validation_data,
    shard_guard_data,
)
from lightning_classprune.horizon import Horizon, Limits, epochs_done, reaches, remaining_after
from lightning_classprune.masks import (
    Masks,
    apply_masks,
    count_kept,
    count_weights,
    full_masks,
    local,
    pack,
    sparsity,
    unpack,
)
from lightning_classprune.outcomes import NaNScoresError, Outcomes, evidence
from lightning_classprune.processes import Processes
from lightning_classprune.prunable import Prunable, select_parameters
from lightning_classprune.randomness import (
    base_seed,
    loader_generators,
    random_state,
    seed_process,
    set_random_state,
)
from lightning_classprune.resuming import (
    finish_epoch,
    inside_epoch_end,
    logged_metrics,
    restore_metrics,
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
from lightning_classprune.rows import baseline_row, round_metrics, verdict_row
from lightning_classprune.selection import shrink_masks
from lightning_classprune.settings import Settings
from lightning_classprune.sharding import Sharding, reshard

STATE_VERSION = 1


@dataclass(frozen=True)
class Ticket:
    """A network that was judged: its masks, all its tensors, and the state of what trained it.

    `training` is None in a resumed run that cannot need it: checkpoints hold it only where fine-tuning goes on from it.
    """

    masks: Masks
    tensors: Tensors
    training: TrainingState | None
    stopping: list[dict[str, Any]]


@dataclass(frozen=True)
class RewindPoint:
    """Where rounds start from: tensors, training state, and the length (epochs, steps) that is left from there."""

    tensors: Tensors
    training: TrainingState | None
    length: tuple[int, int]


class PruningRun:
    """Everything that lives for one `fit`."""

    def __init__(
        self,
        settings: Settings,
        predict: Predict,
        guard_dataloader: Any,
        prunable: Prunable,
        trainer: Any,
        inherited: Masks,
    ) -> None:
        self.settings = settings
        self.predict = predict
        self.guard_argument = guard_dataloader
        self.prunable = prunable
        self.trainer = trainer
        self.inherited = inherited
        self.processes = Processes(trainer.global_rank, trainer.world_size)
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
        self.baseline: Outcomes | None = None
        self.accepted: Ticket | None = None
        self.rewind_point: RewindPoint | None = None
        self.budget: ErrorBudget | None = None
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
        try:
            self.parameters = select_parameters(pl_module, self.prunable, frozen=self.by_epoch.unfreezes)
        except ValueError as error:
            raise MisconfigurationException(str(error)) from error
        self.sharding = self._find_sharding()
        self.fresh_training = capture_training(self.trainer)
        self.masks = self._starting_masks()
        self.plan = self._make_plan()
        self.budget = ErrorBudget(
            self.settings.alpha, self.settings.retries, rounds.largest_number_of_tests(self.plan)
        )
        self._check_criterion()
        self.set_horizon()
        self.prepared = True

    def set_horizon(self) -> None:
        """Begin, or go on where the checkpoint was written, which some strategies load only after `on_fit_start`."""
        if self.resumed is not None:
            self._adopt(self.resumed)
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

    def _find_sharding(self) -> Sharding:
        try:
            sharding = Sharding.of(self.module, self.processes)
        except ValueError as error:
            raise MisconfigurationException(str(error)) from error
        if sharding and of_type(self.trainer, "WeightAveraging"):
            raise MisconfigurationException(
                "WeightAveraging keeps an average of whole weights, which does not go with a sharded model; "
                "use one device or strategy='ddp' with it"
            )
        return sharding

    def start(self) -> None:
        """`on_train_start`: loops are restored; find and check the guard data, hold masks, set the step limit."""
        self.data = self._guard_data()
        if not self.trainer.fast_dev_run:
            self._check_rewind_point()
            self._check_guard_data()
        self._hold()
        if self.resumed is not None:
            self._resume(self.resumed)
            return
        apply_masks(self.sharding.pieces(self.masks), self.parameters)
        if self.foreign_epochs is None or self.settings.baseline == "current":
            self.horizon = replace(self.horizon, start_step=self.trainer.global_step)
        self._check_length_left(self.horizon, epochs_done(self.trainer))
        self.horizon.limits(self.limits).apply(self.trainer)
        if self._keeps_start():
            training = capture_training(self.trainer)
            self.rewind_point = RewindPoint(capture_tensors(self.module), training, self._remaining_length())
        if self.settings.baseline == "current":
            self._end_of_round(job_over=False)

    def _resume(self, saved: Mapping[str, Any]) -> None:
        self._restore_randomness()
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

    def _restore_randomness(self) -> None:
        if self.random_state is not None:
            set_random_state(self.random_state["state"])
            for generator, state in zip(self._generators(), self.random_state["generators"], strict=False):
                generator.set_state(state)

    def _starting_masks(self) -> Masks:
        """All weights; or the masks that this callback delivered, where the module still is that ticket."""
        masks = full_masks(self.parameters)
        if self.inherited.keys() != masks.keys() or any(
            self.inherited[name].shape != mask.shape for name, mask in masks.items()
        ):
            return masks
        inherited = {name: self.inherited[name].to(mask.device) for name, mask in masks.items()}
        revived = any(
            bool(local(self.parameters[name])[~mask.to(self.parameters[name].device)].any())
            for name, mask in self.sharding.pieces(inherited).items()
        )
        return masks if self.processes.any(revived) else inherited

    def _make_plan(self) -> rounds.Plan:
        total = count_weights(self.masks)
        zeros = sum(int((local(p) == 0).sum()) for p in self.parameters.values())
        if self.sharding:
            zeros = sum(self.processes.gather_objects(zeros))
        target = self.settings.target(total)
        name = f"target_sparsity={self.settings.target_sparsity}"
        pruned = total - count_kept(self.masks)
        if zeros > target and not pruned:
            raise MisconfigurationException(
                f"{name} is below the module's current sparsity: {zeros} of {total} prunable weights are zero already "
                f"({zeros / total:.4f}); raise the target"
            )
        if target > total - len(self.masks):
            raise MisconfigurationException(
                f"{name} leaves {total - target} of {total} weights for {len(self.masks)} tensors, and every tensor "
                f"must keep at least one; at most {(total - len(self.masks)) / total:.6f} is possible here"
            )
        self.state = replace(self.state, accepted=pruned, candidate=pruned)
        return rounds.Plan(
            total, target, self.settings.prune_fraction, self.settings.max_rounds, self.settings.retries
        )

    def _check_criterion(self) -> None:
        for name, parameter in self.parameters.items():
            probe = local(parameter)
            scores = self.settings.criterion(probe, probe)
            made = (
                isinstance(scores, torch.Tensor) and scores.shape == probe.shape and not scores.is_complex()
            )
            if not made or torch.isnan(scores).any():
                raise MisconfigurationException(
                    f"criterion must return real scores of the weight's shape without NaN; for `{name}` "
                    f"{tuple(probe.shape)} it returned {scores!r:.100}"
                )

    def _first_horizon(self) -> Horizon:
        epochs, steps = self.limits.max_epochs, self.limits.max_steps
        if self.foreign_epochs is None:
            return Horizon(epochs_done(self.trainer), 0, epochs, steps)
        if self.settings.baseline == "current":
            return Horizon(self.foreign_epochs, 0, epochs, steps)
        horizon = Horizon(0, 0, epochs, steps)
        self._check_length_left(horizon, self.foreign_epochs)
        return horizon

    def _check_length_left(self, horizon: Horizon, epochs: int) -> None:
        if horizon.is_over(epochs, self.trainer.global_step):
            limits = f"max_epochs={self.limits.max_epochs}, max_steps={self.limits.max_steps}"
            raise MisconfigurationException(
                f"the checkpoint has finished {limits}, so round 0 has nothing left to train; judge its weights as the "
                "dense network with baseline='current' (and rewind='lr' or 'none'), or raise the limit"
            )

    def _check_rewind_point(self) -> None:
        kind, at = self.settings.rewind.kind, self.settings.rewind.at
        if self.foreign_epochs is not None and self.resumed is None:
            behind = {"epoch": self.foreign_epochs, "step": self.trainer.global_step}.get(kind, 0)
            if at < behind:
                raise MisconfigurationException(
                    f"rewind='{kind}:{at}' lies before the checkpoint, which is at {kind} {behind}; use rewind='init' "
                    "to rewind to the checkpoint"
                )
        if kind in ("epoch", "step") and not reaches(self.trainer, self.limits, kind, at):
            raise MisconfigurationException(
                f"rewind='{kind}:{at}' is not inside a round, which ends at max_epochs={self.limits.max_epochs}, "
                f"max_steps={self.limits.max_steps}; use a smaller number"
            )

    def _check_guard_data(self) -> None:
        outcomes = self._evaluate(limit=1)
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

    def _guard_data(self) -> GuardData:
        found, error = None, None
        try:
            found = find_guard_loaders(self.trainer, self.guard_argument)
        except Exception as caught:
            error = caught
        self.processes.raise_together(error)
        if found is None:
            raise MisconfigurationException(
                "guard_dataloader: there is neither guard nor validation data to judge with; "
                "pass guard_dataloader=..., give the datamodule a guard_dataloader(), or add validation data"
            )
        loaders, source = found
        self._warn_of_selection(source, is_validation_data(self.trainer, loaders))
        try:
            return shard_guard_data(loaders, source, self.processes.rank, self.processes.world_size)
        except ValueError as error:
            raise MisconfigurationException(str(error)) from error

    def _warn_of_selection(self, source: Source, same: bool) -> None:
        monitors = [type(c).__name__ for c in of_type(self.trainer, "ModelCheckpoint") if c.monitor]
        monitors += ["EarlyStopping"] * bool(self.early_stopping)
        monitors += ["ReduceLROnPlateau"] * any(
            c.reduce_on_plateau for c in self.trainer.lr_scheduler_configs
        )
        if source != "validation" and not (same and monitors):
            return
        why = (
            "is not given, so the validation data is the guard"
            if source == "validation"
            else "is validation data"
        )
        drives = f" and drives {', '.join(sorted(set(monitors)))}" if monitors else ""
        rank_zero_warn(
            f"guard_dataloader {why}{drives}. Data that chooses the weights must not judge them: the verdict's error "
            "level no longer holds. Give the guard a split of its own."
        )

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

    def _round_is_over(self) -> bool:
        return self.horizon.is_over(epochs_done(self.trainer), self.trainer.global_step)

    def _end_of_round(self, job_over: bool) -> None:
        reshard(self.module)
        self.processes.equalize_buffers(self.module)
        with self.averaging.swapped_in(self.module):
            outcomes = self._evaluate(limit=1 if self.trainer.fast_dev_run else None)
            tensors = capture_tensors(self.module)
        verdict = self.processes.first(self._judge(outcomes))
        self._record(outcomes, verdict)
        accepted = verdict is None or verdict.accepted
        if accepted and outcomes is not None:
            masks = {name: mask.clone() for name, mask in self.masks.items()}
            training, stopping = capture_training(self.trainer), self.early_stopping.capture()
            self.accepted = Ticket(masks, tensors, training, stopping)
        self.sealed = False
        if self.state.finished is None:
            self.state = rounds.after_verdict(self.plan, self.state, accepted)
        if job_over and self.state.finished is None:
            self.state = replace(self.state, finished="the job was stopped")
        if (
            self.rewind_point is None
            and not self.settings.rewind.keeps_weights
            and self.state.finished is None
        ):
            self.state = replace(self.state, finished="round 0 ended before the rewind point was reached")
        self._extend_or_end()

    def _judge(self, outcomes: Outcomes | None) -> Verdict | None:
        """The verdict on the candidate; None for the dense network, which is not compared with anything."""
        names = self.settings.class_names
        tolerances = {names[i]: t for i, t in self.settings.protect.items()}
        assert self.budget is not None
        level = self.budget.level()
        if self.baseline is None:
            self.baseline = outcomes
            self._check_baseline(outcomes, level)
            return None
        try:
            if outcomes is None:
                raise NaNScoresError("the network's scores are NaN: its training diverged")
            pairs = {names[i]: evidence(self.baseline, outcomes, i) for i in self.settings.protect}
            verdict = judge(pairs, tolerances, level)
        except ValueError as error:
            verdict = Verdict("refused", str(error), {})
        self.budget = self.budget.spend(verdict.accepted)
        return verdict

    def _check_baseline(self, outcomes: Outcomes | None, level: float | None) -> None:
        if self.trainer.fast_dev_run:
            self.state = replace(
                self.state, finished="fast_dev_run: one guard batch was judged, nothing is pruned"
            )
        if outcomes is None:
            self.state = replace(
                self.state, finished="the dense network's scores are NaN: nothing can be judged"
            )
            return
        for index, tolerance in self.settings.protect.items():
            name, positive = self.settings.class_names[index], outcomes.found(index)
            support, missed = int(positive[0].sum()), int((positive[0] & ~positive[1]).sum())
            if not support and not self.trainer.fast_dev_run:
                self.state = replace(
                    self.state,
                    finished=f"the guard data has no positives of protected class {name!r}: nothing can be judged",
                )
            elif support and (warning := judgeable(tolerance, support, missed, level)):
                rank_zero_warn(f"protect[{name!r}]: {warning}")

    def _record(self, outcomes: Outcomes | None, verdict: Verdict | None) -> None:
        common = {
            "round": self.state.round,
            "attempt": self.state.attempt,
            "sparsity": sparsity(self.masks),
            "epochs": epochs_done(self.trainer) - self.horizon.start_epoch,
            "seconds": round(self.seconds_before + time.monotonic() - self.round_started, 3),
            "seed": self.seed,
        }
        protected = {self.settings.class_names[i]: i for i in self.settings.protect}
        if verdict is None:
            reason = self.state.finished or "the dense network, against which every round is judged"
            row = baseline_row(common, outcomes, protected, reason)
        else:
            row = verdict_row(common, outcomes, protected, self.baseline, verdict)
        self.ledger.append(row)
        rank_zero_info(
            f"round {row['round']}: sparsity {row['sparsity']:.2%}, {row['verdict']}: {row['reason']}"
        )
        if self.processes.rank == 0:
            # The step at which Lightning logs the end of this epoch: some loggers drop what goes back.
            step = max(self.trainer.fit_loop.epoch_loop._batches_that_stepped - 1, 0)
            for logger in self.trainer.loggers:
                logger.log_metrics(round_metrics(row), step=step)

    def _extend_or_end(self) -> None:
        loop = self.trainer.fit_loop
        start_epoch, start_step = epochs_done(self.trainer), self.trainer.global_step
        if self.state.finished is not None:
            self.horizon = Horizon(start_epoch, start_step, 0, 0)
            loop.max_epochs = start_epoch
            rank_zero_info(f"pruning ends: {self.state.finished}")
            return
        self.pending = True
        self.trainer.should_stop = False
        epochs, steps = self._round_length()
        self.horizon = Horizon(start_epoch, start_step, epochs, steps)
        self.horizon.limits(self.limits).apply(self.trainer)

    def _round_length(self) -> tuple[int, int]:
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
        if self.state.round == 0 and not seeded:
            self._capture_epoch()
            return
        loaders = self.trainer.fit_loop._combined_loader.flattened
        for sampler in _samplers(loaders):
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(self.round_epoch + (0 if self.state.round else self.horizon.start_epoch))
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

    def _begin_round(self) -> None:
        assert self.accepted is not None
        self.pending = False
        reshard(self.module)
        restore_tensors(self.module, self.accepted.tensors)
        self.masks = self._pruned(self.accepted.masks)
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
        for generator in loader_generators(self.trainer.fit_loop._combined_loader.flattened):
            generator.manual_seed(generator.initial_seed())

    def _hold(self) -> None:
        """Keep the pruned weights at zero from now on."""
        reshard(self.module)
        self.enforcement.hold(self.sharding.pieces(self.masks), self.parameters, self.trainer.optimizers)

    def _pruned(self, masks: Masks) -> Masks:
        start = self.rewind_point.tensors if self.rewind_point is not None else None

        def scores(name: str) -> torch.Tensor:
            weight = local(self.parameters[name])
            return self.settings.criterion(weight, weight if start is None else start[name].to(weight.device))

        scope: Any = self.settings.scope
        shrunk: Masks = {}
        error: Exception | None = None
        try:
            if not self.sharding:
                shrunk = shrink_masks(masks, scores, self.state.candidate, scope)
            elif any(bool(torch.isnan(scores(name)).any()) for name in masks):
                raise ValueError("criterion: a score is NaN; scores must be comparable")
        except Exception as caught:
            error = caught
        self.processes.raise_together(error)
        if not self.sharding:
            return shrunk
        device = {name: p.device for name, p in self.parameters.items()}
        held = {name: mask.to(device[name]) for name, mask in self.sharding.pieces(masks).items()}
        return self.sharding.wholes(shrink_masks(held, scores, self.state.candidate, scope, self.processes))

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
            restore_training(self.trainer, self.fresh_training)
        else:
            assert self.rewind_point is not None
            assert self.rewind_point.training is not None
            restore_tensors(self.module, self.rewind_point.tensors)
            restore_training(self.trainer, self.rewind_point.training)

    def _lightning_will_iterate(self) -> bool:
        """Whether the epoch about to start makes a new iterator (Lightning's own condition)."""
        loop = self.trainer.fit_loop
        return self.trainer.current_epoch > 0 and not loop.is_resuming and not loop.epoch_loop.restarting

    # -- judging --

    def _evaluate(self, limit: int | None) -> Outcomes | None:
        """Outcomes on the guard data, the same on all ranks; None if the scores are NaN after training."""
        try:
            return evaluate(
                self.trainer,
                self.module,
                self.data,
                self.predict,
                num_classes=self.settings.num_classes,
                threshold=self.settings.threshold,
                processes=self.processes,
                limit=limit,
            )
        except NaNScoresError as error:
            if self.trainer.global_step == 0:
                raise MisconfigurationException(str(error)) from error
            return None
        except ValueError as error:
            raise MisconfigurationException(str(error)) from error

    # -- saving --

    def state_dict(self) -> dict[str, Any]:
        """Everything that a later process needs to go on: plain dicts of tensors and primitives."""
        assert self.budget is not None
        return {
            "version": STATE_VERSION,
            "settings": self._settings_state(),
            "parameters": {name: list(p.shape) for name, p in self.parameters.items()},
            "rounds": self.state.state_dict(),
            "budget": self.budget.to_dict(),
            "horizon": self.horizon.state_dict(),
            "pending": self.pending,
            "sealed": self.sealed,
            "seed": self.seed,
            "seconds": self.seconds_before + time.monotonic() - self.round_started,
            "masks": {name: pack(mask) for name, mask in self.masks.items()},
            "ledger": [dict(row) for row in self.ledger],
            "baseline": self.baseline.state_dict() if self.baseline is not None else None,
            "accepted": _save_ticket(self.accepted, self.sharding, self.settings.rewind.kind == "none"),
            "rewind_point": _save_point(self.rewind_point, self.sharding),
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

    def _generators(self) -> list[torch.Generator]:
        loader = self.trainer.fit_loop._combined_loader
        return loader_generators(loader.flattened) if loader is not None else []

    def _settings_state(self) -> dict[str, Any]:
        """What two runs must share: the callback's settings, and the trainer's limits, which are those of a round."""
        limits = {"max_epochs": self.limits.max_epochs, "max_steps": self.limits.max_steps}
        return self.settings.state_dict() | limits

    def check(self, state: Mapping[str, Any]) -> None:
        """Refuse a checkpoint that this run cannot continue.

        Raises:
            MisconfigurationException: Names what differs.
        """
        if state.get("version") != STATE_VERSION:
            raise MisconfigurationException(
                f"the checkpoint's pruning state has version {state.get('version')}; this package reads {STATE_VERSION}"
            )
        mine, theirs = self._settings_state(), state["settings"]
        differing = [k for k in mine if mine[k] != theirs.get(k)]
        if differing:
            raise MisconfigurationException(
                "the checkpoint was written by a run with other settings: "
                + "; ".join(f"{k} was {theirs.get(k)!r} and is now {mine[k]!r}" for k in differing)
            )

    def _adopt(self, saved: Mapping[str, Any]) -> None:
        shapes = {name: list(p.shape) for name, p in self.parameters.items()}
        if shapes != saved["parameters"]:
            differing = sorted(
                n
                for n in shapes.keys() | saved["parameters"].keys()
                if shapes.get(n) != saved["parameters"].get(n)
            )
            raise MisconfigurationException(
                "the checkpoint was written for a model with other prunable parameters: "
                + ", ".join(f"{n} {saved['parameters'].get(n)} -> {shapes.get(n)}" for n in differing)
            )
        device = {name: mask.device for name, mask in self.masks.items()}
        self.masks = {name: unpack(m).to(device[name]) for name, m in saved["masks"].items()}
        self.state = rounds.RoundState.from_state_dict(saved["rounds"])
        self.budget = ErrorBudget.from_dict(saved["budget"])
        self.horizon = Horizon.from_state_dict(saved["horizon"])
        self.pending, self.sealed = saved["pending"], saved["sealed"]
        self.seed, self.seconds_before = saved["seed"], saved["seconds"]
        self.ledger = [dict(row) for row in saved["ledger"]]
        self.baseline = Outcomes.from_state_dict(saved["baseline"]) if saved["baseline"] is not None else None
        self.accepted = _load_ticket(saved["accepted"], device, self.sharding)
        self.rewind_point = _load_point(saved["rewind_point"], self.sharding)
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


def _save_ticket(ticket: Ticket | None, sharding: Sharding, with_training: bool) -> dict[str, Any] | None:
    if ticket is None:
        return None
    return {
        "masks": {name: pack(mask) for name, mask in ticket.masks.items()},
        "tensors": sharding.saved(ticket.tensors),
        "training": sharding.saved_state(ticket.training) if with_training else None,
        "stopping": ticket.stopping,
    }


def _load_ticket(
    saved: Mapping[str, Any] | None, device: Mapping[str, torch.device], sharding: Sharding
) -> Ticket | None:
    if saved is None:
        return None
    masks = {name: unpack(mask).to(device[name]) for name, mask in saved["masks"].items()}
    training = sharding.loaded_state(saved["training"])
    return Ticket(masks, sharding.pieces(saved["tensors"]), training, saved["stopping"])


def _save_point(point: RewindPoint | None, sharding: Sharding) -> dict[str, Any] | None:
    if point is None:
        return None
    return {
        "tensors": sharding.saved(point.tensors),
        "training": sharding.saved_state(point.training),
        "length": list(point.length),
    }


def _load_point(saved: Mapping[str, Any] | None, sharding: Sharding) -> RewindPoint | None:
    if saved is None:
        return None
    epochs, steps = saved["length"]
    return RewindPoint(
        sharding.pieces(saved["tensors"]), sharding.loaded_state(saved["training"]), (epochs, steps)
    )
