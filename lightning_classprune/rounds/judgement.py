"""The judgement: the guard looks once, at the end of a run, at all candidates that were kept.

During the run a step is accepted, refused and rolled back on validation evidence. The candidates and their number are
functions of data that are not the guard's, so, given these, Holm's procedure bounds the probability that any harmful
one of them is accepted by alpha (`guard.holm`), whatever they have in common. That takes two things: the number is
fixed before the guard is opened, and the guard is opened once. Hence a judged run is neither extended nor resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from lightning_classprune.guard.holm import accepted_by_holm
from lightning_classprune.guard.judge import Judge
from lightning_classprune.guard.task import Outcomes
from lightning_classprune.guard.verdict import Verdict
from lightning_classprune.pruning.masks import Masks
from lightning_classprune.rounds.file_candidates import MadeFile
from lightning_classprune.tickets.kept import Kept, KeptTickets

#: Puts a kept network into the module and gives what it decides on the guard data with its offsets.
Decide = Callable[[dict[str, Tensor], Kept], Outcomes | None]


class ItsFiles(Protocol):
    """The files of kept networks."""

    def make(self, state: dict[str, Tensor], masks: Masks, kept: Kept) -> list[MadeFile]:
        """Make those of one."""
        ...

    def decide(self, made: MadeFile) -> Outcomes | None:
        """What one decides on the guard data; None if it has no scores, or NaN."""
        ...


@dataclass(frozen=True)
class JudgedFile:
    """What was said of a file of a candidate.

    Attributes:
        made: The file.
        outcomes: What it decided; None if it could not be made, or its scores were NaN.
        verdict: As of a candidate.
    """

    made: MadeFile
    outcomes: Outcomes | None
    verdict: Verdict


@dataclass(frozen=True)
class Judged:
    """What was said of one candidate.

    Attributes:
        kept: The candidate.
        state: Its tensors by the names of a state dict.
        masks: True = kept.
        outcomes: What it decided; None if its scores were NaN.
        verdict: At the level that Holm's procedure tested it at.
        files: Of its files.
    """

    kept: Kept
    state: dict[str, Tensor]
    masks: Masks
    outcomes: Outcomes | None
    verdict: Verdict
    files: list[JudgedFile]


def judge_kept(
    tickets: KeptTickets, judge: Judge, decide: Decide, alpha: float, its_files: ItsFiles | None = None
) -> list[Judged]:
    """Open the guard for the candidates of a run, once; in the order in which they were kept.

    Args:
        tickets: The candidates.
        judge: Knows the dense network's outcomes.
        decide: What a candidate decides on the guard data.
        alpha: Error level of the run.
        its_files: Makes the files of a candidate, and asks them; None where none are judged.

    Raises:
        MisconfigurationException: The run was judged already, or a file is not the network that was kept.
    """
    tickets.refuse_if_judged()
    networks = [tickets.load(one) for one in tickets.candidates]
    pairs = list(zip(tickets.candidates, networks, strict=True))
    made = [its_files.make(*network, one) if its_files else [] for one, network in pairs]
    tickets.open_guard([file.sha256 for of_one in made for file in of_one])
    seen = [decide(state, one) for one, (state, _) in pairs]
    of_files = [[its_files.decide(file) for file in of_one] if its_files else [] for of_one in made]
    verdicts = iter(
        judge_once(judge, [*seen, *(outcomes for of_one in of_files for outcomes in of_one)], alpha)
    )
    own = [next(verdicts) for _ in seen]
    judged = [
        [JudgedFile(*pair, next(verdicts)) for pair in zip(*of_one, strict=True)]
        for of_one in zip(made, of_files, strict=True)
    ]
    together = zip(pairs, seen, own, judged, strict=True)
    return [
        Judged(one, *network, outcomes, verdict, its) for (one, network), outcomes, verdict, its in together
    ]


def judge_once(judge: Judge, seen: Sequence[Outcomes | None], alpha: float) -> list[Verdict]:
    """The verdicts on all candidates together, at one error level.

    Args:
        judge: Knows the dense network's outcomes.
        seen: What each candidate decided on the guard data, in any order.
        alpha: Error level of the run.
    """
    p_values = [judge.verdict_at(outcomes, alpha).largest_p for outcomes in seen]
    accepted = accepted_by_holm(p_values, alpha)
    # Accepted ones have their own level; all others are tested at the level at which the procedure stopped.
    order = sorted(range(len(seen)), key=lambda i: p_values[i])
    levels = {i: alpha / (len(seen) - min(rank, sum(accepted))) for rank, i in enumerate(order)}
    return [judge.verdict_at(outcomes, levels[i]) for i, outcomes in enumerate(seen)]
