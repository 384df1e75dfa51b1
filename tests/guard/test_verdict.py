"""Verdicts on both sides: the point rule and the exact tests by hand and by their properties."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lightning_classprune.guard import statistics
from lightning_classprune.guard.evidence import Evidence
from lightning_classprune.guard.protected import Protected
from lightning_classprune.guard.tolerance import FNTolerance
from lightning_classprune.guard.verdict import (
    BOUND_UP_TO,
    ClassVerdict,
    confidence_text,
    judge_class,
    shown_to_rise,
    throughout,
    verdict_on,
)

NO_ALARMS = Evidence(450, 80, 0, 0)


@st.composite
def evidences(draw: st.DrawFn, largest: int = 120) -> Evidence:
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


def limits(tolerance: float | FNTolerance, max_fp_rise: float | None = None) -> Protected:
    return Protected(1, "c", FNTolerance.of(tolerance), max_fp_rise)


def of_misses(evidence: Evidence, tolerance: float | FNTolerance, level: float | None) -> ClassVerdict:
    """The verdict where false alarms are not guarded."""
    return judge_class(evidence, NO_ALARMS, limits(tolerance), level)


def of_alarms(evidence: Evidence, max_fp_rise: float, level: float | None) -> ClassVerdict:
    """The verdict where any miss is allowed."""
    return judge_class(Evidence(50, 5, 0, 0), evidence, limits(1.0, max_fp_rise), level)


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
def test_point_rule(evidence: tuple[int, ...], tolerance: FNTolerance, outcome: str) -> None:
    verdict = of_misses(Evidence(*evidence), tolerance, None)
    assert verdict.outcome == outcome
    assert (verdict.p_value, verdict.upper_bound, verdict.level) == (None,) * 3
    assert (verdict.fp_p_value, verdict.fp_upper_bound, verdict.largest_p) == (None,) * 3


@pytest.mark.parametrize(
    ("alarms", "rise", "outcome"),
    [
        ((30, 3, 3, 0), 0.1, "accepted"),
        ((30, 3, 4, 0), 0.1, "refused"),
        ((30, 3, 5, 2), 0.1, "accepted"),
        ((30, 3, 0, 0), 0.0, "accepted"),
        ((30, 3, 1, 0), 0.0, "refused"),
        ((100, 0, 29, 0), 0.29, "accepted"),
        ((30, 0, 30, 0), 1.0, "accepted"),
        ((0, 0, 0, 0), 0.1, "unproven"),
    ],
)
def test_point_rule_of_false_alarms(alarms: tuple[int, ...], rise: float, outcome: str) -> None:
    assert of_alarms(Evidence(*alarms), rise, None).outcome == outcome


@given(evidences(), st.integers(0, 100), st.integers(0, 20), st.integers(100, 300), st.integers(1, 99))
def test_point_rule_equals_its_arithmetic(
    evidence: Evidence, percent: int, count: int, factor_percent: int, floor_percent: int
) -> None:
    extra, n = evidence.newly_missed - evidence.newly_found, evidence.support
    for tolerance, within in (
        (FNTolerance(rate=percent / 100), 100 * extra <= percent * n),
        (FNTolerance(count=count), extra <= count),
        (
            FNTolerance(factor=factor_percent / 100),
            100 * evidence.fn <= factor_percent * evidence.baseline_missed,
        ),
    ):
        assert (of_misses(evidence, tolerance, None).outcome == "accepted") == within
    floored = FNTolerance(rate=1.0, recall_floor=floor_percent / 100)
    assert (of_misses(evidence, floored, None).outcome == "accepted") == (
        Fraction(n - evidence.fn, n) >= Fraction(floor_percent, 100)
    )


@given(evidences(), RATES, RATES)
def test_more_tolerance_never_hurts_the_point_rule(evidence: Evidence, one: float, other: float) -> None:
    strict, loose = sorted((one, other))
    for judged in (of_misses, of_alarms):
        if judged(evidence, strict, None).outcome == "accepted":
            assert judged(evidence, loose, None).outcome == "accepted"


# --- with a confidence ---


def test_accepted_with_its_reason() -> None:
    one = Protected(1, "malignant", FNTolerance.of(0.05), 0.1)
    pairs = {"malignant": (Evidence(205, 53, 3, 1), Evidence(450, 80, 10, 12))}
    verdict = verdict_on(pairs, (one,), 0.05)
    assert verdict.accepted
    of_class = verdict.classes["malignant"]
    assert of_class.fp_p_value is not None
    assert verdict.reason == (
        "malignant: 3 newly missed, 1 newly found of 205 (dense missed 53); a rise of the FN rate below 0.05 is proven "
        "at 95% confidence (p = 0.00622, upper bound 0.0322); 10 new false alarms, 12 gone of 450 (dense had 80); a "
        f"rise of the false-alarm rate below 0.1 is proven at 95% confidence (p = {of_class.fp_p_value:.3g}, upper "
        f"bound {of_class.fp_upper_bound:.3g})."
    )
    assert of_class.p_value == pytest.approx(statistics.exact_p_value(3, 1, 205, 0.05))
    assert of_class.upper_bound == pytest.approx(statistics.exact_upper(3, 1, 205, 0.05))
    assert of_class.fp_p_value == pytest.approx(statistics.exact_p_value(10, 12, 450, 0.1))
    assert of_class.fp_upper_bound == pytest.approx(statistics.exact_upper(10, 12, 450, 0.05))
    assert (of_class.level, of_class.tolerance, of_class.fp_tolerance) == (0.05, 0.05, 0.1)
    assert of_class.largest_p == verdict.largest_p == max(of_class.p_value, of_class.fp_p_value)


WORKED = [
    # p = .026801, .044595, .101383, .133670
    ((76, 10, 0, 0), 0.05, 0.05, "accepted"),
    ((76, 10, 2, 3), 0.05, 0.05, "accepted"),
    ((76, 10, 2, 3), 0.05, 0.04, "unproven"),
    ((76, 10, 1, 0), 0.05, 0.05, "unproven"),
    ((76, 10, 5, 5), 0.05, 0.05, "unproven"),
    # (10, 2) of 200: the exact test of "rise at most delta" rejects at .05 from a delta of about .0114 down
    ((200, 26, 10, 2), 0.05, 0.05, "unproven"),
    ((200, 26, 10, 2), 0.0132, 0.05, "unproven"),
    ((200, 26, 10, 2), 0.010, 0.05, "refused"),
    # a tolerance of one allows everything, nothing allowed asks for an improvement
    ((10, 0, 10, 0), 1.0, 0.05, "accepted"),
    ((76, 10, 0, 6), 0.0, 0.05, "accepted"),
    ((76, 10, 0, 0), 0.0, 0.05, "unproven"),
    # nothing to judge
    ((0, 0, 0, 0), 0.05, 0.05, "unproven"),
    ((0, 0, 0, 0), 1.0, None, "unproven"),
]


@pytest.mark.parametrize(
    ("evidence", "tolerance", "level", "outcome"),
    [
        *WORKED,
        # a count is the rate count / support
        ((600, 78, 8, 9), FNTolerance(count=12), 0.05, "accepted"),
        ((10, 0, 10, 0), FNTolerance(count=10), 0.05, "accepted"),
        ((76, 10, 0, 6), FNTolerance(count=0), 0.05, "accepted"),
        # recall floors: p = .0476 for 1 of 93 at .95
        ((93, 1, 0, 0), FNTolerance(rate=1.0, recall_floor=0.95), 0.05, "accepted"),
        ((92, 1, 0, 0), FNTolerance(rate=1.0, recall_floor=0.95), 0.05, "unproven"),
        ((92, 1, 20, 0), FNTolerance(rate=1.0, recall_floor=0.95), 0.05, "refused"),
        ((92, 30, 0, 0), FNTolerance(rate=0.05, recall_floor=0.95), 0.05, "refused"),
    ],
)
def test_outcomes(
    evidence: tuple[int, ...], tolerance: float | FNTolerance, level: float | None, outcome: str
) -> None:
    verdict = of_misses(Evidence(*evidence), tolerance, level)
    assert verdict.outcome == outcome
    if verdict.p_value is not None:
        assert level is not None
        assert (verdict.p_value <= level) == (outcome == "accepted")


@pytest.mark.parametrize(("evidence", "tolerance", "level", "outcome"), WORKED)
def test_outcomes_of_false_alarms_are_those_of_misses(
    evidence: tuple[int, ...], tolerance: float, level: float | None, outcome: str
) -> None:
    verdict = of_alarms(Evidence(*evidence), tolerance, level)
    assert verdict.outcome == outcome
    if verdict.fp_p_value is not None:
        assert level is not None
        assert (verdict.fp_p_value <= level) == (outcome == "accepted")


@settings(deadline=None, max_examples=25)
@given(evidences(largest=60), RATES, st.sampled_from([None, 0.01, 0.05, 0.2]))
def test_the_test_of_false_alarms_is_that_of_misses_with_the_roles_swapped(
    evidence: Evidence, rate: float, level: float | None
) -> None:
    misses, alarms = of_misses(evidence, rate, level), of_alarms(evidence, rate, level)
    assert misses.outcome == alarms.outcome
    assert (misses.p_value, misses.upper_bound) == (alarms.fp_p_value, alarms.fp_upper_bound)


@settings(deadline=None, max_examples=25)
@given(evidences(largest=60), evidences(largest=60), RATES, RATES, st.sampled_from([None, 0.01, 0.05, 0.2]))
def test_both_sides_are_tested_at_the_full_level_and_both_must_pass(
    misses: Evidence, alarms: Evidence, rate: float, rise: float, level: float | None
) -> None:
    both = judge_class(misses, alarms, limits(rate, rise), level)
    one, other = of_misses(misses, rate, level), of_alarms(alarms, rise, level)
    sides = {one.outcome, other.outcome}
    assert both.outcome == next(o for o in ("refused", "unproven", "accepted") if o in sides)
    assert (both.p_value, both.fp_p_value) == (one.p_value, other.fp_p_value)
    if level is not None:
        assert both.largest_p is not None
        assert (both.outcome == "accepted") == (both.largest_p <= level)


@settings(deadline=None, max_examples=25)
@given(evidences(largest=60), st.integers(0, 60).map(lambda i: i / 100), st.sampled_from([0.01, 0.05, 0.2]))
def test_refused_is_the_exact_test_of_the_opposite(evidence: Evidence, rate: float, level: float) -> None:
    """A rise above delta is shown where "a rise of at most delta" is rejected: the same test with b and a swapped."""
    opposite = statistics.exact_p_value(evidence.newly_found, evidence.newly_missed, evidence.support, -rate)
    for judged in (of_misses, of_alarms):
        verdict = judged(evidence, rate, level)
        assert (verdict.outcome == "refused") == (opposite <= level)
        assert (
            ("is shown" in verdict.reason.split("false-alarm rate")[0])
            or verdict.outcome != "refused"
            or (judged is of_alarms)
        )


def test_a_rise_is_shown_no_more_often_than_its_level_says() -> None:
    """All tables of 76 cases at a rise of exactly .05: the sum over those that are refused is at most .05."""
    n, delta, level = 76, 0.05, 0.05
    refused = [
        (b, a)
        for b, a in itertools.product(range(21), range(21))
        if b + a <= n and statistics.exact_p_value(a, b, n, -delta) <= level
    ]
    for fall in (0.0, 0.02, 0.1):
        rise = fall + delta
        total = sum(
            math.exp(
                math.lgamma(n + 1)
                - math.lgamma(b + 1)
                - math.lgamma(a + 1)
                - math.lgamma(n - a - b + 1)
                + b * math.log(rise)
                + (a * math.log(fall) if fall else (0.0 if a == 0 else -math.inf))
                + (n - a - b) * math.log(1 - rise - fall)
            )
            for b, a in refused
        )
        assert total <= level


@pytest.mark.parametrize(
    ("evidence", "tolerance", "words"),
    [
        (Evidence(76, 10, 0, 0), FNTolerance(rate=0.0), "only a proven improvement can pass, at any number"),
        (
            Evidence(100, 6, 0, 0),
            FNTolerance(rate=1.0, recall_floor=0.95),
            "no number of positives would prove",
        ),
        (Evidence(0, 0, 0, 0), FNTolerance(rate=0.05), "no positives of this class"),
        (Evidence(27, 9, 14, 4), FNTolerance(rate=0.05), "the rise in this sample, 0.37, is not below"),
        (Evidence(205, 53, 15, 4), FNTolerance(rate=0.05), "more positives are no remedy"),
    ],
)
def test_no_number_is_promised_where_none_helps(
    evidence: Evidence, tolerance: FNTolerance, words: str
) -> None:
    reason = of_misses(evidence, tolerance, 0.05).reason
    assert "would be needed" not in reason
    assert "are enough" not in reason
    if evidence.support != 27:  # whose rise is shown, so there is nothing to advise
        assert words in reason


def test_unproven_names_the_number_needed() -> None:
    verdict = of_misses(Evidence(76, 10, 5, 5), 0.05, 0.05)
    needed = statistics.positives_needed(10 / 76, 0.05, 0.05, 0.8)
    assert f"about {needed} positives would be needed, there are 76" in verdict.reason
    # 3 more of 205 are seen: what is left to be shown is .05 - 3/205
    verdict = of_misses(Evidence(205, 53, 11, 8), 0.05, 0.05)
    needed = statistics.positives_needed(19 / 205, 0.05 - 3 / 205, 0.05, 0.8)
    assert f"about {needed} positives would be needed, there are 205" in verdict.reason
    verdict = of_misses(Evidence(100, 2, 0, 0), FNTolerance(rate=1.0, recall_floor=0.95), 0.05)
    assert statistics.floor_positives_needed(0.02, 0.95, 0.05, 0.8) == 234
    assert "about 234 positives would be needed" in verdict.reason


@settings(deadline=None, max_examples=25)
@given(evidences(largest=100), st.sampled_from([0.02, 0.05, 0.1]))
def test_advice_never_promises_what_more_positives_cannot_cure(evidence: Evidence, rate: float) -> None:
    verdict = of_misses(evidence, rate, 0.05)
    if (evidence.newly_missed - evidence.newly_found) / evidence.support >= rate:
        assert "would be needed" not in verdict.reason
        assert "are enough" not in verdict.reason


@pytest.mark.parametrize(
    ("new", "rate"), [(21, 0.005), (30, 0.005), (60, 0.01), (80, 0.013), (5, 0.001), (45, 0.0074)]
)
def test_no_bound_above_five_thousand_cases_and_no_contradiction(new: int, rate: float) -> None:
    n = BOUND_UP_TO + 1000
    for verdict in (
        of_misses(Evidence(n, 100, new, 0), rate, 0.05),
        of_alarms(Evidence(n, 100, new, 0), rate, 0.05),
    ):
        assert (verdict.upper_bound, verdict.fp_upper_bound).count(None) >= 1
        assert "upper bound" not in verdict.reason.replace("any rise of the FN rate", "").split("; ")[-1]
    verdict = of_misses(Evidence(n, 100, new, 0), rate, 0.05)
    assert verdict.upper_bound is None
    assert verdict.p_value is not None
    assert (verdict.outcome == "accepted") == (verdict.p_value <= 0.05)


@settings(deadline=None, max_examples=25)
@given(evidences(largest=60), st.integers(1, 60).map(lambda i: i / 100))
def test_up_to_there_the_bound_and_the_decision_agree(evidence: Evidence, rate: float) -> None:
    verdict = of_misses(evidence, rate, 0.05)
    assert verdict.upper_bound is not None
    if verdict.upper_bound < rate:
        assert verdict.outcome == "accepted"


@settings(deadline=None, max_examples=25)
@given(evidences(largest=60), RATES, st.sampled_from([0.01, 0.05, 0.2]), st.sampled_from([None, 0.5, 0.9]))
def test_one_miss_less_never_turns_accept_into_refuse(
    evidence: Evidence, rate: float, level: float, floor: float | None
) -> None:
    assume(evidence.newly_missed > 0)
    fewer = Evidence(
        evidence.support, evidence.baseline_missed, evidence.newly_missed - 1, evidence.newly_found
    )
    tolerance = FNTolerance(rate=rate, recall_floor=floor)
    for rule in (level, None):
        if of_misses(evidence, tolerance, rule).outcome == "accepted":
            assert of_misses(fewer, tolerance, rule).outcome == "accepted"


@pytest.mark.parametrize("n", [20, 30, 59])
def test_more_tolerance_never_hurts_the_exact_test(n: int) -> None:
    """The p-value may jump upwards in delta; here no decision follows such a jump."""
    rates = [0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5]
    for missed, found in itertools.product(range(6), range(6)):
        accepted = [statistics.exact_p_value(missed, found, n, rate) <= 0.05 for rate in rates]
        assert accepted == sorted(accepted), (missed, found)


@pytest.mark.parametrize("level", [0.0, 0.6, -1.0, math.nan])
def test_level_must_be_in_range(level: float) -> None:
    with pytest.raises(ValueError, match="level must be in"):
        of_misses(Evidence(76, 10, 0, 0), 0.05, level)


def test_a_factor_cannot_be_tested_with_a_confidence() -> None:
    with pytest.raises(ValueError, match="factor needs confidence=None"):
        of_misses(Evidence(10, 2, 0, 0), FNTolerance(factor=1.5), 0.05)


@pytest.mark.parametrize(("level", "text"), [(0.05, "95%"), (0.025, "97.5%"), (0.005, "99.5%"), (0.4, "60%")])
def test_an_error_level_is_said_as_confidence(level: float, text: str) -> None:
    assert confidence_text(level) == text


# --- false alarms that are not guarded ---

MANY = Evidence(450, 80, 30, 2)


@pytest.mark.parametrize("level", [None, 0.05])
def test_without_a_limit_the_reason_says_so_and_tells_a_shown_rise(level: float | None) -> None:
    """30 new and 2 gone: the exact sign test has p = 1.2e-7."""
    verdict = judge_class(Evidence(205, 53, 0, 0), MANY, limits(0.05), level)
    assert verdict.outcome == "accepted"
    assert verdict.fp_risen
    assert verdict.reason.endswith(
        "false alarms are not guarded (30 new false alarms, 2 gone of 450 (dense had 80): more are shown)"
    )
    assert (verdict.fp_p_value, verdict.fp_upper_bound, verdict.fp_tolerance) == (None, None, None)
    few = judge_class(Evidence(205, 53, 0, 0), Evidence(450, 80, 5, 2), limits(0.05), level)
    assert not few.fp_risen
    assert "more are shown" not in few.reason


@pytest.mark.parametrize(
    ("new", "gone", "shown"),
    [
        (4, 0, False),
        (5, 0, True),
        (7, 1, True),
        (6, 1, False),
        (0, 0, False),
        (10, 10, False),
        (0, 30, False),
    ],
)
def test_a_rise_is_shown_by_the_exact_sign_test(new: int, gone: int, shown: bool) -> None:
    """P(X >= new), X ~ Binomial(new + gone, 1/2): (4, 0) .0625, (5, 0) .03125, (7, 1) .0352, (6, 1) .0625."""
    tail = sum(math.comb(new + gone, k) for k in range(new, new + gone + 1)) / 2 ** (new + gone)
    assert (tail <= 0.05) == shown
    assert shown_to_rise(Evidence(450, 80, new, gone)) == shown


# --- the dense network is no measure ---


def test_a_class_with_a_dense_network_that_is_no_measure_is_unproven_whatever_the_counts() -> None:
    for level in (None, 0.05):
        verdict = judge_class(
            Evidence(270, 0, 0, 0), Evidence(450, 450, 0, 0), limits(0.05, 0.1), level, "it calls all"
        )
        assert verdict.outcome == "unproven"
        assert verdict.reason.startswith("it calls all; ")
    harmful = judge_class(Evidence(270, 0, 99, 0), Evidence(450, 450, 0, 0), limits(0.05, 0.1), 0.05, "why")
    assert harmful.outcome == "refused"


# --- several classes ---

PASSES, OPEN, HARMED = Evidence(76, 10, 0, 0), Evidence(76, 10, 1, 0), Evidence(76, 10, 20, 0)


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize(
    ("evidence", "outcome", "told"),
    [
        ({"a": PASSES, "b": PASSES}, "accepted", {"a", "b"}),
        ({"a": PASSES, "b": OPEN}, "unproven", {"b"}),
        ({"a": OPEN, "b": HARMED}, "refused", {"a", "b"}),
        ({"a": HARMED, "b": PASSES}, "refused", {"a"}),
    ],
)
def test_all_classes_must_pass_on_both_sides(
    evidence: dict[str, Evidence], outcome: str, told: set[str], side: int
) -> None:
    protected = tuple(Protected(i, name, FNTolerance(rate=0.05), 0.05) for i, name in enumerate(evidence))
    pairs = {name: (one, PASSES) if side == 0 else (PASSES, one) for name, one in evidence.items()}
    verdict = verdict_on(pairs, protected, 0.05)
    assert (verdict.outcome, verdict.accepted) == (outcome, outcome == "accepted")
    assert {name for name in evidence if f"{name}: " in verdict.reason} == told
    assert all(v.level == 0.05 for v in verdict.classes.values()), "each at the full level"
    assert (verdict.largest_p <= 0.05) == verdict.accepted


def test_each_class_has_its_own_limit_of_false_alarms() -> None:
    alarms = Evidence(100, 10, 8, 0)
    protected = (
        Protected(0, "a", FNTolerance(rate=1.0), 0.05),
        Protected(1, "b", FNTolerance(rate=1.0), 0.1),
        Protected(2, "c", FNTolerance(rate=1.0), None),
    )
    verdict = verdict_on({one.name: (PASSES, alarms) for one in protected}, protected, None)
    assert {name: one.outcome for name, one in verdict.classes.items()} == {
        "a": "refused",
        "b": "accepted",
        "c": "accepted",
    }


@pytest.mark.parametrize("names", [("a", "b"), ("a",), ()])
def test_evidence_and_tolerances_must_match(names: tuple[str, ...]) -> None:
    protected = tuple(Protected(i, name, FNTolerance(rate=0.05)) for i, name in enumerate(names))
    with pytest.raises(ValueError, match="evidence and tolerances must name the same"):
        verdict_on({}, protected, 0.05)


# --- under conditions ---


@pytest.mark.parametrize(
    "beside", [Evidence(205, 53, 10, 10), Evidence(205, 53, 20, 20), Evidence(205, 53, 40, 2)]
)
def test_a_candidate_must_pass_under_every_condition_at_the_full_level(beside: Evidence) -> None:
    """Oracles: (0, 0) of 205 has p = .000607 at .05, (10, 10) .018430, (20, 20) .059950; all must be at most .05."""
    (one,) = protected = (limits(0.05),)
    clean = verdict_on({"c": (Evidence(205, 53, 0, 0), NO_ALARMS)}, protected, 0.05)
    there = verdict_on({"c": (beside, NO_ALARMS)}, protected, 0.05)
    verdict = throughout(clean, {"fog": there, "noise": clean})
    assert verdict.outcome == there.outcome
    assert verdict.classes is clean.classes
    assert verdict.under == {"fog": there, "noise": clean}
    assert verdict.largest_p == max(clean.largest_p, there.largest_p)
    assert clean.largest_p == pytest.approx(0.000607, abs=1e-6)
    assert verdict.accepted == (verdict.largest_p <= 0.05)
    assert f"Under fog: c: {there.classes['c'].reason}" in verdict.reason
    assert ("Under noise" in verdict.reason) == verdict.accepted, (
        "of one that fails, what it fails by is told"
    )
    assert one.name == "c"


def test_without_conditions_a_verdict_is_what_it_was() -> None:
    clean = verdict_on({"c": (Evidence(205, 53, 0, 0), NO_ALARMS)}, (limits(0.05),), 0.05)
    assert throughout(clean, {}) == clean
