"""`classprune-power`: what chance a harmless candidate has with so many guard cases, before any training."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from lightning_classprune.guard.statistics import chance_at_setup, positives_needed, smallest_tolerance

DISCORDANCES = (0.02, 0.05, 0.10, 0.20, 0.35)
TOLERANCES = (0.01, 0.02, 0.05, 0.10)


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = argparse.ArgumentParser(
        prog="classprune-power",
        description="The probability that the guard accepts a network that is no worse than the dense one, by the "
        "share of cases on which the two differ (a third to all of the dense network's error rate).",
    )
    made.add_argument("--positives", type=int, required=True, help="guard cases of the protected class")
    made.add_argument("--negatives", type=int, help="guard cases of the other classes")
    made.add_argument(
        "--tolerance", type=float, nargs="+", default=list(TOLERANCES), help="rises of the rate, 0..1"
    )
    made.add_argument("--confidence", type=float, default=0.95, help="of the guard, 0.5 to 1")
    return made


def table(what: str, cases: int, tolerances: Sequence[float], level: float) -> Table:
    """The chances with so many cases, a row a share on which the networks differ.

    Args:
        what: The cases are called.
        cases: Number of them, 1 or more.
        tolerances: Rises of the rate, in (0, 1).
        level: Error level of the test.
    """
    made = Table(title=f"{cases} {what}, {1 - level:.4g} confidence", title_justify="left")
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables of the positives and, where given, of the negatives."""
    command = parser()
    given = command.parse_args(arguments)
    counts = [given.positives] if given.negatives is None else [given.positives, given.negatives]
    if min(counts) < 1:
        command.error("--positives and --negatives must be 1 or more")
    if not 0.5 <= given.confidence < 1:
        command.error(f"--confidence {given.confidence} is out of range: 0.5 to 1")
    if not all(0 < tolerance < 1 for tolerance in given.tolerance):
        command.error(f"--tolerance {given.tolerance} is out of range: between 0 and 1")
    level = round(1 - given.confidence, 12)
    console = Console(width=110)
    for what, cases in zip(
        ("guard positives (misses)", "guard negatives (false alarms)"), counts, strict=False
    ):
        console.print(table(what, cases, sorted(given.tolerance), level))
