"""A run: the transactions of one `fit` - judge, commit or roll back, begin a round, deliver - over the parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import inf
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_info

from lightning_classprune import rounds
from lightning_classprune.companions import Companions
from lightning_classprune.compatibility import warn_where_global_epochs_count
from lightning_classprune.cutting import Cutter
from lightning_classprune.guard_data import GuardData
from lightning_classprune.judge import Judge
from lightning_classprune.keeping import LadderKeeper
from lightning_classprune.masks import Masks, pack, unpack
from lightning_classprune.processes import Processes
from lightning_classprune.recording import Recorder
from lightning_classprune.resuming import (
    STATE_VERSION,
    check_same_parameters,
    left_out,
    run_settings,
    shapes,
    step_plateau_schedulers,
)
from lightning_classprune.rewinding import (
    Tensors,
    capture_tensors,
    capture_training,
    restore_tensors,
    restore_training,
)
from lightning_classprune.round_clock import RoundClock
from lightning_classprune.round_length import does_not_fit
from lightning_classprune.round_randomness import RoundRandomness
from lightning_classprune.round_start import RoundStart
from lightning_classprune.rows import stands
from lightning_classprune.search import Search
from lightning_classprune.settings import Settings
from lightning_classprune.sharding import Sharding, reshard
from lightning_classprune.status import Status, status
from lightning_classprune.tickets import Ticket, pack_ticket, unpack_ticket


@dataclass(eq=False, repr=False, kw_only=True)
class PruningRun:
    """Everything that lives from `on_fit_start` to the end of one `fit`; `Beginning` makes it of its parts."""

    settings: Settings
    trainer: Any
    module: Any
    processes: Processes
    plan: rounds.Plan
    cutter: Cutter
    judge: Judge
    round_start: RoundStart
    clock: RoundClock
    companions: Companions
    randomness: RoundRandomness
    recorder: Recorder
    ladder: LadderKeeper
    masks: Masks

    def __post_init__(self) -> None:
        pruned = self.cutter.units.pruned(self.masks)
        self.state = rounds.RoundState(accepted=pruned, candidate=pruned)
        self.accepted: Ticket | None = None
        self.pending = False  # a verdict was given, the next round is not set up yet
        self.data: GuardData  # found when training starts, as is the data to search with
        self.search: Search | None = None
        self.final_state: dict[str, Any] = {}
        self._delivered = False
        self._earlier_ladder: str | None = None

    @property
    def sharding(self) -> Sharding:
        """How the parameters are spread over the processes."""
        return self.cutter.sharding

    def begin_ladder(self) -> None:
        """Bring the ladder's folder in line with the ledger, once."""
        self.ladder.begin(self.recorder.rows, self._earlier_ladder, self.accepted, self.sharding, self.module)

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
            self.end_of_round(job_over)
        elif self.clock.epochs >= (self.settings.max_total_epochs or inf):
            self.end_of_round(job_over=True)  # of a round whose length was not known in epochs
        elif self.search is not None and self.search.is_halfway(self.clock.horizon, self.clock.epochs):
            with self._as_judged():
                reason = self.search.at_half(self.trainer, self.module, dense=self.state.round == 0)
            if reason is not None:
                self._abandon(reason, job_over=False)

    def end_of_round(self, job_over: bool) -> None:
        """Judge what the module holds, unless validation data say that it is hopeless; begin a round, or end the job.

        Args:
            job_over: No round may follow.
        """
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
        if self._delivered:
            return
        self._delivered = True
        self.begin_ladder()  # a finished run that is resumed has not started
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
        if self.accepted is not None:
            restore_tensors(self.module, self.accepted.tensors)
            self.masks = self.accepted.masks
            # A checkpoint takes the average for the model, and this is what it is to find.
            self.companions.averaging.restart(self.module)

    # -- the start of a round --

    @property
    def sparsity(self) -> float:
        """Pruned share of the units, in [0, 1]."""
        return self.cutter.sparsity(self.masks)

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
            tolerances=self.settings.tolerances,
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

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned, as far as it is no state of the trainer's."""
        check_same_parameters(saved, shapes(self.cutter.units.parameters))
        device = {name: mask.device for name, mask in self.masks.items()}
        self.masks = {name: unpack(m).to(device[name]) for name, m in saved["masks"].items()}
        self.state = rounds.RoundState.from_state_dict(saved["rounds"])
        self.judge.load_state_dict(saved)
        self.clock.load_state_dict(saved)
        self.pending, self.companions.checkpoints.sealed = saved["pending"], saved["sealed"]
        self.recorder.load_state_dict(saved["ledger"])
        self.accepted = unpack_ticket(saved["accepted"], device, self.sharding)
        self._earlier_ladder = saved.get("ladder")
        self.round_start.load_state_dict(saved["rewind_point"])
        self.companions.checkpoints.load_state_dict(saved["checkpoints"])
        self.randomness.load_state_dict(saved)
