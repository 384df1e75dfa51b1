"""The power of the guard as tables: the chance of a harmless candidate, by what the networks differ on."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from lightning_classprune.guard.statistics import chance_at_setup, positives_needed, smallest_tolerance
from lightning_classprune.guard.verdict import confidence_text

#: Shares of the cases on which a network no worse than the dense one is supposed to differ from it.
DISCORDANCES = (0.02, 0.05, 0.10, 0.20, 0.35)


def table(what: str, cases: int, tolerances: Sequence[float], level: float) -> Table:
    """The chances with so many cases, a row a share on which the networks differ.

    Args:
        what: The cases are called.
        cases: Number of them, 1 or more.
        tolerances: Rises of the rate, in (0, 1).
        level: Error level of the test.
    """
    made = Table(title=f"{cases} {what}, {confidence_text(level)} confidence", title_justify="left")
    made.add_column("networks differ on", justify="right")
    for tolerance in tolerances:
        made.add_column(f"tolerance {tolerance:g}", justify="right")
    made.add_column("smallest for .8", justify="right")
    made.add_column(f"cases for .8 at {tolerances[-1]:g}", justify="right")
    for share in DISCORDANCES:
        chances = [f"{chance_at_setup(cases, share, tolerance, level):.2f}" for tolerance in tolerances]
        smallest = f"{smallest_tolerance(cases, share, level):.3g}"
        needed = f"{positives_needed(share, tolerances[-1], level):,}"
        made.add_row(f"{share:.0%}", *chances, smallest, needed)
    return made


def print_tables(counts: Sequence[int], tolerances: Sequence[float], level: float) -> None:
    """Print a table of the positives and, if there are two counts, one of the negatives.

    Args:
        counts: Guard positives, and negatives.
        tolerances: Rises of the rate, ascending, in (0, 1).
        level: Error level of the test.
    """
    console = Console(width=110)
    for what, cases in zip(
        ("guard positives (misses)", "guard negatives (false alarms)"), counts, strict=False
    ):
        console.print(table(what, cases, tolerances, level))
