"""The guard split, asked through exported files: what each misses and falsely finds against the dense network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lightning_classprune.export.checks import Reader
from lightning_classprune.guard.outcomes import Decisions


@dataclass(frozen=True)
class GuardSplit:
    """The cases that judged a run, as exported files take them, and what the dense network decided on them.

    Attributes:
        batches: `(inputs, targets)` in the order in which they were judged; read once a file.
        dense: `callback.guard_outcomes["dense"]`.
        threshold: Of multi-label scores: at it and above a label is given. Of classes and of one logit the files
            decide.
    """

    batches: Iterable[tuple[Tensor, Tensor]]
    dense: Decisions
    threshold: float = 0.0

    def decided(self, reader: Reader) -> Decisions:
        """What a file decides.

        Raises:
            ValueError: The cases are not those that the dense network decided, or scores are NaN.
        """
        targets, predicted = [], []
        for x, y in self.batches:
            scores, decision = reader(x)
            if bool(torch.isnan(scores).any()):
                raise ValueError("guard: a file gives scores that are NaN; nothing was written")
            targets.append(y.cpu())
            predicted.append(scores >= self.threshold if y.ndim == 2 and y.shape[1] > 1 else decision)
        target = torch.cat(targets).long() if targets else torch.zeros(0, dtype=torch.int64)
        target = (
            target.reshape(self.dense.target.shape) if target.numel() == self.dense.target.numel() else target
        )
        if not torch.equal(target, self.dense.target.long()):
            raise ValueError(
                f"guard: its {len(target)} cases are not the {len(self.dense)} that the dense network decided, in "
                "their order; give the split that judged the run"
            )
        return replace(self.dense, predicted=torch.cat(predicted).long())

    def counts(self, decided: Decisions, names: Sequence[str]) -> dict[str, Any]:
        """Misses and false alarms of some classes, against the dense network, by class."""
        found: dict[str, Any] = {}
        for name in names:
            misses, alarms = decided.pairs(self.dense, name)
            found[name] = {
                "support": misses.support,
                "fn": misses.fn,
                "newly_missed": misses.newly_missed,
                "newly_found": misses.newly_found,
                "negatives": alarms.support,
                "fp": alarms.fn,
                "new_alarms": alarms.newly_missed,
                "gone_alarms": alarms.newly_found,
            }
        return found
