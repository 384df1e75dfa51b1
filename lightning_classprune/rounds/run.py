"""A run: the transactions of one `fit` - judge, commit or roll back, begin a round, end - over the parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn

from lightning_classprune.guard.data import GuardData, find_guard_data
from lightning_classprune.guard.judge import Judge
from lightning_classprune.guard.task import Outcomes
from lightning_classprune.ledger.recording import Recorder
from lightning_classprune.ledger.rows import stands
from lightning_classprune.pruning.cutter import Cutter, check_criterion
from lightning_classprune.pruning.masks import HeldMasks, Masks, pack_all
from lightning_classprune.pruning.scoring import Scoring
from lightning_classprune.rounds.best_epoch import BestEpoch
from lightning_classprune.rounds.candidate import Candidate
from lightning_classprune.rounds.clock import RoundClock, does_not_fit
from lightning_classprune.rounds.closing import Closing
from lightning_classprune.rounds.delivery import Delivery
from lightning_classprune.rounds.file_candidates import FileCandidates
from lightning_classprune.rounds.first_network import share_of_zeros, take_first
from lightning_classprune.rounds.gradual import GradualMask
from lightning_classprune.rounds.handover import Handover
from lightning_classprune.rounds.listening import Listening
from lightning_classprune.rounds.nested import NestedRound
from lightning_classprune.rounds.nesting import measure_members, said_of_kept, take_places, why_apart
from lightning_classprune.rounds.options import Gradual
from lightning_classprune.rounds.plan import (
    Plan,
    RoundState,
    after_abandonment,
    after_verdict,
    ended_by_limits,
    reopened,
)
from lightning_classprune.rounds.randomness import RoundRandomness
from lightning_classprune.rounds.resuming import (
    step_plateau_schedulers,
)
from lightning_classprune.rounds.run_state import put_back, state_of
from lightning_classprune.rounds.search import Look, Search
from lightning_classprune.rounds.settings import Settings
from lightning_classprune.rounds.start import RoundStart
from lightning_classprune.rounds.status import Status, status
from lightning_classprune.tickets.keeper import LadderKeeper
from lightning_classprune.tickets.kept import KeptTickets
from lightning_classprune.tickets.spent import SpentTests
from lightning_classprune.tickets.ticket import Ticket
from lightning_classprune.trainer.compatibility import warn_where_global_epochs_count
from lightning_classprune.trainer.other_callbacks import OtherCallbacks
from lightning_classprune.trainer.processes import Processes
from lightning_classprune.trainer.sharding import Sharding, reshard
from lightning_classprune.trainer.snapshots import (
    Tensors,
    TrainingState,
    capture_tensors,
    capture_training,
    restore_tensors,
)

#: Candidates of one judgement; with more of them its first levels become very small.
MANY = 6


@dataclass(eq=False, repr=False, kw_only=True)
class PruningRun:
    """Everything that lives from `on_fit_start` to the end of one `fit`; `Startup` makes it of its parts."""

    settings: Settings
    trainer: Any
    module: Any
    processes: Processes
    plan: Plan
    cutter: Cutter
    judge: Judge
    round_start: RoundStart
    clock: RoundClock
    other_callbacks: OtherCallbacks
    randomness: RoundRandomness
    recorder: Recorder
    ladder: LadderKeeper
    kept: KeptTickets | None
    files: FileCandidates | None
    spent: SpentTests
    best: BestEpoch | None
    held: HeldMasks

    @property
    def masks(self) -> Masks:
        """What is pruned now."""
        return self.held.get()

    @masks.setter
    def masks(self, masks: Masks) -> None:
        self.held.put(masks)

    def __post_init__(self) -> None:
        pruned = self.cutter.units.pruned(self.masks)
        self.state = RoundState(accepted=pruned, candidate=pruned)
        self.pending = False  # a verdict was given, the next round is not set up yet
        self.begun = False  # what it does is no longer only what a checkpoint says, or nothing
        self.data: GuardData  # found when training starts, as is the data to search with
        self.search: Search | None = None
        self.final_state: dict[str, Any] = {}
        self.delivery = Delivery(
            handover=Handover(
                self.trainer,
                self.module,
                self.judge.evaluator,
                self.settings.class_names,
                self.cutter.sharding,
            ),
            other_callbacks=self.other_callbacks,
            ladder=self.ladder,
        )
        self.closing = Closing(
            at_end=self.settings.guard.judging == "end",
            judge=self.judge,
            kept=self.kept,
            recorder=self.recorder,
            delivery=self.delivery,
            spent=self.spent,
            files=self.files,
        )
        self.candidate = Candidate(self.module, self.processes, (self.other_callbacks.averaging,))
        share = self.settings.search.share if isinstance(self.settings.search, Gradual) else None
        self.gradual = GradualMask(share, self.trainer, self.cutter, self.clock, self.other_callbacks)
        self.listening = Listening(
            trainer=self.trainer,
            module=self.module,
            cutter=self.cutter,
            gradual=self.gradual,
            clock=self.clock,
            early_stopping=self.other_callbacks.early_stopping,
        )
        self.nested = NestedRound(self.module, self.cutter, self.clock)
        self._delivered = False
        self._interrupted = False  # the job is being stopped, and the guard judges at the end only
        self.earlier: Mapping[str, Any] | None = (
            None  # the state of the fit whose pruned network this one starts from
        )

    @property
    def sharding(self) -> Sharding:
        """How the parameters are spread over the processes."""
        return self.cutter.sharding

    def rehearse_criterion(self) -> None:
        """Prepare and score once before training, so that no training is lost by a criterion that cannot.

        Raises:
            MisconfigurationException: Its scores make no sense.
        """
        criterion = self.settings.criterion
        if not criterion.looks_first:
            return
        state = criterion.state_dict()
        self.cutter.prepare(self._scoring())
        check_criterion(criterion, self.cutter.units.parameters)
        criterion.load_state_dict(state)

    # -- the end of an epoch, of a round, of the job --

    def end_of_epoch(self) -> None:
        """Judge if the round is over: by its length, by EarlyStopping, or because the job is being stopped."""
        if self.pending or self.state.finished is not None:
            return
        self.cutter.look()
        if self.gradual.pruned is not None:
            # Early stopping compares networks of different densities, of which none is the candidate.
            if self.processes.any(self.other_callbacks.early_stopping.stopped()):
                self.trainer.should_stop = False
            self.other_callbacks.early_stopping.reset()
        if self.best is not None and self._is_after_last_cut and not self.nested.is_training:
            self.best.look(self.clock.round_epoch, self._epoch)
        # What EarlyStopping decided is saved, Lightning's flag is not.
        asked = self.trainer.should_stop or self.other_callbacks.early_stopping.stopped()
        stopping = self.processes.any(asked and self.trainer.fit_loop._can_stop_early)
        job_over = stopping and not self.other_callbacks.early_stopping.stopped()
        if job_over and self.closing.at_end:
            # An interruption leaves a checkpoint and judges nothing; a round that has had its length is kept, or not.
            self._interrupted, stopping, job_over = True, False, False
        if stopping or self.clock.is_over():
            self.end_of_round(job_over)
        elif self.gradual.diverged:
            self.end_of_round(job_over=False)
        elif self.clock.epochs >= (self.settings.search.max_total_epochs or inf):
            self.end_of_round(job_over=True)  # of a round whose length was not known in epochs
        elif self._is_halfway():
            assert self.search is not None
            with self.candidate.as_judged():
                dense = self.state.round == 0
                reason = self.search.at_half(self.trainer, self.module, dense=dense, level=self._next_level())
            if reason is not None:
                self._abandon(reason, job_over=False)

    @property
    def _is_after_last_cut(self) -> bool:
        """Whether the network in training has the round's last mask: a denser one is no candidate."""
        return self.gradual.pruned is None

    def _epoch(self) -> tuple[Tensors, TrainingState | None]:
        """The network as it would be judged now, and what trained it where rounds go on from that."""
        with self.candidate.as_judged():
            tensors = capture_tensors(self.module)
        return tensors, self._training()

    def _training(self) -> TrainingState | None:
        """What trains the network, where rounds go on from it; else nobody needs the memory that it takes."""
        return capture_training(self.trainer) if self.settings.search.point.kind == "none" else None

    def _is_halfway(self) -> bool:
        if self.search is None or self.plan.chosen is None or self.nested.is_training:
            return False
        share = self.gradual.share if self.state.round else 0.0
        return self.search.is_halfway(self.clock.horizon, self.clock.epochs, share)

    def _next_level(self) -> float | None:
        """The error level that the candidate in training may expect to be judged at."""
        if self.closing.at_end and self.kept is not None and self.judge.budget.alpha is not None:
            return self.judge.budget.alpha / ((len(self.kept.candidates) + 1) * self._of_each)
        budget = self.judge.budget
        return budget.alpha if budget.exhausted else budget.level()

    def end_of_round(self, job_over: bool) -> None:
        """Judge what the module holds, unless validation data say that it is hopeless; begin a round, or end the job.

        Args:
            job_over: No round may follow.
        """
        if self.nested.is_training:
            self._end_nested()
            return
        if (unfinished := self.gradual.unfinished) is not None:
            self._abandon(unfinished, job_over)
            return
        if self.best is not None:
            self.best.become_candidate(
                self.module, self.other_callbacks.averaging, self.state.round, self.clock.round_epoch
            )
        look = Look()
        if self.search is not None:
            with self.candidate.as_judged():
                look = self.search.at_end(self.trainer, self.module, self._next_level())
            if look.reason is not None:
                self._abandon(look.reason, job_over)
                return
        dense = self.judge.dense is None
        if self.closing.at_end and not dense:
            self._keep(look, job_over)
            return
        with self.candidate.as_judged():
            limit = 1 if self.trainer.fast_dev_run else None
            evaluator = self.judge.evaluator
            looks = evaluator.looks(self.trainer, self.module, self.data, limit)
            outcomes = None if looks is None else evaluator.decide(looks, look.offsets)
            tensors = capture_tensors(self.module)
        verdict, why = None, ""
        if dense:
            first = take_first(
                self.judge,
                None if looks is None else looks.plain,
                outcomes,
                earlier=self.earlier,
                rehearsal=bool(self.trainer.fast_dev_run),
                zeros=self.processes.first(share_of_zeros(self.cutter.units.parameters)),
            )
            # Rounds that are judged one by one say so each; where they were all judged at the end, none is trained.
            finished = first.finished or (self.judge.no_measure if self.closing.at_end else None)
            why, self.state = first.why, replace(self.state, finished=finished)
            self.tell_labels()
        else:
            number, level = self.judge.budget.tests, self.judge.budget.level()
            verdict = self.judge.verdict(outcomes)
            if level is not None:
                self.spent.take(number, outcomes, verdict.outcome, level)
        accepted = verdict is None or verdict.accepted
        goes_on = accepted and outcomes is not None and self.state.finished is None
        reach = self._reach(tensors) if goes_on else None
        shown = self.judge.dense if dense else outcomes
        self.recorder.judged(self._facts(), shown, verdict, self.judge, why, look.offsets, look.chance)
        if accepted and outcomes is not None:
            self._commit(tensors, look, outcomes)
        if self.state.finished is None:
            self.state = after_verdict(self.plan, self.state, accepted, reach)
        self._extend_or_end(job_over)

    def _keep(self, look: Look, job_over: bool) -> None:
        """A candidate that validation data accept: the guard will judge it at the end."""
        with self.candidate.as_judged():
            tensors = capture_tensors(self.module)
        reach = self._reach(tensors)
        self.recorder.kept(self._facts(), said_of_kept(look), self.judge)
        self._commit(tensors, look, None)
        waiting = len(self.kept.candidates) * self._of_each if self.kept is not None else 0
        if waiting - self._of_each <= MANY < waiting:
            rank_zero_warn(
                f"more than {MANY} candidates wait for the guard: Holm's first level is the error level divided by "
                "their number, so each more makes every proof harder; lower max_rounds, prune in larger steps, or "
                "judge fewer files"
            )
        self.state = after_verdict(self.plan, self.state, True, reach)
        self._extend_or_end(job_over)

    def _end_nested(self) -> None:
        """The nested networks take the candidates' places, if validation data accept all of them; else these stay."""
        assert self.search is not None
        assert self.kept is not None
        assert self.judge.budget.alpha is not None
        search, kept, facts = self.search, self.kept, self._facts()
        level = self.judge.budget.alpha / (len(self.nested.masks) * self._of_each)

        def look() -> Look:
            self.processes.equalize_buffers(self.module)
            return search.at_end(self.trainer, self.module, level)

        def keep(ticket: Ticket, row: int, look: Look) -> None:
            kept.keep(ticket, row, look.chance, self.sharding, self.module)

        members = measure_members(self.nested, self.candidate, self.module, self.cutter, look)
        if isinstance(members, str):
            self.recorder.abandoned(facts, members, self.judge)
        else:
            take_places(members, facts, kept, keep, self.recorder, self.judge)
        self.state = replace(self.state, finished=self.nested.after)
        self.nested.end()
        self._extend_or_end(job_over=False)

    @property
    def _of_each(self) -> int:
        """How many candidates of the judgement a kept network is."""
        return 1 if self.files is None else self.files.per_network

    def tell_labels(self) -> None:
        """Let the search know how many cases the guard has, once the dense network was judged."""
        if self.search is not None and self.judge.dense is not None:
            self.search.labels = self.judge.labels()
            told = None if self.search.dense is None else self.search.too_few(self._next_level())
            if told is not None and self.state.round == 0:
                rank_zero_warn(told)

    def close(self) -> None:
        """Judge the candidates that were kept; see `Closing.close`."""
        self.cutter.let_go()
        self.closing.close(self._guard_data, self._validation_data)

    def _guard_data(self) -> GuardData:
        """The guard data, also of a finished run that is resumed and does not start."""
        if not hasattr(self, "data"):
            self.data = find_guard_data(self.trainer, self.settings.guard_dataloader, self.processes)
        return self.data

    def _bias_for(self, offsets: Mapping[str, float], outcomes: Outcomes | None) -> str | None:
        return self.delivery.handover.bias_for(offsets, outcomes, self.data, self._validation_data)

    @property
    def _validation_data(self) -> GuardData | None:
        return None if self.search is None else self.search.data

    def _commit(self, tensors: Tensors, look: Look, outcomes: Outcomes | None) -> None:
        training, stopping = capture_training(self.trainer), self.other_callbacks.early_stopping.capture()
        with self.candidate.as_judged():
            place = self._bias_for(look.offsets, outcomes)
            beside = self.delivery.handover.beside()
        packed, offsets = pack_all(self.masks), dict(look.offsets)
        ticket = Ticket(packed, tensors, training, stopping, offsets, place, beside)
        self.delivery.accepted = ticket
        self.cutter.commit()
        if self.kept is not None:
            self.kept.keep(ticket, len(self.recorder.rows) - 1, look.chance, self.sharding, self.module)
        if stands(self.recorder.rows[-1]):
            self.delivery.to_ladder(self.recorder.rows)

    def _reach(self, tensors: Tensors) -> int | None:
        """How far the network that was just accepted can be pruned without retraining; it is put back bit for bit."""
        if self.search is None or self.plan.adaptive is None:
            return None
        origin, present = self.round_start.origin, self.state.candidate
        to_try = self.plan.adaptive.densities_to_try(self.plan.total, present, self.plan.target)
        with self.candidate.swapped_in():
            self.cutter.prepare(self._scoring())
            reach = self.search.reach(
                self.trainer,
                self.module,
                present,
                to_try,
                self._next_level(),
                lambda pruned: self.cutter.try_on(tensors, self.masks, pruned, origin),
            )
            restore_tensors(self.module, tensors)
        return reach

    def _scoring(self) -> Scoring:
        """What the criterion may look at after this verdict."""
        return Scoring(
            module=self.module,
            parameters=self.cutter.units.parameters,
            protected=tuple(one.index for one in self.settings.protected),
            trainer=self.trainer,
            predict=self.settings.predict,
            sharding=self.sharding,
            seed=self.state.attempts + (self.clock.round_step if self.gradual.is_on else 0),
        )

    def _abandon(self, reason: str, job_over: bool) -> None:
        self.recorder.abandoned(self._facts(), reason, self.judge)
        self.gradual.stop()
        self.state = after_abandonment(self.plan, self.state)
        self._extend_or_end(job_over)

    def _facts(self) -> dict[str, Any]:
        """What the ledger says of an attempt whatever its verdict."""
        return {
            "round": self.state.round,
            "attempt": self.state.attempt,
            "sparsity": self.sparsity,
            "units": self.cutter.units.name,
            "confidence": self.settings.guard.confidence,
            "epochs": self.clock.round_epoch,
            "seconds": round(self.clock.seconds, 3),
            "seed": self.randomness.seed,
            "validation_passes": 0 if self.search is None else self.search.passes,
        }

    @property
    def can_be_reopened(self) -> bool:
        """Whether a limit that was raised is all that ended the run."""
        return ended_by_limits(self.state)

    def reopen(self) -> None:
        """Go on with a run that limits had ended, before they were raised.

        Raises:
            MisconfigurationException: The checkpoint has no network to go on from.
        """
        accepted, row = self.delivery.accepted, self.recorder.rows[-1]
        if accepted is None:
            raise MisconfigurationException(
                "this checkpoint was written after the fit and holds no state to go on from; extend the run from its "
                "last accepted-round or kept-round checkpoint"
            )
        tried = (row["round"], row["attempt"]) == (self.state.round, self.state.attempt)
        reach = (
            self._reach(accepted.tensors) if tried and self.state.candidate == self.state.accepted else None
        )
        self.state = reopened(self.plan, self.state, tried=tried, reach=reach)
        sealed = self.other_callbacks.checkpoints.sealed
        self._extend_or_end(job_over=False)
        self.other_callbacks.checkpoints.sealed = sealed  # no round has ended

    def _extend_or_end(self, job_over: bool) -> None:
        """Let the next round follow, or none; what ModelCheckpoint tracks is still of the one that has ended."""
        self.other_callbacks.checkpoints.sealed = False
        if self.search is not None:
            self.search.passes = 0
        length = self.round_start.length
        finished = self.state.finished
        if finished is None and job_over:
            finished = "the job was stopped"
        if finished is None and self.round_start.missed:
            finished = "round 0 ended before the rewind point was reached"
        if finished is None:
            finished = does_not_fit(
                self.trainer, self.clock.epochs, length, self.settings.search.max_total_epochs
            )
        if finished is not None and self._nests(job_over, length):
            self.nested.after, finished = finished, None
            self.state = replace(self.state, finished=None)
        if finished is None:
            self.pending = True
            self.trainer.should_stop = self._interrupted
            self.clock.set_round(*length)
            self.clock.apply()
            return
        self.state = replace(self.state, finished=finished)
        if self.closing.at_end and not self._interrupted:
            self.close()
        self.clock.set_round(0, 0)
        self.trainer.fit_loop.max_epochs = self.clock.epochs
        rank_zero_info(f"pruning ends: {finished}")

    def _nests(self, job_over: bool, length: tuple[int, int]) -> bool:
        """Whether the nested round follows now that the others are over."""
        if not self.settings.files.nested or self.kept is None or self.nested.after is not None:
            return False
        if not self.kept.candidates:
            return False
        limit = self.settings.search.max_total_epochs
        no_room = does_not_fit(self.trainer, self.clock.epochs, length, limit)
        why = why_apart(self.kept.candidates, job_over=job_over, no_room=no_room)
        if why is not None:
            rank_zero_warn(f"Files.nested=True: the candidates keep weights of their own, for {why}")
        return why is None

    def after_epoch(self) -> None:
        """The last hook at the end of an epoch, after ModelCheckpoint's."""
        self.randomness.gone_on()  # also where the epoch was over but for its end
        self._seal()
        if self.trainer.fit_loop.restarting:
            step_plateau_schedulers(self.trainer)

    def _seal(self) -> None:
        self.delivery.seal(self.recorder.rows, was_judged=self.closing.was_judged)

    def deliver(self) -> None:
        """Leave the last accepted ticket in the module, bit for bit as it was judged."""
        if self._delivered:
            return
        self._delivered = self.begun = True
        self.delivery.begin_ladder(self.recorder.rows)  # a finished run that is resumed has not started
        if self.closing.is_open and self.state.finished is not None and not self._interrupted:
            self.close()  # it was interrupted after its last round
        if self.closing.is_open:
            self.final_state = self._told_at_the_end()
            return
        accepted = self.delivery.accepted
        refused = self.state.round > 0 and accepted is not None and not stands(self.recorder.rows[-1])
        self.restore_accepted()
        self._seal()
        if refused and not self.trainer.fast_dev_run:
            self.delivery.save_again(self.round_start.fresh)
        self.delivery.handover.tell(accepted)
        self.recorder.tell_delivered(self.judge)
        # Taken here, where all processes are: for checkpoints written after the fit, when the module is the ticket.
        self.final_state = self._told_at_the_end()
        self.closing.finish()

    def on_exception(self) -> None:
        """Whoever saves on an exception is to find all weights."""
        self.nested.leave()

    def interrupted(self) -> None:
        """An exception ends the fit: the last accepted ticket stays, or the state in which the run can be closed."""
        if not self.closing.is_open:
            if self.state.round > 0:
                self.restore_accepted()
        elif not self.sharding:  # whose state takes all processes, which may not be here
            self.final_state = self._told_at_the_end()

    def _told_at_the_end(self) -> dict[str, Any]:
        """What a callback keeps of a run: all but the tensors, which the module or files have."""
        told = state_of(self) | {"accepted": None, "rewind_point": None, "fresh": None, "best": None}
        heard = {"criterion": None, "criterion_accepted": None} if self.cutter.criterion.listens else {}
        return told | heard

    def deliver_unjudged(self) -> None:
        """The fit is over and nothing was judged: the dense network is what may be handed over.

        Not before everyone has saved: a checkpoint of an interrupted round is to hold that round's weights.
        """
        if self.closing.is_open:
            self.closing.take_dense()
            self.restore_accepted()
            self.recorder.tell_delivered(self.judge)

    def restore_accepted(self) -> None:
        """Put the last accepted ticket into the module; before a first verdict there is none, and nothing changes."""
        if self.delivery.accepted is not None:
            self.cutter.let_go()
            self.delivery.put_in()
            self.masks = self.delivery.accepted.masks

    # -- the start of a round --

    @property
    def sparsity(self) -> float:
        """Pruned share of the units, in [0, 1]."""
        return self.cutter.sparsity(self.masks)

    def start_of_epoch(self) -> None:
        """Set up the next round if a verdict is pending; give samplers the round's own epoch."""
        self._seal()
        seeded = self.pending
        if self.pending:
            self._begin_round()
        else:
            seeded = self.randomness.go_on()
        if seeded or self.state.round:
            self.randomness.tell_samplers(self.clock.round_epoch if self.state.round else self.clock.epochs)
        if seeded:
            self.randomness.renew_iterator()
        if self.state.round == 0:
            self.round_start.at_epoch()

    def start_of_batch(self) -> None:
        """A rewind point may be inside an epoch."""
        self.randomness.gone_on()
        if self.state.round == 0:
            self.round_start.at_step()
        self.nested.enter()

    def end_of_batch(self) -> None:
        """The mask of the round may shrink."""
        self.nested.leave()
        shrunk = self.gradual.cut(self.masks, self.round_start.origin, self._scoring)
        if shrunk is not None:
            self.masks = shrunk

    def before_optimizer_step(self, optimizer: Any) -> None:
        """The criterion hears the gradients that may count at a cut."""
        self.nested.before_step()
        self.listening.hear(optimizer)

    def _begin_round(self) -> None:
        accepted = self.delivery.accepted
        assert accepted is not None
        self.pending = False
        reshard(self.module)
        nests = self.nested.is_next
        if not nests:
            restore_tensors(self.module, accepted.tensors)
        masks = self.cutter.placed(accepted.masks)
        if nests:
            self._begin_nested()
        elif self.gradual.is_on:
            self.masks = masks
            self.gradual.begin(self.state.accepted, self.state.candidate)
        else:
            self.cutter.go_back()
            self.cutter.prepare(self._scoring())
            self.masks = self.cutter.shrink(masks, self.state.candidate, self.round_start.origin)
        self.cutter.require_equal(self.masks)
        self.cutter.listen_anew()
        self.round_start.go_back(accepted, with_weights=not nests)
        self.processes.equalize_buffers(self.module)
        masks = self.masks
        self.cutter.apply(masks)
        self.module.zero_grad()
        self.other_callbacks.start_round(self.module)
        self.cutter.hold(masks, self.trainer.optimizers)
        warn_where_global_epochs_count(self.trainer, self.clock.horizon)
        if self.best is not None:
            self.best.reset()
        self.clock.restart_seconds()
        self.randomness.start_round()

    def _begin_nested(self) -> None:
        """Put the densest candidate into the module, whose mask holds from here on."""
        assert self.kept is not None
        networks = [self.kept.load(one) for one in self.kept.candidates]
        self.closing.put_in(networks[0][0])
        placed = [self.cutter.placed(masks) for _, masks in networks]
        self.masks = placed[0]
        self.nested.begin(placed)
        self.state = replace(
            self.state,
            round=max(row["round"] for row in self.recorder.rows) + 1,
            attempt=1,
            candidate=self.cutter.units.pruned(self.masks),
        )

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
            protected=self.settings.protected,
            judges_once=self.closing.at_end,
            recall=recall,
            rows=self.recorder.rows,
            seconds=0.0 if self.pending else self.clock.seconds,
            max_total_epochs=self.settings.search.max_total_epochs,
            shrunk=self.gradual.pruned,
        )

    # -- saving --

    def state_dict(self) -> dict[str, Any]:
        """Everything that a later process needs to go on: plain dicts of tensors and primitives."""
        self.spent.a_checkpoint_is_written()
        self.cutter.look()
        return state_of(self)

    def load_state_dict(self, saved: Mapping[str, Any], *, extended: bool = False) -> None:
        """Take back what `state_dict` returned, as far as it is no state of the trainer's.

        Args:
            saved: What it returned.
            extended: The limits to the rounds were raised since.
        """
        put_back(self, saved, extended=extended)
