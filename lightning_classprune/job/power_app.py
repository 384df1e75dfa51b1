"""`classprune-power`: what chance a harmless candidate has with so many guard cases, before any training."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from lightning_classprune import __version__

TOLERANCES = (0.01, 0.02, 0.05, 0.10)


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = argparse.ArgumentParser(
        prog="classprune-power",
        description="The probability that the guard accepts a network that is no worse than the dense one, by the "
        "share of cases on which the two differ (a third to all of the dense network's error rate).",
    )
    made.add_argument("--version", action="version", version=f"lightning-classprune {__version__}")
    made.add_argument("--positives", type=int, required=True, help="guard cases of the protected class")
    made.add_argument("--negatives", type=int, help="guard cases of the other classes")
    made.add_argument(
        "--tolerance", type=float, nargs="+", default=list(TOLERANCES), help="rises of the rate, 0..1"
    )
    made.add_argument("--confidence", type=float, default=0.95, help="of the guard, 0.5 to 1")
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
    # Loads scipy: not for help, --version or a wrong command line.
    from lightning_classprune.job.power_table import print_tables

    print_tables(counts, sorted(given.tolerance), round(1 - given.confidence, 12))
