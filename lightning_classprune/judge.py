"""The judge of one run: evaluates on the guard data, compares with the dense network, spends the error budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning_utilities.core.rank_zero import rank_zero_warn

from lightning_classprune.error_budget import ErrorBudget
from lightning_classprune.evaluation import evaluate
from lightning_classprune.guard import Verdict, judge, judgeable
from lightning_classprune.guard_data import GuardData, Predict
from lightning_classprune.outcomes import NaNScoresError, Outcomes, evidence
from lightning_classprune.processes import Processes
from lightning_classprune.settings import Settings


@dataclass
class Judge:
    """What is judged by, and what was spent.

    Attributes:
        settings: Tolerances, confidence and classes.
        predict: `(pl_module, batch) -> (scores, target)`.
        processes: The processes that share the guard data.
        budget: What is left of the error level.
        baseline: The dense network's outcomes, once there are any.
        accepted: Those of the last network that was accepted; the baseline's at first.
    """

    settings: Settings
    predict: Predict
    processes: Processes
    budget: ErrorBudget
    baseline: Outcomes | None = None
    accepted: Outcomes | None = None

    def outcomes(self, trainer: Any, module: Any, data: GuardData, limit: int | None) -> Outcomes | None:
        """Outcomes on the guard data, the same on all ranks; None if the scores are NaN after training.

        Raises:
            MisconfigurationException: `predict` or the data are at fault.
        """
        try:
            return evaluate(
                trainer,
                module,
                data,
                self.predict,
                num_classes=self.settings.num_classes,
                threshold=self.settings.threshold,
                processes=self.processes,
                limit=limit,
            )
        except NaNScoresError as error:
            if trainer.global_step == 0:
                raise MisconfigurationException(str(error)) from error
            return None
        except ValueError as error:
            raise MisconfigurationException(str(error)) from error

    def verdict(self, outcomes: Outcomes | None) -> Verdict:
        """The verdict on a candidate, the same on all ranks; it costs one test of the budget."""
        assert self.baseline is not None
        names = self.settings.class_names
        try:
            if outcomes is None:
                raise NaNScoresError("the network's scores are NaN: its training diverged")
            pairs = {names[i]: evidence(self.baseline, outcomes, i) for i in self.settings.protect}
            verdict = judge(pairs, self.settings.tolerances, self.budget.level())
        except ValueError as error:
            verdict = Verdict("refused", str(error), {})
        agreed: Verdict = self.processes.first(verdict)
        self.budget = self.budget.spend(agreed.accepted)
        if agreed.accepted:
            self.accepted = outcomes
        return agreed

    def take_baseline(self, outcomes: Outcomes | None, *, rehearsal: bool) -> str | None:
        """Take the dense network's outcomes for all later comparisons; returns why that is impossible, if it is.

        Args:
            outcomes: Its outcomes; None if its scores were NaN.
            rehearsal: `fast_dev_run`: too little was looked at to say anything of support.
        """
        self.baseline = self.accepted = outcomes
        if outcomes is None:
            return "the dense network's scores are NaN: nothing can be judged"
        if rehearsal:
            return "fast_dev_run: one guard batch was judged, nothing is pruned"
        impossible = None
        for index, tolerance in self.settings.protect.items():
            name, (positive, found) = self.settings.class_names[index], outcomes.found(index)
            support, missed = int(positive.sum()), int((positive & ~found).sum())
            if not support:
                impossible = (
                    f"the guard data has no positives of protected class {name!r}: nothing can be judged"
                )
            elif warning := judgeable(tolerance, support, missed, self.budget.level()):
                rank_zero_warn(f"protect[{name!r}]: {warning}")
        return impossible

    def state_dict(self) -> dict[str, Any]:
        """Plain tensors and primitives."""
        outcomes = {"baseline": self.baseline, "accepted_outcomes": self.accepted}
        saved = {name: one.state_dict() if one is not None else None for name, one in outcomes.items()}
        return {"budget": self.budget.to_dict(), **saved}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.budget = ErrorBudget.from_dict(state["budget"])
        self.baseline, self.accepted = (
            Outcomes.from_state_dict(state[name]) if state[name] is not None else None
            for name in ("baseline", "accepted_outcomes")
        )
