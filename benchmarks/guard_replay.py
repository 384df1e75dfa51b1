"""The guard's real false-accept rate, replayed on networks of real training runs.

The jobs of `benchmarks.paper` keep, with the guard off, what every round's network decides on a pool of held-out
positives. The rise of the FN rate over the dense network on the whole pool is the truth. Guard sets are redrawn from
the pool with replacement, and the fixed sequence is replayed on each: rounds are accepted until the first refusal.

Rules: `exact` is the package's test at level 0.05; `point` compares counts; `point, retries` may, after a refusal, try
the network of the same round of the next training seeds on the same guard set, so often, before it stops.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import numpy as np
from numpy.typing import NDArray

from lightning_classprune.guard.statistics import exact_p_value

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Accepts = Callable[[Ints, Ints, int, float], Bools]
ALPHA = 0.05
ROUNDING = 1e-12  # of a rate, which may come out a little below the tolerance that it equals
CHUNK = 500  # guard sets drawn at a time, which bounds memory


@cache
def most_newly_missed(newly_found: int, n: int, delta: float) -> int:
    """Return the largest number of newly missed positives that the exact test accepts; -1 where it accepts none.

    The p-value rises with it, so the boundary is found by halving, and a table of it replaces 10,000 tests.
    """
    low, high = -1, n - newly_found
    while low < high:
        middle = (low + high + 1) // 2
        if exact_p_value(middle, newly_found, n, delta) <= ALPHA:
            low = middle
        else:
            high = middle - 1
    return low


def exact_rule(newly_missed: Ints, newly_found: Ints, n: int, delta: float) -> Bools:
    """Whether the exact test proves the rise below `delta`."""
    values, place = np.unique(newly_found, return_inverse=True)
    most = np.array([most_newly_missed(int(value), n, delta) for value in values])
    accepted: Bools = newly_missed <= most[place].reshape(newly_missed.shape)
    return accepted


def point_rule(newly_missed: Ints, newly_found: Ints, n: int, delta: float) -> Bools:
    """Whether the counts alone rise by at most `delta`."""
    allowed = int(Fraction(str(delta)) * n)
    accepted: Bools = newly_missed - newly_found <= allowed
    return accepted


@dataclass(frozen=True)
class Replay:
    """Of the redrawn guard sets: share whose delivered network violates, mean round delivered, share with a refusal."""

    violates: float
    delivered: float
    refused: float


def replay_each(
    networks: list[Bools], n: int, delta: float, accepts: Accepts, retries: int, draws: int
) -> list[Replay]:
    """Replay every seed's chain, in which those of the next seeds stand in after a refusal; as `replay` otherwise."""
    return [
        replay(networks[k:] + networks[:k], n, delta, accepts, retries, draws, np.random.default_rng([3, k]))
        for k in range(len(networks))
    ]


def worlds(chains: list[Bools], delta: float) -> dict[str, list[Bools]]:
    """Return the networks of all seeds as measured, and shifted to the edge, where false accepts are most likely."""
    edges = [shifted(chain, delta, np.random.default_rng(2)) for chain in chains]
    return {"measured": chains, "at the tolerance": edges}


def harmful(networks: list[Bools], delta: float) -> float:
    """Return the share of the rounds after the dense one whose true rise is at or above the tolerance."""
    return float(np.mean([(truth(chain)[1:] >= delta - ROUNDING).mean() for chain in networks]))


def clustered(rate: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95% bootstrap interval of the mean over seeds, the clusters `(seeds,)`."""
    rng = np.random.default_rng(4)
    means = rate[rng.integers(len(rate), size=(10_000, len(rate)))].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def truth(missed: Bools) -> NDArray[np.float64]:
    """Return the rise of each round's FN rate over the dense network's: `missed` `(rounds, pool)` -> `(rounds,)`."""
    return missed.mean(1) - missed[0].mean()


def replay(
    chains: list[Bools],
    n: int,
    delta: float,
    accepts: Accepts,
    retries: int,
    draws: int,
    rng: np.random.Generator,
) -> Replay:
    """Replay the fixed sequence of `chains[0]` on `draws` guard sets of `n` positives.

    Args:
        chains: `(rounds, pool)` whether each network misses each positive; row 0 is dense. The others stand in, row by
            row, after a refusal.
        n: Positives in a guard set.
        delta: Tolerance, a rate.
        accepts: `exact_rule` or `point_rule`.
        retries: Refusals survived in all; needs as many further chains.
        draws: Guard sets.
        rng: Source of the draws.
    """
    dense, rounds = chains[0][0], len(chains[0])
    tried = np.stack([chain[1:] for chain in chains[: retries + 1]])  # (attempts, rounds - 1, pool)
    violating = tried.mean(2) - dense.mean() >= delta - ROUNDING
    # Positives with the same outcomes everywhere are drawn as one: far fewer numbers, the same distribution.
    everyone = np.concatenate([dense[None], tried.reshape(-1, len(dense))])
    kinds, sizes = np.unique(everyone, axis=1, return_counts=True)
    dense, tried = kinds[0], kinds[1:].reshape(*tried.shape[:2], -1)
    newly_missed, newly_found = tried & ~dense, ~tried & dense
    violations = delivered = refused = 0
    pool = sizes / sizes.sum()
    for start in range(0, draws, CHUNK):
        count = min(CHUNK, draws - start)
        drawn = rng.multinomial(n, pool, size=count).astype(np.float32)
        b, a = (
            np.rint(np.tensordot(drawn, x.astype(np.float32), axes=(1, 2))).astype(int)
            for x in (newly_missed, newly_found)
        )
        passes = accepts(b, a, n, delta)  # (count, attempts, rounds - 1)
        alive, left = np.ones(count, bool), np.full(count, retries)
        bad, last = np.zeros(count, bool), np.zeros(count, int)
        hit = np.zeros(count, bool)
        for k in range(rounds - 1):
            settled = ~alive
            for attempt in range(retries + 1):
                trying = ~settled & (left >= 0)
                good = trying & passes[:, attempt, k]
                bad = np.where(good, violating[attempt, k], bad)
                last = np.where(good, k + 1, last)
                settled |= good
                failed = trying & ~good
                hit |= failed
                left = left - failed
            alive &= settled & (left >= 0)
        violations, delivered, refused = violations + bad.sum(), delivered + last.sum(), refused + hit.sum()
    return Replay(violations / draws, delivered / draws, refused / draws)


def shifted(missed: Bools, delta: float, rng: np.random.Generator) -> Bools:
    """Return `missed` with as few changed outcomes as it takes for every round's true rise to be `delta`.

    Rounded up to a whole positive. Positives are changed at random from found to missed, or back.
    """
    result = missed.copy()
    pool = missed.shape[1]
    wanted = int(missed[0].sum()) - int(-Fraction(str(delta)) * pool // 1)
    if wanted > pool:
        raise ValueError(f"delta={delta}: the dense network already misses too many of {pool}")
    for row in result[1:]:
        excess = int(row.sum()) - wanted
        if excess:
            chosen = rng.choice(np.flatnonzero(row if excess > 0 else ~row), abs(excess), replace=False)
            row[chosen] = excess < 0
    return result
