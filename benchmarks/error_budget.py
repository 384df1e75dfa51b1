"""How a run with retries best shares its error level: before the first refusal, and after it.

    python -m benchmarks.error_budget [--out benchmarks/results]

An exact calculation, without data or seeds. Every candidate is as good as the dense network and differs from it on a
share of the positives, so each test is passed with `chance_at_setup` at its level; tests go on until as many are made
as the run may make, or one refusal more than it may retry. Beside the share before the first refusal, the old rule: a
half, with C(M, r) sequences after r refusals instead of C(M - 1, r). Writes error_budget.md.
"""

from __future__ import annotations

import math
from collections import Counter
from itertools import product

from benchmarks.support import command_line, markdown, write
from lightning_classprune import chance_at_setup
from lightning_classprune.guard.error_budget import FIRST_SHARE

ALPHA, TOLERANCE = 0.05, 0.05
SHARES = (0.5, FIRST_SHARE, 0.9)
GUARDS = ((76, 0.05), (205, 0.05), (205, 0.10), (205, 0.15), (600, 0.10), (600, 0.20))
RUNS = ((3, 1), (5, 1), (5, 2), (10, 1))


def levels(share: float, retries: int, tests: int, segments_of: int) -> list[float]:
    """The level of a test after 0, 1, ... refusals.

    Args:
        share: Of the error level, before the first refusal.
        retries: Refusals that the run survives.
        tests: That it may make.
        segments_of: Of how many tests the refusals are counted as a choice.
    """
    left = ALPHA * (1 - share) / retries
    return [
        ALPHA * share,
        *(left / math.comb(segments_of, r) for r in range(1, retries + 1) if r < tests),
    ]


def accepted(chances: list[float], tests: int) -> Counter[int]:
    """How many candidates a run accepts, as a distribution.

    Args:
        chances: That one is accepted, after 0, 1, ... refusals.
        tests: That the run may make.
    """
    states = Counter({(0, 0): 1.0})  # of refusals and acceptances
    for _ in range(tests):
        after: Counter[tuple[int, int]] = Counter()
        for (refused, taken), probability in states.items():
            if refused == len(chances):
                after[refused, taken] += probability
                continue
            after[refused, taken + 1] += probability * chances[refused]
            after[refused + 1, taken] += probability * (1 - chances[refused])
        states = after
    found: Counter[int] = Counter()
    for (_, taken), probability in states.items():
        found[taken] += probability
    return found


def row(n: int, discordance: float, tests: int, retries: int) -> dict[str, str]:
    """One line of the table."""
    cells = {
        "positives": str(n),
        "differ on": f"{discordance:.0%}",
        "tests": str(tests),
        "retries": str(retries),
    }
    rules = {"1/2, C(M, r)": (0.5, tests)} | {f"{share:g}, C(M-1, r)": (share, tests - 1) for share in SHARES}
    for name, (share, segments_of) in rules.items():
        chances = [
            chance_at_setup(n, discordance, TOLERANCE, level)
            for level in levels(share, retries, tests, segments_of)
        ]
        found = accepted(chances, tests)
        mean = sum(taken * probability for taken, probability in found.items())
        cells[name] = f"{1 - found[0]:.2f}, {mean:.2f}"
    return cells


def report() -> list[str]:
    """The table in Markdown, with what it says."""
    return [
        "# Sharing an error level with retries",
        "",
        "`python -m benchmarks.error_budget --help` explains how this was made. Error level "
        f"{ALPHA}, tolerance {TOLERANCE}.",
        "Columns: the share before the first refusal, and of how many of the M tests refusals are a choice.",
        "Each cell: the probability that anything is accepted, and how many candidates on average; all are harmless.",
        "",
        markdown([row(*guard, *run) for guard, run in product(GUARDS, RUNS)]),
    ]


def main() -> None:
    out = command_line(__doc__).parse_args().out
    write(out / "error_budget.md", report())


if __name__ == "__main__":
    main()
