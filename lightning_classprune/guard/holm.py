"""Holm's procedure: which of several candidates stand after one look at the guard, at one error level together."""

from __future__ import annotations

from collections.abc import Sequence


def accepted_by_holm(p_values: Sequence[float], alpha: float) -> list[bool]:
    """Which candidates are accepted: the smaller p-values step by step, while each is at most alpha / (those left).

    P(a harmful candidate is accepted) <= alpha, whatever the dependence between the tests, for candidates and their
    number that do not depend on the data of the tests: let the first harmful one in the order of p-values have rank
    i; all m0 harmful ones have ranks from i on, so K - i + 1 >= m0, and it is accepted only if its p-value is at most
    alpha / m0, which happens to any of m0 with probability <= alpha in all (Bonferroni). So a claim at 1 - alpha holds
    for all accepted candidates together, and picking one of them costs nothing.

    Args:
        p_values: One a candidate, in [0, 1]; of several tests that must all pass the largest.
        alpha: In (0, 0.5].

    Returns:
        One a candidate, in the order given.

    Source: S. Holm, Scand. J. Statist. 6 (1979) 65-70.
    """
    accepted = [False] * len(p_values)
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    for done, i in enumerate(order):
        if p_values[i] > alpha / (len(p_values) - done):
            break
        accepted[i] = True
    return accepted
