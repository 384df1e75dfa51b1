"""The judge of one run: compares what was decided on the guard data with the dense network, spends the error budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_warn

from lightning_classprune.guard.error_budget import ErrorBudget
from lightning_classprune.guard.evaluator import Evaluator
from lightning_classprune.guard.protected import Protected
from lightning_classprune.guard.task import NaNScoresError, Outcomes
from lightning_classprune.guard.verdict import Verdict, power_warning, verdict_on


@dataclass
class Judge:
    """What is judged by, and what was spent.

    Attributes:
        evaluator: Decides the guard's cases.
        protected: The protected classes.
        budget: What is left of the error level.
        dense: The dense network's outcomes, once there are any.
        accepted: Those of the last network that was accepted; the dense network's at first.
    """

    evaluator: Evaluator
    protected: tuple[Protected, ...]
    budget: ErrorBudget
    dense: Outcomes | None = None
    accepted: Outcomes | None = None

    def verdict(self, outcomes: Outcomes | None) -> Verdict:
        """The verdict on a candidate, the same on all ranks; it costs one test of the budget."""
        assert self.dense is not None
        try:
            if outcomes is None:
                raise NaNScoresError("the network's scores are NaN: its training diverged")
            misses = {one.name: outcomes.pairs(self.dense, one.name)[0] for one in self.protected}
            tolerances = {one.name: one.tolerance for one in self.protected}
            verdict = verdict_on(misses, tolerances, self.budget.level())
        except ValueError as error:
            verdict = Verdict("refused", str(error), {})
        agreed: Verdict = self.evaluator.processes.first(verdict)
        self.budget = self.budget.spend(agreed.accepted)
        if agreed.accepted:
            self.accepted = outcomes
        return agreed

    def take_dense(self, outcomes: Outcomes | None, *, rehearsal: bool) -> str | None:
        """Take the dense network's outcomes for all later comparisons; returns why that is impossible, if it is.

        Args:
            outcomes: Its outcomes; None if its scores were NaN.
            rehearsal: `fast_dev_run`: too little was looked at to say anything of support.
        """
        self.dense = self.accepted = outcomes
        if outcomes is None:
            return "the dense network's scores are NaN: nothing can be judged"
        if rehearsal:
            return "fast_dev_run: one guard batch was judged, nothing is pruned"
        impossible = None
        for one in self.protected:
            misses, _ = outcomes.pairs(outcomes, one.name)
            if not misses.support:
                impossible = (
                    f"the guard data has no positives of protected class {one.name!r}: nothing can be judged"
                )
            elif warning := power_warning(one.tolerance, misses.support, misses.fn, self.budget.level()):
                rank_zero_warn(f"protect[{one.name!r}]: {warning}")
        return impossible

    def positives(self) -> dict[str, int]:
        """The guard's positives by class: of its labels alone, nothing that a network makes of them."""
        assert self.dense is not None
        return {one.name: self.dense.pairs(self.dense, one.name)[0].support for one in self.protected}

    def state_dict(self) -> dict[str, Any]:
        """Plain tensors and primitives."""
        outcomes = {"dense_outcomes": self.dense, "accepted_outcomes": self.accepted}
        saved = {name: one.state_dict() if one is not None else None for name, one in outcomes.items()}
        return {"budget": self.budget.to_dict(), **saved}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.budget = ErrorBudget.from_dict(state["budget"])
        self.dense, self.accepted = (
            self.evaluator.task.restored(state[name]) if state[name] is not None else None
            for name in ("dense_outcomes", "accepted_outcomes")
        )
