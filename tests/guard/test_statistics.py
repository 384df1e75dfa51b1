import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from lightning_classprune.guard import region as r
from lightning_classprune.guard import statistics as s

# (newly missed, newly found, n, delta): p, Z, Tango's upper bound, exact upper bound, at alpha = .05
WORKED = [
    ((0, 0, 76, 0.05), 0.026801, -2.000000, 0.034376, 0.038651),
    ((1, 0, 76, 0.05), 0.101383, -1.473684, 0.056846, 0.060903),
    ((0, 2, 76, 0.05), 0.008372, -2.470883, 0.008964, 0.011579),
    ((2, 3, 76, 0.05), 0.044595, -1.798375, 0.043045, 0.043897),
    ((5, 5, 76, 0.05), 0.133670, -1.149039, 0.074494, 0.075488),
    ((0, 0, 30, 0.05), 0.214639, -1.256562, 0.082724, 0.095034),
    ((3, 3, 200, 0.05), 0.002881, -2.795562, 0.023942, 0.024168),
    ((10, 2, 200, 0.05), 0.331906, -0.555951, 0.073270, 0.073601),
    ((8, 9, 600, 0.02), 0.003629, -2.698011, 0.010343, 0.010455),
    ((15, 15, 600, 0.02), 0.019877, -2.064642, 0.015607, 0.015745),
    # A grid that is coarse near q = (1 - delta) / 2 misses the maximum at q = .493763 and finds .003863 and .006084;
    # test_the_narrow_maximum proves this one.
    ((60, 60, 3000, 0.01), 0.003902, -2.667186, 0.006068, 0.006094),
    ((1, 1, 2, 0.5), 0.437500, -0.816497, 0.758267, 0.949359),
]
P_ONLY = [
    ((0, 0, 1, 0.5), 0.5),
    ((5, 0, 5, 0.5), 1.0),
    ((1, 0, 30, 0.1), 0.183695),
    ((1, 1, 40, 0.1), 0.040529),
    ((2, 1, 30, 0.2), 0.024211),
    ((0, 10, 200, 0.01), 0.000252),
]
SIX = {"rel": 0, "abs": 6e-7}


@pytest.mark.parametrize(("table", "p", "z", "tango", "exact"), WORKED)
def test_worked_numbers(table, p, z, tango, exact):
    assert s.exact_p_value(*table) == pytest.approx(p, **SIX)
    assert s.tango_z(*table) == pytest.approx(z, **SIX)
    assert s.tango_upper(*table[:3], 0.05) == pytest.approx(tango, **SIX)
    assert s.exact_upper(*table[:3], 0.05) == pytest.approx(exact, **SIX)


@pytest.mark.parametrize(("table", "p"), P_ONLY)
def test_worked_p_values(table, p):
    assert s.exact_p_value(*table) == pytest.approx(p, **SIX)


@pytest.mark.parametrize("table", [(2, 1, 50), (5, 5, 205), (20, 15, 1000), (0, 9, 300), (12, 3, 40)])
@pytest.mark.parametrize("alpha", [0.05, 0.0025])
def test_exact_upper_is_where_the_exact_p_value_falls_to_alpha(table, alpha):
    bound = s.exact_upper(*table, alpha)
    assert s.exact_p_value(*table, bound) <= alpha
    assert s.exact_p_value(*table, bound - 1e-7) > alpha


def test_exact_upper_takes_few_sums(monkeypatch):
    """Of nine tables none takes more than so many p-values."""
    sums, summed = [], r.probability_of

    def counted(region, n, found_rate, missed_rate):
        sums.append(len(found_rate))
        return summed(region, n, found_rate, missed_rate)

    monkeypatch.setattr(r, "probability_of", counted)
    one = []
    for b in (0, 8, 30):
        for a in (0, 5, 20):
            s.exact_upper.__wrapped__(b, a, 150, 0.05)
            one.append(sum(sums) / 299)
            sums.clear()
    assert max(one) < 25
    assert sum(one) / len(one) < 12


def test_above_a_size_the_test_alone_is_exact_and_there_is_no_bound():
    assert s.exact_upper(500, 480, 10**7, 0.05) is None
    assert s.exact_upper(10**7, 0, 10**7, 0.05) == 1.0
    # The normal limit: 20 more missed than found of ten million, against a rise of a tenth of that spread.
    assert s.exact_p_value(500, 480, 10**7, 1e-4) < 1e-8
    assert s.exact_p_value(480, 500, 10**7, -1e-4) > 1 - 1e-8
    assert s.chance_at_setup(10**6, 0.1, 0.05, 0.05) == 1.0


def test_exact_upper_at_the_ends():
    assert s.exact_upper(0, 0, 1, 0.05) == pytest.approx(0.95, **SIX)
    assert s.exact_upper(5, 0, 5, 0.05) == 1.0
    assert s.exact_upper(0, 14, 14, 0.05) < s.exact_upper(0, 7, 14, 0.05) < 0


def tables(n):
    for found in range(n + 1):
        for missed in range(n - found + 1):
            yield missed, found


def test_the_narrow_maximum():
    """The region's probability at q = .493763, summed over all 4.5 million tables, reaches the p-value."""
    n, delta, q = 3000, 0.01, 0.493763
    z = s.tango_z(60, 60, n, delta) + 1e-9
    total = 0.0
    for found in range(n + 1):
        missed = np.arange(n - found + 1)
        most = np.searchsorted(r.scores(missed, found, n, delta), z, side="right")
        inner = stats.binom.cdf(most - 1, n - found, (q + delta) / (1 - q)) if most else 0.0
        total += stats.binom.pmf(found, n, q) * inner
    assert total == pytest.approx(0.0039017, abs=1e-7)
    assert total <= s.exact_p_value(60, 60, n, delta) + 1e-9


# PropCIs 0.3.0 scoreci.mp, upper ends of 90% intervals
@pytest.mark.parametrize(
    ("table", "upper"),
    [
        ((7, 0, 14), 0.701218),
        ((0, 0, 14), 0.161955),
        ((3, 2, 14), 0.338487),
        ((1, 1, 2), 0.758267),
        ((25, 12, 200), 0.116447),
        ((0, 7, 14), -0.257068),
        ((14, 0, 14), 1.0),
    ],
)
def test_tango_upper_agrees_with_propcis(table, upper):
    assert s.tango_upper(*table, 0.05) == pytest.approx(upper, **SIX)


@pytest.mark.parametrize(
    ("table", "alpha", "low", "high", "digits"),
    [((28, 25, 618), 0.05, -0.0148, 0.0247, 4), ((7, 1, 21), 0.025, 0.026, 0.517, 3)],
)
def test_tango_interval_agrees_with_published_ones(table, alpha, low, high, digits):
    missed, found, n = table
    ends = -s.tango_upper(found, missed, n, alpha), s.tango_upper(missed, found, n, alpha)
    assert (round(ends[0], digits), round(ends[1], digits)) == (low, high)


# --- the exact test, written a second time ---


def slow_score(missed, found, n, delta):
    """Tango's statistic with the restricted estimate found numerically."""
    low, high = max(0.0, -delta), (1 - delta) / 2

    def loss(q):
        counts, rates = (found, missed, n - found - missed), (q, q + delta, 1 - 2 * q - delta)
        return -sum(c * math.log(max(r, 1e-300)) for c, r in zip(counts, rates, strict=True) if c)

    inner = optimize.minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-12})
    q = min((low, high, inner.x), key=loss)
    difference, variance = missed - found - n * delta, n * (2 * q + delta - delta**2)
    return 0.0 if abs(difference) < 1e-12 else difference / math.sqrt(variance)


def slow_p_value(missed, found, n, delta):
    observed = slow_score(missed, found, n, delta)
    region = [t for t in tables(n) if slow_score(*t, n, delta) <= observed + 1e-5]
    counts = np.array([(b, a, n - a - b) for b, a in region])

    def probability(q):
        return stats.multinomial.pmf(counts, n, [q + delta, q, max(1 - 2 * q - delta, 0.0)]).sum()

    low, high = max(0.0, -delta), (1 - delta) / 2
    grid = np.linspace(low, high, 101)
    best = int(np.argmax([probability(q) for q in grid]))
    around = (grid[max(best - 1, 0)], grid[min(best + 1, 100)])
    inner = optimize.minimize_scalar(lambda q: -probability(q), bounds=around, method="bounded")
    return max(probability(grid[best]), -inner.fun)


@pytest.mark.parametrize(
    ("n", "delta"), [(1, 0.3), (2, 0.5), (3, 0.1), (4, 0.25), (5, 0.6), (6, 0.05), (5, -0.2)]
)
def test_exact_p_value_against_brute_force(n, delta):
    for missed, found in tables(n):
        assert s.exact_p_value(missed, found, n, delta) == pytest.approx(
            slow_p_value(missed, found, n, delta), abs=1e-6
        ), (missed, found)


@pytest.mark.parametrize(
    ("n", "delta"), [(5, 0.1), (8, 0.3), (13, 0.05), (20, 0.2), (30, 0.05), (30, 0.1), (20, 0.0)]
)
def test_type_one_error_never_exceeds_alpha(n, delta):
    """Over every nuisance value, also strictly inside the hypothesis, by full enumeration."""
    alpha = 0.05
    rejected = [t for t in tables(n) if s.exact_p_value(*t, n, delta) <= alpha]
    if not rejected:
        return
    b, a = np.array(rejected).T
    counts = np.stack([b, a, n - a - b], axis=1)
    worst = 0.0
    for rise in (delta, delta + 0.01, delta + 0.1):
        for q in np.linspace(0, (1 - rise) / 2, 400):
            rates = [q + rise, q, max(1 - 2 * q - rise, 0.0)]
            worst = max(worst, stats.multinomial.pmf(counts, n, np.array(rates) / sum(rates)).sum())
    assert worst <= alpha + 1e-9
    assert worst > 0


def test_score_rises_with_missed_and_falls_with_found():
    for n, delta in itertools.product((1, 2, 7, 40), (-0.2, 0.0, 0.01, 0.3, 0.9)):
        z = np.full((n + 1, n + 1), np.nan)
        for missed, found in tables(n):
            z[missed, found] = s.tango_z(missed, found, n, delta)
        assert not (np.diff(z, axis=0) < -1e-9).any()
        assert not (np.diff(z, axis=1) > 1e-9).any()


@st.composite
def drawn_tables(draw):
    n = draw(st.integers(2, 300))
    missed = draw(st.integers(0, min(n - 1, 40)))
    found = draw(st.integers(0, min(n - 1 - missed, 40)))
    return missed, found, n, draw(st.sampled_from([0.0, 0.005, 0.02, 0.05, 0.1, 0.3, 0.8]))


@settings(deadline=None, max_examples=60)
@given(drawn_tables())
def test_p_grows_with_missed_and_falls_with_found(table):
    missed, found, n, delta = table
    p = s.exact_p_value(missed, found, n, delta)
    assert 0 <= p <= 1
    assert s.exact_p_value(missed + 1, found, n, delta) >= p - 1e-7
    assert s.exact_p_value(missed, found + 1, n, delta) <= p + 1e-7


@settings(deadline=None, max_examples=15)
@given(drawn_tables(), st.sampled_from([0.01, 0.05, 0.2]))
def test_the_exact_bound_is_where_p_crosses_alpha(table, alpha):
    missed, found, n, _ = table
    bound = s.exact_upper(missed, found, n, alpha)
    assert (missed - found) / n <= bound <= 1
    if bound < 1 - 1e-6:
        assert s.exact_p_value(missed, found, n, min(1, bound + 1e-6)) <= alpha
    assert s.exact_p_value(missed, found, n, max(-1, bound - 1e-6)) >= alpha


def test_degenerate_tolerances():
    assert s.exact_p_value(0, 0, 76, 0.0) == 1.0
    # Improvement only: at delta = 0 enough newly found cases are significant.
    assert s.exact_p_value(0, 6, 76, 0.0) < 0.05 < s.exact_p_value(0, 1, 76, 0.0)
    assert s.exact_p_value(75, 0, 76, 1.0) == 0.0
    assert s.exact_p_value(76, 0, 76, 1.0) == 1.0


def test_many_positives():
    assert s.exact_p_value(500, 450, 100_000, 0.002) == pytest.approx(8.31e-7, rel=1e-2)
    p = s.exact_p_value(3000, 3000, 100_000, 0.002)
    assert p == pytest.approx(stats.norm.cdf(s.tango_z(3000, 3000, 100_000, 0.002)), rel=0.02)


# --- one proportion ---


@pytest.mark.parametrize(
    ("k", "n", "alpha", "upper", "digits"),
    [
        (3, 76, 0.05, 0.09887, 6),
        (10, 76, 0.025, 0.229, 3),
        (7, 76, 0.025, 0.181, 3),
        (10, 600, 0.025, 0.03, 3),
        (7, 600, 0.025, 0.024, 3),
        (5, 5, 0.05, 1.0, 6),
    ],
)
def test_rate_upper(k, n, alpha, upper, digits):
    assert round(s.rate_upper(k, n, alpha), digits) == upper


# Fewest positives that show an FN rate <= 1 - floor with so many misses (one-sided 95%).
FEWEST = [
    (0.90, {0: 29, 1: 46, 3: 76, 5: 103}),
    (0.95, {0: 59, 1: 93, 2: 124, 3: 153, 5: 208, 10: 336}),
    (0.98, {0: 149, 1: 236, 3: 386, 5: 523}),
]


@pytest.mark.parametrize(("floor", "misses", "n"), [(f, k, n) for f, row in FEWEST for k, n in row.items()])
def test_fewest_positives_for_a_floor(floor, misses, n):
    assert s.floor_p_value(misses, n, floor) <= 0.05 < s.floor_p_value(misses, n - 1, floor)
    assert s.rate_upper(misses, n, 0.05) <= 1 - floor < s.rate_upper(misses, n - 1, 0.05)


@pytest.mark.parametrize(
    ("n", "rise", "digits"),
    [
        (10, 0.259, 3),
        (30, 0.095, 4),
        (59, 0.0495, 4),
        (76, 0.0387, 4),
        (200, 0.0149, 4),
        (299, 0.00997, 5),
        (600, 0.005, 4),
        (3000, 0.001, 4),
    ],
)
def test_what_an_unchanged_candidate_is_certified_for(n, rise, digits):
    """At level 0.05 that is 1 - 0.05**(1/n)."""
    assert round(s.exact_upper(0, 0, n, 0.05), digits) == rise
    assert s.exact_upper(0, 0, n, 0.05) == pytest.approx(1 - 0.05 ** (1 / n), abs=1e-6)


def test_at_small_levels_an_unchanged_candidate_is_certified_for_less():
    """The worst nuisance is no longer zero there, so 1 - alpha**(1/n) promises too much."""
    assert s.exact_upper(0, 0, 135, 0.001) == pytest.approx(0.0667, abs=1e-4)
    assert 1 - 0.001 ** (1 / 135) < 0.05


# --- planning ---


@pytest.mark.parametrize(
    ("fnr", "delta", "n", "within"),
    [
        (0.01, 0.01, 816, 0.02),
        (0.01, 0.02, 259, 0.12),
        (0.01, 0.05, 94, 0.02),
        (0.01, 0.1, 29, 0),
        (0.05, 0.01, 3183, 0.02),
        (0.05, 0.02, 837, 0.02),
        (0.05, 0.05, 162, 0.02),
        (0.05, 0.1, 50, 0),
        (0.13, 0.01, 8100, 0.02),
        (0.13, 0.02, 2057, 0.02),
        (0.13, 0.05, 341, 0.02),
        (0.13, 0.1, 98, 0.07),
    ],
)
def test_positives_needed(fnr, delta, n, within):
    assert s.positives_needed(fnr, delta) == pytest.approx(n, rel=within + 1e-9)


@pytest.mark.fit  # as costly as one
def test_positives_needed_has_the_power_it_claims():
    n = s.positives_needed(0.05, 0.05)
    power = sum(
        stats.multinomial.pmf([b, a, n - a - b], n, [0.025, 0.025, 0.95])
        for b, a in tables(40)
        if s.exact_p_value(b, a, n, 0.05) <= 0.05
    )
    assert 0.8 <= power < 0.82


def test_positives_needed_far_out():
    assert s.positives_needed(0.0, 0.05) == 59
    assert s.positives_needed(0.13, 0.001) == pytest.approx(6.1826 * 0.13 / 1e-6, rel=1e-4)


@pytest.mark.parametrize(
    ("max_fnr", "fnr", "n"),
    [
        (0.05, 0.01, 124),
        (0.05, 0.02, 234),
        (0.05, 0.03, 601),
        (0.1, 0.02, 61),
        (0.1, 0.05, 179),
        (0.02, 0.005, 386),
        (0.02, 0.01, 969),
        (0.05, 0.05, None),
        (0.05, 0.2, None),
    ],
)
def test_floor_positives_needed(max_fnr, fnr, n):
    assert s.floor_positives_needed(fnr, 1 - max_fnr) == n


@pytest.mark.parametrize(
    ("n", "max_fnr", "rank"),
    [
        (76, 0.05, 1),
        (200, 0.05, 5),
        (600, 0.05, 21),
        (3000, 0.05, 131),
        (76, 0.1, 4),
        (200, 0.1, 13),
        (600, 0.1, 48),
        (3000, 0.1, 273),
        (76, 0.13, 5),
        (200, 0.13, 18),
        (600, 0.13, 65),
        (3000, 0.13, 360),
        (76, 0.02, 0),
        (200, 0.02, 1),
        (600, 0.02, 7),
        (3000, 0.02, 48),
        (58, 0.05, 0),
        (59, 0.05, 1),
        (92, 0.05, 1),
        (93, 0.05, 2),
    ],
)
def test_threshold_rank(n, max_fnr, rank):
    assert s.threshold_rank(n, max_fnr, 0.05) == rank


def test_threshold_rank_keeps_its_error():
    exceeds = stats.beta.sf(0.05, s.threshold_rank(200, 0.05, 0.05), 201 - s.threshold_rank(200, 0.05, 0.05))
    assert exceeds == pytest.approx(0.026, abs=5e-4)


# --- errors ---


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: s.exact_p_value(0, 0, 0, 0.05), "n must be at least 1, got 0"),
        (lambda: s.tango_z(0, 0, 0, 0.05), "n must be"),
        (lambda: s.tango_upper(0, 0, 0, 0.05), "n must be"),
        (lambda: s.exact_upper(0, 0, 0, 0.05), "n must be"),
        (lambda: s.rate_upper(0, 0, 0.05), "n must be"),
        (lambda: s.floor_p_value(0, 0, 0.9), "n must be"),
        (lambda: s.threshold_rank(0, 0.05, 0.05), "n must be"),
        (lambda: s.exact_p_value(-1, 0, 5, 0.05), "newly_missed must be"),
        (lambda: s.exact_p_value(0, 6, 5, 0.05), "newly_found must be"),
        (lambda: s.exact_p_value(3, 3, 5, 0.05), r"newly_missed \+ newly_found must be at most n = 5, got 6"),
        (lambda: s.exact_p_value(0, 1.5, 5, 0.05), "newly_found must be a whole number"),
        (lambda: s.exact_p_value(0, 0, 5, 1.5), r"delta must be in \[-1, 1\], got 1.5"),
        (lambda: s.exact_p_value(0, 0, 5, math.nan), "delta must be"),
        (lambda: s.exact_upper(0, 0, 5, 0.0), "alpha must be"),
        (lambda: s.tango_upper(0, 0, 5, 0.7), "alpha must be"),
        (lambda: s.rate_upper(6, 5, 0.05), "k must be"),
        (lambda: s.floor_p_value(6, 5, 0.9), "misses must be"),
        (lambda: s.floor_p_value(1, 5, 1.0), "floor must be"),
        (lambda: s.positives_needed(1.1, 0.05), "fnr must be"),
        (lambda: s.positives_needed(0.1, 0.0), "delta must be"),
        (lambda: s.positives_needed(0.1, 0.05, power=1.0), "power must be"),
        (lambda: s.floor_positives_needed(0.1, 0.0), "floor must be"),
        (lambda: s.threshold_rank(5, 0.0, 0.05), "max_fnr must be"),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- the chance of proof ---


def test_the_chance_of_proof_by_hand() -> None:
    """5 and 4 of 99: rise 1/100, spread sqrt(10/100 - 1/10,000) = .31607; 400 further positives, level .05.

    (.05 - .01) / .31607 - 1.64485 / 20 = .04431; over sqrt(1/99 + 1/400) = .11225 that is .3948.
    """
    assert s.chance_of_proof(5, 4, 99, 0.05, 0.05, 400) == pytest.approx(0.6535, abs=1e-4)
    # The point rule has nothing to prove: .12656 / .11225 = 1.1275.
    assert s.chance_of_proof(5, 4, 99, 0.05, None, 400) == pytest.approx(0.8702, abs=1e-4)


@given(drawn_tables(), st.integers(1, 3000), st.floats(0.001, 0.5))
def test_the_chance_of_proof_falls_with_misses_and_with_a_stricter_level(table, positives, alpha) -> None:
    b, a, n, delta = table

    def chance(missed: int, found: int, level: float | None) -> float:
        return s.chance_of_proof(missed, found, n, delta, level, positives)

    assert 0 <= chance(b, a, alpha) <= chance(b, a, 0.5) + 1e-12
    assert chance(b, a, 0.5) == chance(b, a, None) <= 1
    if b and a < n:
        # One positive that was newly missed is newly found: as many differ.
        assert chance(b - 1, a + 1, alpha) >= chance(b, a, alpha)


@pytest.mark.parametrize(("b", "a", "n", "alpha"), [(3, 3, 5, 0.05), (-1, 0, 5, 0.05), (1, 0, 5, 0.6)])
def test_the_chance_of_proof_refuses_impossible_input(b, a, n, alpha) -> None:
    with pytest.raises(ValueError, match=r"must|not tables of n"):
        s.chance_of_proof(b, a, n, 0.05, alpha, 100)
