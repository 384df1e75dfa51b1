"""Verdicts: the point rule and the exact test by hand and by their properties."""

import itertools
import math
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lightning_classprune.guard import statistics
from lightning_classprune.guard.evidence import Evidence
from lightning_classprune.guard.tolerance import FNTolerance
from lightning_classprune.guard.verdict import ClassVerdict, judge_class, power_warning, verdict_on


@st.composite
def evidences(draw, largest=120):
    support = draw(st.integers(1, largest))
    missed = draw(st.integers(0, support))
    return Evidence(
        support,
        missed,
        draw(st.integers(0, min(20, support - missed))),
        draw(st.integers(0, min(20, missed))),
    )


RATES = st.one_of(
    st.sampled_from([0.0, 0.01, 0.05, 0.1, 1 / 3, 0.5, 1.0]), st.integers(0, 100).map(lambda i: i / 100)
)


# --- point rule ---


@pytest.mark.parametrize(
    ("evidence", "tolerance", "outcome"),
    [
        ((20, 4, 1, 0), FNTolerance(rate=0.05), "accepted"),
        ((20, 4, 2, 0), FNTolerance(rate=0.05), "refused"),
        ((20, 4, 2, 1), FNTolerance(rate=0.05), "accepted"),
        ((3, 0, 1, 0), FNTolerance(rate=1 / 3), "accepted"),
        ((100, 10, 29, 0), FNTolerance(rate=0.29), "accepted"),
        ((20, 4, 3, 0), FNTolerance(count=3), "accepted"),
        ((20, 4, 4, 0), FNTolerance(count=3), "refused"),
        ((20, 4, 0, 0), FNTolerance(count=0), "accepted"),
        ((20, 4, 1, 0), FNTolerance(count=0), "refused"),
        ((100, 10, 1, 0), FNTolerance(factor=1.1), "accepted"),
        ((100, 10, 2, 0), FNTolerance(factor=1.1), "refused"),
        ((100, 0, 0, 0), FNTolerance(factor=5.0), "accepted"),
        ((100, 0, 1, 0), FNTolerance(factor=5.0), "refused"),
        ((10, 1, 0, 0), FNTolerance(rate=1.0, recall_floor=0.9), "accepted"),
        ((10, 1, 1, 0), FNTolerance(rate=1.0, recall_floor=0.9), "refused"),
    ],
)
def test_point_rule(evidence, tolerance, outcome):
    verdict = judge_class(Evidence(*evidence), tolerance, None)
    assert verdict.outcome == outcome
    assert (verdict.p_value, verdict.upper_bound, verdict.level, verdict.positives_needed) == (None,) * 4


@given(evidences(), st.integers(0, 100), st.integers(0, 20), st.integers(100, 300), st.integers(1, 99))
def test_point_rule_equals_its_arithmetic(evidence, percent, count, factor_percent, floor_percent):
    extra, n = evidence.newly_missed - evidence.newly_found, evidence.support
    for tolerance, within in (
        (FNTolerance(rate=percent / 100), 100 * extra <= percent * n),
        (FNTolerance(count=count), extra <= count),
        (
            FNTolerance(factor=factor_percent / 100),
            100 * evidence.fn <= factor_percent * evidence.baseline_missed,
        ),
    ):
        assert (judge_class(evidence, tolerance, None).outcome == "accepted") == within
    floored = FNTolerance(rate=1.0, recall_floor=floor_percent / 100)
    assert (judge_class(evidence, floored, None).outcome == "accepted") == (
        Fraction(n - evidence.fn, n) >= Fraction(floor_percent, 100)
    )


@given(evidences(), RATES, RATES)
def test_more_tolerance_never_hurts_the_point_rule(evidence, one, other):
    strict, loose = sorted((one, other))
    if judge_class(evidence, FNTolerance(rate=strict), None).outcome == "accepted":
        assert judge_class(evidence, FNTolerance(rate=loose), None).outcome == "accepted"


# --- with a confidence ---


def test_accepted_with_its_reason():
    verdict = verdict_on({"malignant": Evidence(205, 53, 3, 1)}, {"malignant": FNTolerance.of(0.05)}, 0.05)
    assert verdict.accepted
    assert verdict.reason == (
        "malignant: 3 newly missed, 1 newly found of 205 (dense missed 53); a rise of the FN rate below 0.05 is proven "
        "at level 0.05 (p = 0.00622, upper bound 0.0322)."
    )
    verdict = verdict.classes["malignant"]
    assert verdict.p_value == pytest.approx(statistics.exact_p_value(3, 1, 205, 0.05))
    assert verdict.upper_bound == pytest.approx(statistics.exact_upper(3, 1, 205, 0.05))
    assert (verdict.level, verdict.tolerance, verdict.positives_needed) == (0.05, 0.05, None)


@pytest.mark.parametrize(
    ("evidence", "tolerance", "level", "outcome"),
    [
        # the worked numbers: p = .026801, .044595, .101383, .133670
        ((76, 10, 0, 0), 0.05, 0.05, "accepted"),
        ((76, 10, 2, 3), 0.05, 0.05, "accepted"),
        ((76, 10, 2, 3), 0.05, 0.04, "unproven"),
        ((76, 10, 1, 0), 0.05, 0.05, "unproven"),
        ((76, 10, 5, 5), 0.05, 0.05, "unproven"),
        # the lower bound of (10, 2, 200) is .0131
        ((200, 26, 10, 2), 0.05, 0.05, "unproven"),
        ((200, 26, 10, 2), 0.0132, 0.05, "unproven"),
        ((200, 26, 10, 2), 0.0130, 0.05, "refused"),
        # a count is the rate count / support
        ((600, 78, 8, 9), FNTolerance(count=12), 0.05, "accepted"),
        # a tolerance of one allows everything, nothing allowed asks for an improvement
        ((10, 0, 10, 0), 1, 0.05, "accepted"),
        ((10, 0, 10, 0), FNTolerance(count=10), 0.05, "accepted"),
        ((76, 10, 0, 6), 0, 0.05, "accepted"),
        ((76, 10, 0, 6), FNTolerance(count=0), 0.05, "accepted"),
        ((76, 10, 0, 0), 0, 0.05, "unproven"),
        # recall floors: p = .0476 for 1 of 93 at .95
        ((93, 1, 0, 0), FNTolerance(rate=1.0, recall_floor=0.95), 0.05, "accepted"),
        ((92, 1, 0, 0), FNTolerance(rate=1.0, recall_floor=0.95), 0.05, "unproven"),
        ((92, 1, 20, 0), FNTolerance(rate=1.0, recall_floor=0.95), 0.05, "refused"),
        ((92, 30, 0, 0), FNTolerance(rate=0.05, recall_floor=0.95), 0.05, "refused"),
        # no positives
        ((0, 0, 0, 0), 0.05, 0.05, "unproven"),
        ((0, 0, 0, 0), 1, None, "unproven"),
    ],
)
def test_outcomes(evidence, tolerance, level, outcome):
    verdict = judge_class(Evidence(*evidence), FNTolerance.of(tolerance), level)
    assert verdict.outcome == outcome
    if verdict.p_value is not None:
        assert (verdict.p_value <= level) == (outcome == "accepted")


def test_unproven_names_the_number_needed():
    verdict = judge_class(Evidence(76, 10, 0, 0), FNTolerance(rate=0.01), 0.05)
    assert verdict.positives_needed == 299
    assert verdict.reason.endswith("about 299 positives would be needed, there are 76")

    verdict = judge_class(Evidence(76, 10, 5, 5), FNTolerance(rate=0.05), 0.05)
    assert verdict.positives_needed == statistics.positives_needed(10 / 76, 0.05)

    verdict = judge_class(Evidence(600, 78, 30, 9), FNTolerance(rate=0.05), 0.05)
    assert verdict.outcome == "unproven"
    assert "positives are enough for an unchanged candidate" in verdict.reason

    verdict = judge_class(Evidence(100, 2, 0, 0), FNTolerance(rate=1.0, recall_floor=0.95), 0.05)
    assert verdict.positives_needed == statistics.floor_positives_needed(0.02, 0.95) == 234


@pytest.mark.parametrize(
    ("evidence", "tolerance", "words"),
    [
        (Evidence(76, 10, 0, 0), FNTolerance(rate=0.0), "only a proven improvement can pass"),
        (
            Evidence(100, 6, 0, 0),
            FNTolerance(rate=1.0, recall_floor=0.95),
            "no number of positives would prove",
        ),
        (Evidence(0, 0, 0, 0), FNTolerance(rate=0.05), "no positives of this class"),
    ],
)
def test_unproven_where_no_number_helps(evidence, tolerance, words):
    verdict = judge_class(evidence, tolerance, 0.05)
    assert (verdict.outcome, verdict.positives_needed) == ("unproven", None)
    assert words in verdict.reason


def test_a_large_class_reports_tangos_bound():
    verdict = judge_class(Evidence(6000, 300, 60, 60), FNTolerance(rate=0.01), 0.05)
    assert verdict.upper_bound == statistics.tango_upper(60, 60, 6000, 0.05)
    assert "approximate upper bound" in verdict.reason


@settings(deadline=None, max_examples=40)
@given(evidences(largest=60), RATES, st.sampled_from([0.01, 0.05, 0.2]), st.sampled_from([None, 0.5, 0.9]))
def test_one_miss_less_never_turns_accept_into_refuse(evidence, rate, level, floor):
    assume(evidence.newly_missed > 0)
    fewer = Evidence(
        evidence.support, evidence.baseline_missed, evidence.newly_missed - 1, evidence.newly_found
    )
    tolerance = FNTolerance(rate=rate, recall_floor=floor)
    for rule in (level, None):
        if judge_class(evidence, tolerance, rule).outcome == "accepted":
            assert judge_class(fewer, tolerance, rule).outcome == "accepted"


@pytest.mark.parametrize("n", [20, 30, 59])
def test_more_tolerance_never_hurts_the_exact_test(n):
    """The p-value may jump upwards in delta; here no decision follows such a jump."""
    rates = [0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5]
    for missed, found in itertools.product(range(6), range(6)):
        accepted = [statistics.exact_p_value(missed, found, n, rate) <= 0.05 for rate in rates]
        assert accepted == sorted(accepted), (missed, found)


@pytest.mark.parametrize("level", [0.0, 0.6, -1.0, math.nan])
def test_level_must_be_in_range(level):
    with pytest.raises(ValueError, match="level must be in"):
        judge_class(Evidence(76, 10, 0, 0), FNTolerance(rate=0.05), level)
    with pytest.raises(ValueError, match="level must be in"):
        power_warning(FNTolerance(rate=0.05), 76, 10, level)


def test_a_factor_cannot_be_tested_with_a_confidence():
    with pytest.raises(ValueError, match="factor needs confidence=None"):
        judge_class(Evidence(10, 2, 0, 0), FNTolerance(factor=1.5), 0.05)
    with pytest.raises(ValueError, match="factor needs confidence=None"):
        power_warning(FNTolerance(factor=1.5), 10, 2, 0.05)


# --- several classes ---

PASSES, OPEN, HARMED = Evidence(76, 10, 0, 0), Evidence(76, 10, 1, 0), Evidence(76, 10, 20, 0)


@pytest.mark.parametrize(
    ("evidence", "outcome", "told"),
    [
        ({"a": PASSES, "b": PASSES}, "accepted", {"a", "b"}),
        ({"a": PASSES, "b": OPEN}, "unproven", {"b"}),
        ({"a": OPEN, "b": HARMED}, "refused", {"a", "b"}),
        ({"a": HARMED, "b": PASSES}, "refused", {"a"}),
    ],
)
def test_all_classes_must_pass(evidence, outcome, told):
    verdict = verdict_on(evidence, dict.fromkeys(evidence, FNTolerance(rate=0.05)), 0.05)
    assert (verdict.outcome, verdict.accepted) == (outcome, outcome == "accepted")
    assert {name for name in evidence if f"{name}: " in verdict.reason} == told
    assert all(isinstance(v, ClassVerdict) and v.level == 0.05 for v in verdict.classes.values())


@pytest.mark.parametrize("names", [("a", "b"), ("a",), ()])
def test_evidence_and_tolerances_must_match(names):
    with pytest.raises(ValueError, match="evidence and tolerances must name the same"):
        verdict_on({}, dict.fromkeys(names, FNTolerance(rate=0.05)), 0.05)


# --- the warning before the first candidate ---


def test_the_warning():
    assert power_warning(FNTolerance(rate=0.05), 76, 10, 0.05) is None
    assert power_warning(FNTolerance(rate=0.01), 76, 10, None) is None
    warning = power_warning(FNTolerance(rate=0.05), 30, 4, 0.05)
    assert warning is not None
    assert warning.startswith("only a clear improvement can pass with 30 positives; about ")
    assert str(statistics.positives_needed(4 / 30, 0.05)) in warning
    assert "only a proven improvement" in str(power_warning(FNTolerance(count=0), 76, 10, 0.05))
    assert "no positives" in str(power_warning(FNTolerance(rate=1.0), 0, 0, None))
    assert "recall above 0.95" in str(power_warning(FNTolerance(rate=1.0, recall_floor=0.95), 76, 10, 0.05))
    assert power_warning(FNTolerance(rate=1.0, recall_floor=0.5), 76, 10, 0.05) is None


@given(
    st.integers(1, 150), st.sampled_from([0.02, 0.03, 0.05, 0.1, 0.2]), st.sampled_from([0.001, 0.01, 0.05])
)
@settings(deadline=None, max_examples=30)
def test_the_warning_foretells_the_unchanged_candidate(n, rate, level):
    unchanged = verdict_on({"c": Evidence(n, 0, 0, 0)}, {"c": FNTolerance(rate=rate)}, level)
    assert (power_warning(FNTolerance(rate=rate), n, 0, level) is None) == unchanged.accepted
