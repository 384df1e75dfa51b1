"""The first network of a run, with which all others are compared: dense, or what an earlier fit left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor

from lightning_classprune.guard.judge import Judge
from lightning_classprune.guard.task import Columns, Outcomes
from lightning_classprune.trainer.sharding import local

#: Up to this share of exact zeros among the prunable weights, a network that came is dense.
MOST_ZEROS = 0.01


@dataclass(frozen=True)
class First:
    """What became of it.

    Attributes:
        why: What the ledger says of it.
        finished: Why no round follows; None where one may.
    """

    why: str
    finished: str | None


def take_first(
    judge: Judge,
    columns: Columns | None,
    outcomes: Outcomes | None,
    *,
    earlier: Mapping[str, Any] | None,
    rehearsal: bool,
    zeros: float,
) -> First:
    """Let the judge know the network that all others are compared with.

    Args:
        judge: Of the run.
        columns: What the guard data's samples came to; None where nothing was to be seen.
        outcomes: Decisions on them.
        earlier: The state of the fit whose pruned network this one starts from.
        rehearsal: The trainer only tries a batch of each kind, so that numbers mean nothing.
        zeros: Share of the prunable weights that are zero already, in [0, 1].
    """
    if earlier is not None and not rehearsal:
        told = judge.take_over(earlier, outcomes)
        if told is not None:
            spent = earlier.get("was_judged") or judge.budget.exhausted
            finished = "the earlier fit has spent what this guard can prove" if spent else None
            return First(f"{told}; {finished}" if finished else told, finished)
    wrong = judge.evaluator.task.wrong_scores(columns) if columns is not None else None
    impossible = judge.take_dense(outcomes, rehearsal=rehearsal, wrong_scores=wrong)
    why = impossible or f"{_in_words(zeros)}, against which every round is judged"
    return First(f"{why}: {judge.describe_dense()}" if outcomes is not None else why, impossible)


def share_of_zeros(parameters: Mapping[str, Tensor]) -> float:
    """Share of exact zeros among the weights that this process holds, in [0, 1]."""
    weights = [local(weight) for weight in parameters.values()]
    return sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)


def _in_words(zeros: float) -> str:
    if zeros <= MOST_ZEROS:
        return "the dense network"
    rank_zero_warn(
        f"every round is judged against a network of which {zeros:.1%} of the prunable weights are zero already: "
        "what an earlier pruning cost is not seen. Fit with the callback that pruned it, or from its checkpoint"
    )
    return f"the network as it came, of which {zeros:.1%} of the prunable weights are zero already"
