"""Closing: a run whose guard looks once is judged at its end, and the best network that stands is what it delivers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from lightning_classprune.guard.data import GuardData
from lightning_classprune.guard.judge import Judge
from lightning_classprune.guard.task import Outcomes
from lightning_classprune.ledger.recording import Recorder
from lightning_classprune.ledger.rows import FileVerdict, file_verdict
from lightning_classprune.pruning.masks import Masks, pack_all
from lightning_classprune.rounds.delivery import Delivery
from lightning_classprune.rounds.file_candidates import FileCandidates, MadeFile
from lightning_classprune.rounds.judgement import Judged, JudgedFile, judge_kept
from lightning_classprune.tickets.kept import Kept, KeptTickets
from lightning_classprune.tickets.spent import SpentTests
from lightning_classprune.tickets.ticket import Ticket
from lightning_classprune.trainer.snapshots import capture_tensors, restore_tensors


@dataclass(kw_only=True)
class Closing:
    """The judgement of one run's candidates.

    Attributes:
        at_end: The guard looks at the end of the run only.
        judge: Knows the dense network's outcomes.
        kept: The candidates; None where none are kept.
        recorder: Takes the verdicts.
        delivery: Takes what is accepted.
        files: Those of the candidates that are judged too; None where none are.
        spent: Takes every test too, so that whoever removes the marks of the judgement gets no other verdicts.
        was_judged: The guard was opened for the candidates that were kept.
    """

    at_end: bool
    judge: Judge
    kept: KeptTickets | None
    recorder: Recorder
    delivery: Delivery
    spent: SpentTests
    files: FileCandidates | None = None
    was_judged: bool = False

    @property
    def is_open(self) -> bool:
        """Whether the guard is still to judge what was kept."""
        return self.at_end and not self.was_judged and self.judge.dense is not None

    def close(self, find_guard: Callable[[], GuardData], validation: GuardData | None) -> None:
        """Judge the candidates that were kept, once, and leave the best of those that stand in the module.

        Args:
            find_guard: Gives the guard data.
            validation: The validation data, by which offsets were chosen.

        Raises:
            MisconfigurationException: The run was judged already, or a kept network's file is not what was kept.
        """
        alpha = self.judge.budget.alpha
        if self.kept is None or alpha is None or self.judge.dense is None:
            return  # nothing could be judged
        guard, handover = find_guard(), self.delivery.handover

        def decide(state: dict[str, Tensor], kept: Kept) -> Outcomes | None:
            self.put_in(state)
            return self.judge.evaluator.outcomes(handover.trainer, handover.module, guard, kept.offsets)

        its_files = None if self.files is None else _OfCandidates(self, self.files, guard)
        self.take_dense()
        judged = judge_kept(self.kept, self.judge, decide, alpha, its_files)
        tests: list[Judged | JudgedFile] = []
        for one in judged:
            tests += [one, *one.files]
        for number, test in enumerate(tests):
            self.spent.take(number, test.outcomes, test.verdict.outcome, alpha / len(tests))
        for one in judged:
            kept = one.kept
            self.recorder.judged_at_the_end(
                kept.place,
                one.outcomes,
                one.verdict,
                self.judge,
                kept.offsets,
                kept.chance,
                {file.made.kind: self._told(file, kept) for file in one.files},
            )
            if one.verdict.accepted:
                self.put_in(one.state)
                place = handover.bias_for(kept.offsets, one.outcomes, guard, validation)
                self._take(one.masks, kept.offsets, place)
                self.delivery.to_ladder(self.recorder.rows[: kept.place + 1])
                self.judge.accepted = one.outcomes
        self.was_judged = True

    def finish(self) -> None:
        """The verdicts are where a later process finds them: say that the judgement is final, and drop what it was of.

        Not before: a run that is killed in between is judged again, the same networks by the same cases.
        """
        if self.kept is not None and self.was_judged:
            self.kept.close_guard()
            self.kept.discard()

    def _told(self, file: JudgedFile, kept: Kept) -> FileVerdict:
        """What the ledger says of a file."""
        made, reason = file.made, file.verdict.reason
        if file.outcomes is None:
            reason = made.why or "the file's scores are NaN"
        verdict = replace(
            file.verdict, reason=reason, outcome="unproven" if made.why else file.verdict.outcome
        )
        facts = {
            "file": made.file,
            "sha256": made.sha256,
            "bytes": made.bytes,
            "calibration": made.calibration,
        }
        return file_verdict(facts, file.outcomes, self.judge.dense, verdict, kept.offsets, kept.chance)

    def take_dense(self) -> None:
        """The dense network is what there is to deliver."""
        if self.kept is not None and self.kept.dense is not None:
            state, masks = self.kept.load(self.kept.dense)
            self.put_in(state)
            self._take(masks, {}, None)

    def _take(self, masks: Masks, offsets: dict[str, float], place: str | None) -> None:
        """The kept network in the module is the accepted one; a bias takes its offsets, or none does."""
        module = self.delivery.handover.module
        self.delivery.accepted = Ticket(
            pack_all(masks),
            capture_tensors(module),
            None,
            [],
            dict(offsets),
            place,
            self.delivery.handover.beside(),
        )

    def put_in(self, state: Mapping[str, Tensor]) -> None:
        """Put whole tensors by the names of a state dict into the module; what has no name there stays."""
        handover = self.delivery.handover
        tensors = capture_tensors(handover.module)
        known = {name: tensor for name, tensor in state.items() if name in tensors}
        restore_tensors(handover.module, tensors | handover.sharding.pieces(known))


@dataclass(frozen=True)
class _OfCandidates:
    """The files of one run's candidates: made of the network in the module, and asked in its place."""

    closing: Closing
    files: FileCandidates
    guard: GuardData

    def make(self, state: dict[str, Tensor], masks: Masks, kept: Kept) -> list[MadeFile]:
        self.closing.put_in(state)
        handover = self.closing.delivery.handover
        return self.files.make(handover.trainer, handover.module, kept, masks)

    def decide(self, made: MadeFile) -> Outcomes | None:
        handover, evaluator = self.closing.delivery.handover, self.closing.judge.evaluator
        trainer, module = handover.trainer, handover.module
        return self.files.decide(
            trainer, module, made, lambda: evaluator.outcomes(trainer, module, self.guard, {})
        )
