"""Which candidates a nested round trains together, and how its networks take their places."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from lightning_classprune.guard.judge import Judge
from lightning_classprune.ledger.recording import Recorder
from lightning_classprune.pruning.cutter import Cutter
from lightning_classprune.pruning.masks import pack_all
from lightning_classprune.rounds.candidate import Candidate
from lightning_classprune.rounds.nested import NestedRound
from lightning_classprune.rounds.search import Look
from lightning_classprune.tickets.kept import Kept, KeptTickets
from lightning_classprune.tickets.ticket import Ticket
from lightning_classprune.trainer.snapshots import capture_tensors


@dataclass(frozen=True)
class Member:
    """A network of the nested round.

    Attributes:
        look: What validation data say of it.
        ticket: Its mask, and the weights that it shares with the others.
        sparsity: Pruned share of its prunable weights, in [0, 1].
    """

    look: Look
    ticket: Ticket
    sparsity: float


def why_apart(candidates: Sequence[Kept], *, job_over: bool, no_room: str | None) -> str | None:
    """Why the candidates keep weights of their own; None where they can be trained together.

    Args:
        candidates: That were kept.
        job_over: No round may follow.
        no_room: Why the limits leave no room for a round; None where they do.
    """
    if len(candidates) < 2:
        return "there is one candidate only"
    return "the job was stopped" if job_over else no_room


def measure_members(
    nested: NestedRound, candidate: Candidate, module: nn.Module, cutter: Cutter, look: Callable[[], Look]
) -> list[Member] | str:
    """Let validation data look at each network; return them, or why the candidates stay as they are.

    Args:
        nested: The round that has ended.
        candidate: Makes the module what is judged.
        module: In training.
        cutter: Knows what is pruned.
        look: At what the module holds.
    """
    found = []
    for number, masks in enumerate(nested.masks):
        sparsity = cutter.sparsity(masks)
        with candidate.as_judged(), nested.member(number):
            seen, tensors = look(), capture_tensors(module)
        if seen.reason is not None:
            return f"the candidates do not become one: that of sparsity {sparsity:.2%}: {seen.reason}"
        found.append(Member(seen, Ticket(pack_all(masks), tensors, None, [], dict(seen.offsets)), sparsity))
    return found


def take_places(
    members: Sequence[Member],
    facts: Mapping[str, Any],
    kept: KeptTickets,
    keep: Callable[[Ticket, int, Look], None],
    recorder: Recorder,
    judge: Judge,
) -> None:
    """Put the networks in the place of the candidates whose masks they have; the guard judges them instead.

    Args:
        members: As many as there are candidates, in the same order.
        facts: Of the nested round; its epochs and seconds stand in the first network's row.
        kept: The candidates, which give way.
        keep: Keeps a ticket of a row's number.
        recorder: Has the candidates' rows.
        judge: Of the run.
    """
    for number, waiting in enumerate(kept.candidates):
        recorder.gives_way(waiting.place, f"round {facts['round'] + number} has its mask and shared weights")
    kept.give_way()
    for number, one in enumerate(members):
        own = {"round": facts["round"] + number, "sparsity": one.sparsity, "nested": True}
        rest = {"epochs": 0, "seconds": 0.0, "validation_passes": 0} if number else {}
        recorder.kept(dict(facts) | own | rest, said_of_kept(one.look), judge)
        keep(one.ticket, len(recorder.rows) - 1, one.look)


def said_of_kept(look: Look) -> str:
    """What the row of a kept candidate says."""
    chances = ", ".join(f"{name} {chance:.2g}" for name, chance in look.chance.items())
    said = f"give it a chance of proof ({chances})" if chances else "say nothing of it"
    return f"validation data {said}; the guard judges it at the end"
