"""Rows: what the ledger says of a round, from its outcomes and its verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from lightning_classprune.guard.conditions import Throughout, under
from lightning_classprune.guard.error_budget import ErrorBudget
from lightning_classprune.guard.evidence import Evidence
from lightning_classprune.guard.task import Outcomes
from lightning_classprune.guard.verdict import ClassVerdict, Verdict


class ClassCounts(TypedDict):
    """What a row says of one protected class, of the guard's samples.

    Attributes:
        support: Positives that were judged.
        fn: Of them, missed by the network of the row.
        recall: 1 - fn / support, in [0, 1]; None without positives.
        newly_missed: Missed by it and found by the dense network.
        newly_found: Found by it and missed by the dense network.
        p_value: Of the test; None under the point rule, and of the dense network.
        upper_bound: The largest rise of the FN rate that the data do not exclude; None as `p_value`.
        tolerance: The allowed rise of the FN rate, in [0, 1]; None of the dense network.
        fp: False alarms: cases of other classes that the network of the row calls this one.
        negatives: Cases of other classes that were judged.
        new_alarms: False alarms of it and not of the dense network.
        gone_alarms: False alarms of the dense network and not of it.
        fp_p_value: Of the test of false alarms; None as `p_value`, and where they are not guarded.
        fp_upper_bound: The largest rise of the false-alarm rate that the data do not exclude; None as `fp_p_value`.
        max_fp_rise: The allowed rise of the false-alarm rate, in [0, 1]; None where it is not guarded.
        fp_risen: More false alarms than the dense network's are shown, guarded or not.
        offset: Bias that was added to the class' score before the decision.
        chance: That the guard would prove the class harmless, said by validation data before; None where unknown.
        units: Independent units with positives, which is what was tested: as `support`.
        objects: Positives in them: objects, or samples of the units' ids; as `units` where each is one.
        objects_fn: Of them, missed by the network of the row.
        objects_newly_missed: Missed by it and found by the dense network.
        objects_newly_found: Found by it and missed by the dense network.
        objects_fp: False alarms in the units: predictions that match none, or wrong samples.
        objects_new_alarms: How many more than the dense network's there are, over the units that have more; of samples
            those of this network only.
        objects_gone_alarms: The same of fewer.
        rule: When an object counts as found, in words; None of classes and labels.
    """

    support: int
    fn: int
    recall: float | None
    newly_missed: int
    newly_found: int
    p_value: float | None
    upper_bound: float | None
    tolerance: float | None
    fp: int
    negatives: int
    new_alarms: int
    gone_alarms: int
    fp_p_value: float | None
    fp_upper_bound: float | None
    max_fp_rise: float | None
    fp_risen: bool
    offset: float
    chance: float | None
    units: int
    objects: int
    objects_fn: int
    objects_newly_missed: int
    objects_newly_found: int
    objects_fp: int
    objects_new_alarms: int
    objects_gone_alarms: int
    rule: str | None


class UnderCorruption(TypedDict):
    """What a row says under one corruption.

    Attributes:
        verdict: As of a row, of this alone.
        reason: In words.
        classes: The protected classes by name, counted on the corrupted samples.
    """

    verdict: str
    reason: str
    classes: dict[str, ClassCounts]


class FileVerdict(TypedDict):
    """What a row says of a file that the guard judged beside its network.

    Attributes:
        file: Its name, in the folder of the ladder or of the checkpoints; empty where it could not be made.
        sha256: Of its content, in hexadecimal; empty as `file`.
        bytes: Its size.
        verdict: `"accepted"`, `"refused"` or `"unproven"`.
        reason: In words.
        classes: The protected classes by name; empty where nothing was counted.
        corruptions: The same under each corruption of the guard, by its name; empty without any.
        level: Error level of the test; None where there was none.
        calibration: What it was calibrated on: number of `samples`, and their `sha256`; None of sixteen bits.
    """

    file: str
    sha256: str
    bytes: int
    verdict: str
    reason: str
    classes: dict[str, ClassCounts]
    corruptions: dict[str, UnderCorruption]
    level: float | None
    calibration: dict[str, Any] | None


class _Attempt(TypedDict):
    round: int
    attempt: int
    sparsity: float
    units: str
    verdict: str
    reason: str
    classes: dict[str, ClassCounts]
    corruptions: dict[str, UnderCorruption]
    level: float | None
    confidence: float | None
    epochs: int
    seconds: float
    seed: int
    validation_passes: int


class Row(_Attempt, total=False):
    """One attempted round, in primitives: the public result of a run.

    Attributes:
        round: Its number; 0 is dense.
        attempt: At this round, from 1.
        sparsity: Pruned share of the units, in [0, 1].
        units: `"weights"` or `"channels"`.
        verdict: `"baseline"`, `"accepted"`, `"refused"`, `"unproven"`, `"abandoned"`, or `"kept"`
            of a candidate that is to be judged at the end.
        reason: In words.
        classes: The protected classes by name; empty where nothing was counted.
        corruptions: The same under each corruption of the guard, by its name; empty without any.
        level: Error level of the test; None where there was none.
        confidence: Of the whole run: with it nothing harmful is accepted in any of its rounds; None under the point
            rule.
        epochs: That the round trained.
        seconds: That it took.
        seed: That reproduces it.
        validation_passes: Passes over the validation data that the search made for it.
        files: The files that were judged beside it, by kind; only with `Files(judged=...)`.
        nested: It was trained together with the other rows that say so, which share its weights; only with
            `Files(nested=True)`. Epochs and seconds stand in the first of them.
    """

    files: dict[str, FileVerdict]
    nested: bool


_Logged = Literal[
    "fn",
    "recall",
    "upper_bound",
    "newly_missed",
    "newly_found",
    "fp",
    "fp_upper_bound",
    "new_alarms",
    "gone_alarms",
    "offset",
]
_LOGGED: dict[_Logged, str] = {
    "fn": "guard_fn",
    "recall": "guard_recall",
    "upper_bound": "guard_bound",
    "newly_missed": "newly_missed",
    "newly_found": "newly_found",
    "fp": "guard_fp",
    "fp_upper_bound": "guard_fp_bound",
    "new_alarms": "new_alarms",
    "gone_alarms": "gone_alarms",
    "offset": "offset",
}


def baseline_row(
    common: Mapping[str, Any], outcomes: Outcomes | None, protected: Sequence[str], reason: str
) -> Row:
    """The row of the dense network.

    Args:
        common: Round, attempt, sparsity, epochs, seconds, seed and passes over the validation data.
        outcomes: What it decided; None if its scores were NaN.
        protected: Names of the protected classes.
        reason: What there is to say.
    """
    own = {name: outcomes.pairs(outcomes, name) for name in protected} if outcomes is not None else {}
    classes = {name: _counts(pairs, None, 0.0, None) for name, pairs in own.items()}
    corruptions: dict[str, UnderCorruption] = {}
    if isinstance(outcomes, Throughout):
        for condition, there in outcomes.under.items():
            counted = {name: _counts(there.pairs(there, name), None, 0.0, None) for name in protected}
            corruptions[condition] = {"verdict": "baseline", "reason": "", "classes": counted}
    return _row(common, "baseline", reason, classes, None, corruptions)


def verdict_row(
    common: Mapping[str, Any],
    outcomes: Outcomes | None,
    dense: Outcomes | None,
    verdict: Verdict,
    offsets: Mapping[str, float],
    chance: Mapping[str, float],
) -> Row:
    """The row of a candidate; without classes where nothing could be compared.

    Args:
        common: As of `baseline_row`.
        outcomes: What it decided.
        dense: What the dense network decided.
        verdict: Its verdict.
        offsets: Its decision offsets, by class; 0 for those not named.
        chance: What validation data said of it, by class.
    """
    classes = _compared(outcomes, dense, verdict, offsets, chance)
    corruptions = _corrupted(outcomes, dense, verdict, offsets)
    level = next((judged.level for judged in verdict.classes.values()), None)
    return _row(common, verdict.outcome, verdict.reason, classes, level, corruptions)


def _corrupted(
    outcomes: Outcomes | None, dense: Outcomes | None, verdict: Verdict, offsets: Mapping[str, float]
) -> dict[str, UnderCorruption]:
    found: dict[str, UnderCorruption] = {}
    for condition, there in verdict.under.items():
        counted = _compared(under(outcomes, condition), under(dense, condition), there, offsets, {})
        found[condition] = {"verdict": there.outcome, "reason": there.reason, "classes": counted}
    return found


def _compared(
    outcomes: Outcomes | None,
    dense: Outcomes | None,
    verdict: Verdict,
    offsets: Mapping[str, float],
    chance: Mapping[str, float],
) -> dict[str, ClassCounts]:
    classes = {}
    for name, judged in verdict.classes.items():
        assert outcomes is not None
        assert dense is not None
        classes[name] = _counts(outcomes.pairs(dense, name), judged, offsets.get(name, 0.0), chance.get(name))
    return classes


def file_verdict(
    facts: Mapping[str, Any],
    outcomes: Outcomes | None,
    dense: Outcomes | None,
    verdict: Verdict,
    offsets: Mapping[str, float],
    chance: Mapping[str, float],
) -> FileVerdict:
    """What the row of a candidate says of one of its files.

    Args:
        facts: File, SHA-256, bytes and calibration.
        outcomes: As the others of `verdict_row`.
        dense: What the dense network decided.
        verdict: Its own.
        offsets: Of the candidate; they are in the file.
        chance: Of the candidate.
    """
    return {
        "file": facts["file"],
        "sha256": facts["sha256"],
        "bytes": facts["bytes"],
        "verdict": verdict.outcome,
        "reason": verdict.reason,
        "classes": _compared(outcomes, dense, verdict, offsets, chance),
        "corruptions": _corrupted(outcomes, dense, verdict, offsets),
        "level": next((judged.level for judged in verdict.classes.values()), None),
        "calibration": facts["calibration"],
    }


def kept_row(common: Mapping[str, Any], reason: str) -> Row:
    """The row of a candidate that the guard will judge at the end."""
    return _row(common, "kept", reason, {}, level=None)


def abandoned_row(common: Mapping[str, Any], reason: str) -> Row:
    """The row of a candidate that was given up on validation evidence: no guard test, so no classes and no level."""
    return _row(common, "abandoned", f"{reason}; no guard test was made", {}, level=None)


def stands(row: Row) -> bool:
    """Whether a row is of a network that was accepted, the dense one included."""
    return row["verdict"] in ("baseline", "accepted")


def round_metrics(row: Row, budget: ErrorBudget) -> dict[str, float]:
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
    counted = dict(row["classes"])
    for condition, there in (row.get("corruptions") or {}).items():
        counted |= {f"{name}/{condition}": counts for name, counts in there["classes"].items()}
    for name, counts in counted.items():
        for key, label in _LOGGED.items():
            value = counts[key]
            if value is not None:
                metrics[f"classprune/{label}/{name}"] = float(value)
    return metrics


def _counts(
    pairs: tuple[Evidence, Evidence], judged: ClassVerdict | None, offset: float, chance: float | None
) -> ClassCounts:
    misses, alarms = pairs
    within, beside = misses.inside, alarms.inside
    return {
        "support": misses.support,
        "fn": misses.fn,
        "recall": misses.recall,
        "newly_missed": misses.newly_missed,
        "newly_found": misses.newly_found,
        "p_value": judged.p_value if judged else None,
        "upper_bound": judged.upper_bound if judged else None,
        "tolerance": judged.tolerance if judged else None,
        "fp": alarms.fn,
        "negatives": alarms.support,
        "new_alarms": alarms.newly_missed,
        "gone_alarms": alarms.newly_found,
        "fp_p_value": judged.fp_p_value if judged else None,
        "fp_upper_bound": judged.fp_upper_bound if judged else None,
        "max_fp_rise": judged.fp_tolerance if judged else None,
        "fp_risen": judged.fp_risen if judged else False,
        "offset": offset,
        "chance": chance,
        "units": misses.support,
        "objects": within.cases if within else misses.support,
        "objects_fn": within.now if within else misses.fn,
        "objects_newly_missed": within.new if within else misses.newly_missed,
        "objects_newly_found": within.gone if within else misses.newly_found,
        "objects_fp": beside.now if beside else alarms.fn,
        "objects_new_alarms": beside.new if beside else alarms.newly_missed,
        "objects_gone_alarms": beside.gone if beside else alarms.newly_found,
        "rule": within.rule if within else None,
    }


def _row(
    common: Mapping[str, Any],
    verdict: str,
    reason: str,
    classes: dict[str, ClassCounts],
    level: float | None,
    corruptions: dict[str, UnderCorruption] | None = None,
) -> Row:
    row: Row = {
        "round": common["round"],
        "attempt": common["attempt"],
        "sparsity": common["sparsity"],
        "units": common["units"],
        "verdict": verdict,
        "reason": reason,
        "classes": classes,
        "corruptions": corruptions or {},
        "level": level,
        "confidence": common["confidence"],
        "epochs": common["epochs"],
        "seconds": common["seconds"],
        "seed": common["seed"],
        "validation_passes": common["validation_passes"],
    }
    if common.get("nested"):
        row["nested"] = True
    return row


def dense_row(rows: Sequence[Row]) -> Row | None:
    """Return the row of the dense network, or None if it was never judged."""
    return next((row for row in rows if row["verdict"] == "baseline"), None)


def delivered_row(rows: Sequence[Row]) -> Row | None:
    """Return the row of the network that is handed over: the last accepted one, else the dense baseline."""
    return next((row for row in reversed(rows) if stands(row)), None)


def units_of(rows: Sequence[Row]) -> str:
    """Return what the rows' sparsity counts: `weights` or `channels`."""
    return rows[0]["units"] if rows else "weights"


def round_label(row: Row, rows: Sequence[Row]) -> str:
    """Return the round's number, with the attempt's behind a dot where the round was tried more than once."""
    retried = sum(other["round"] == row["round"] for other in rows) > 1
    return f"{row['round']}.{row['attempt']}" if retried else f"{row['round']}"
