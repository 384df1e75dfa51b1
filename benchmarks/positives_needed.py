"""How many guard positives a tolerance needs: the README's table.

    python -m benchmarks.positives_needed

For an unchanged network (as many newly found as newly missed: half of the dense misses each way), accepted with power
0.8 at confidence 0.95. No data, no seeds: `lightning_classprune.guard.statistics.positives_needed` for each cell.
"""

from __future__ import annotations

from lightning_classprune.guard.statistics import positives_needed

RATES = (0.01, 0.05, 0.13)
TOLERANCES = (0.01, 0.02, 0.05, 0.10)


def table() -> str:
    """The table in Markdown."""
    head = "| dense FN rate | tolerance .01 | .02 | .05 | .10 |\n|---|---|---|---|---|\n"
    rows = (
        f"| {rate:.2f} | " + " | ".join(str(positives_needed(rate, delta)) for delta in TOLERANCES) + " |"
        for rate in RATES
    )
    return (head + "\n".join(rows)).replace("| 0.", "| .")


if __name__ == "__main__":
    print(table())
