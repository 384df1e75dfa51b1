"""`tables`: level and power of the tests of units whose objects are missed together.

Units of several objects whose fates are correlated (beta-binomial: the four fates of an object - found by both
networks, newly missed, newly found, missed by both - are drawn from a Dirichlet distribution of the unit with the
correlation given). Level: the true rise is exactly the tolerance, .05, and how often it is accepted all the same at 95%
confidence. For `one` and `betting` the rise is of objects, averaged over units; for `any` of units with any missed
object, whose true rise is made exactly the tolerance. `pooled` takes all objects for independent cases, as nobody
should. Power: an unchanged network, which differs on 5% of the objects, half each way.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from benchmarks.support import named, versions
from lightning_classprune.guard.betting import betting_p_value
from lightning_classprune.guard.statistics import exact_p_value, rate_upper, tango_z

TOLERANCE, ALPHA = 0.05, 0.05
#: Units and objects of each.
SIZES = ((60, 6), (60, 28), (150, 6), (300, 6))
CORRELATIONS = (0.0, 0.05, 0.1, 0.25, 0.5)
#: Shares of objects that are missed by both networks, and newly found, where the level is looked at.
BOTH, FOUND = 0.05, 0.03

Counts = NDArray[np.int64]
Test = Callable[[Counts, np.random.Generator], float]


def fates(
    shares: tuple[float, ...],
    units: int,
    objects: int,
    correlation: float,
    sims: int,
    rng: np.random.Generator,
) -> Counts:
    """`(sims, units, 4)`: objects found by both, newly missed, newly found, missed by both."""
    if correlation:
        strength = (1 - correlation) / correlation
        mean = np.maximum(np.array(shares), 1e-9)
        gammas = np.maximum(rng.standard_gamma(mean * strength, (sims, units, 4)), 1e-300)
        chances = gammas / gammas.sum(-1, keepdims=True)
    else:
        chances = np.broadcast_to(np.array(shares), (sims, units, 4))
    counts: Counts = rng.multinomial(objects, chances)
    return counts


def one(counts: Counts, rng: np.random.Generator) -> float:
    """P-value by one object a unit."""
    edges = counts.cumsum(-1)
    drawn = (rng.integers(0, edges[:, -1])[:, None] >= edges).sum(-1)
    return exact_p_value(int((drawn == 1).sum()), int((drawn == 2).sum()), len(counts), TOLERANCE)


def any_missed(counts: Counts, rng: np.random.Generator) -> float:
    """P-value by units with any missed object."""
    now, before = counts[:, 1] + counts[:, 3] > 0, counts[:, 2] + counts[:, 3] > 0
    return exact_p_value(int((now & ~before).sum()), int((before & ~now).sum()), len(counts), TOLERANCE)


def betting(counts: Counts, rng: np.random.Generator) -> float:
    """P-value by the units' means."""
    return betting_p_value(((counts[:, 1] - counts[:, 2]) / counts.sum(-1)).tolist(), TOLERANCE)


def pooled(counts: Counts, rng: np.random.Generator) -> float:
    """P-value of all objects as if they were independent, by the score test: the exact one of so many takes long."""
    new, gone = int(counts[:, 1].sum()), int(counts[:, 2].sum())
    return float(ndtr(tango_z(new, gone, int(counts.sum()), TOLERANCE)))


TESTS: dict[str, Test] = {"one": one, "any": any_missed, "betting": betting, "pooled": pooled}


def at_the_limit(name: str, objects: int, correlation: float) -> tuple[float, ...]:
    """Shares of the four fates with which the rise that a test is about is exactly the tolerance."""
    if name != "any":
        new = FOUND + TOLERANCE
        return (1 - BOTH - FOUND - new, new, FOUND, BOTH)
    low, high = FOUND, 1 - BOTH - FOUND
    for _ in range(30):
        new = (low + high) / 2
        rise = _clear(FOUND + BOTH, objects, correlation) - _clear(new + BOTH, objects, correlation)
        low, high = (new, high) if rise < TOLERANCE else (low, new)
    return (1 - BOTH - FOUND - low, low, FOUND, BOTH)


def _clear(missed: float, objects: int, correlation: float) -> float:
    """Chance that a unit has no missed object (beta-binomial)."""
    if not correlation:
        return float((1 - missed) ** objects)
    strength = (1 - correlation) / correlation
    a, places = (1 - missed) * strength, np.arange(objects)
    return float(np.prod((a + places) / (strength + places)))


def accepted(
    name: str, shares: tuple[float, ...], size: tuple[int, int], rho: float, sims: int, seed: int
) -> int:
    """How often of `sims` times a test accepts."""
    rng = np.random.default_rng([seed, int(1000 * rho), *size])
    counts = fates(shares, *size, rho, sims, rng)
    return sum(TESTS[name](each, rng) <= ALPHA for each in counts)


def tables(sims: int, seed: int) -> str:
    """Both tables in Markdown."""
    head = "| units x objects | correlation | " + " | ".join(TESTS) + " |\n|---|---|" + "---|" * len(TESTS)
    level, power = [head], [head]
    for size in SIZES:
        for rho in CORRELATIONS:
            cells = [accepted(t, at_the_limit(t, size[1], rho), size, rho, sims, seed) for t in TESTS]
            level.append(_line(size, rho, [_share(k, sims) for k in cells]))
            same = (1 - 0.05 - BOTH, 0.025, 0.025, BOTH)
            cells = [accepted(t, same, size, rho, sims, seed + 1) for t in TESTS]
            power.append(_line(size, rho, [f"{k / sims:.2f}" for k in cells]))
    return (
        f"# Tests of units\n\n{sims} simulations a cell, seed {seed}, {named(versions())}; tolerance {TOLERANCE:g} at "
        "95% confidence. What the cells are is said in `benchmarks/objects/unit_tests.py`; `pooled`, the test of all "
        "objects as if they were independent, is what the package does not do.\n\n## Level\n\nHow often a true rise "
        "of exactly the tolerance is accepted, in percent, and the upper end of a 95% interval: at most 5 where a test "
        "holds.\n\n"
        + "\n".join(level)
        + "\n\n## Power\n\nHow often an unchanged network is accepted that differs on 5% of the objects, half each "
        "way.\n\n" + "\n".join(power) + "\n"
    )


def _line(size: tuple[int, int], rho: float, cells: list[str]) -> str:
    return f"| {size[0]} x {size[1]} | {rho:g} | " + " | ".join(cells) + " |"


def _share(k: int, sims: int) -> str:
    return f"{100 * k / sims:.1f} ({100 * rate_upper(k, sims, 0.025):.1f})"
