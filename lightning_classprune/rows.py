"""Rows: what the ledger says of a round, from its outcomes and its verdict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_classprune.error_budget import ErrorBudget
from lightning_classprune.guard import Evidence, Verdict
from lightning_classprune.outcomes import Outcomes, evidence

Row = dict[str, Any]

_LOGGED = {
    "fn": "guard_fn",
    "recall": "guard_recall",
    "upper_bound": "guard_bound",
    "newly_missed": "newly_missed",
    "newly_found": "newly_found",
}


def baseline_row(
    common: Mapping[str, Any], outcomes: Outcomes | None, protected: Mapping[str, int], reason: str
) -> Row:
    """The row of the dense network.

    Args:
        common: Round, attempt, sparsity, epochs, seconds, seed and passes over the validation data.
        outcomes: What it decided; None if its scores were NaN.
        protected: Class index by name.
        reason: What there is to say.
    """
    pairs = (
        {name: evidence(outcomes, outcomes, index) for name, index in protected.items()} if outcomes else {}
    )
    classes = {
        name: _counts(pair) | {"p_value": None, "upper_bound": None, "tolerance": None}
        for name, pair in pairs.items()
    }
    return _row(common, "baseline", reason, classes, level=None)


def verdict_row(
    common: Mapping[str, Any],
    outcomes: Outcomes | None,
    protected: Mapping[str, int],
    baseline: Outcomes | None,
    verdict: Verdict,
) -> Row:
    """The row of a candidate; without classes where nothing could be compared."""
    classes = {}
    for name, judged in verdict.classes.items():
        assert outcomes is not None
        assert baseline is not None
        classes[name] = _counts(evidence(baseline, outcomes, protected[name])) | {
            "p_value": judged.p_value,
            "upper_bound": judged.upper_bound,
            "tolerance": judged.tolerance,
        }
    level = next((judged.level for judged in verdict.classes.values()), None)
    return _row(common, verdict.outcome, verdict.reason, classes, level)


def abandoned_row(common: Mapping[str, Any], reason: str) -> Row:
    """The row of a candidate that was given up on validation evidence: no guard test, so no classes and no level."""
    return _row(common, "abandoned", f"{reason}; no guard test was made", {}, level=None)


def stands(row: Mapping[str, Any]) -> bool:
    """Whether a row is of a network that was accepted, the dense one included."""
    return row["verdict"] in ("baseline", "accepted")


def round_metrics(row: Mapping[str, Any], budget: ErrorBudget) -> dict[str, float]:
    """The numbers of a row for a logger, and what its test left of the error budget.

    `classprune/level_left` is the level of the next test, 0 where none is allowed; absent under the point rule.
    """
    left = 0 if budget.exhausted else budget.max_tests - budget.tests
    metrics = {
        "classprune/round": float(row["round"]),
        "classprune/sparsity": float(row["sparsity"]),
        "classprune/accepted": float(stands(row)),
        "classprune/tests_left": float(left),
    }
    if budget.alpha is not None:
        metrics["classprune/level_left"] = (budget.level() or 0.0) if left else 0.0
    for name, counts in row["classes"].items():
        for key, label in _LOGGED.items():
            if counts[key] is not None:
                metrics[f"classprune/{label}/{name}"] = float(counts[key])
    return metrics


def _counts(pair: Evidence) -> Row:
    return {
        "support": pair.support,
        "fn": pair.fn,
        "recall": pair.recall,
        "newly_missed": pair.newly_missed,
        "newly_found": pair.newly_found,
    }


def _row(common: Mapping[str, Any], verdict: str, reason: str, classes: Row, level: float | None) -> Row:
    return {
        "round": common["round"],
        "attempt": common["attempt"],
        "sparsity": common["sparsity"],
        "units": common["units"],
        "verdict": verdict,
        "reason": reason,
        "classes": classes,
        "level": level,
        "epochs": common["epochs"],
        "seconds": common["seconds"],
        "seed": common["seed"],
        "validation_passes": common["validation_passes"],
    }
