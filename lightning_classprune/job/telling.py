"""What a job says on the terminal when it ends: the ledger, what was achieved, and dense beside delivered."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lightning_classprune.job.comparison import AnyMeasures, Line, Rate
from lightning_classprune.job.unprotected import Lost, warnings_of
from lightning_classprune.ledger.recommendation import recommendation
from lightning_classprune.ledger.rows import Row, delivered_row
from lightning_classprune.ledger.text import achievement
from lightning_classprune.ledger.text import table as ledger_table

Compared = Mapping[str, Mapping[str, Mapping[str, AnyMeasures]]]


#: Classes that nobody protects, of which the terminal tells: those with the largest rise.
SHOWN = 5


def tell(rows: Sequence[Row], both: Compared, unprotected: Sequence[Lost] = ()) -> None:
    """Print the ledger, what was achieved, and last, so that nobody overlooks a price, the two networks.

    Args:
        rows: The ledger; empty where nothing was pruned.
        both: What `comparison.compared` returned.
        unprotected: What `unprotected.lost` returned.
    """
    console = Console(width=max(shutil.get_terminal_size(fallback=(100, 24)).columns, 80))
    if rows:
        console.print(ledger_table(rows))
    console.print(achievement(rows), markup=False)
    if advice := recommendation(rows):
        console.print(advice, markup=False)
    final = delivered_row(rows)
    console.print(final_table(both, final))
    if unprotected:
        shown = [one.in_words for one in unprotected[:SHOWN]]
        more = [f"and {len(unprotected) - SHOWN} more classes"] if len(unprotected) > SHOWN else []
        console.print(f"Nobody protects, of the guard: {'; '.join([*shown, *more])}.", markup=False)
    for line in warnings_of(unprotected, final)[:SHOWN]:
        console.print(Text(line, style="yellow"))


def final_table(both: Compared, final: Row | None) -> Table:
    """Dense beside delivered, a line a measure; a rise of false alarms that is shown is coloured.

    Args:
        both: What `comparison.compared` returned.
        final: The row of the delivered network.
    """
    made = Table(title="Dense and delivered", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    made.add_column("class", overflow="fold", max_width=20)
    made.add_column("split")
    made.add_column("")
    made.add_column("dense", justify="right")
    made.add_column("delivered", justify="right")
    for name, splits in both.items():
        risen = final is not None and name in final["classes"] and final["classes"][name]["fp_risen"]
        head = name
        for split, networks in splits.items():
            first = next(iter(networks.values()))
            for place, line in enumerate(first.lines):
                if line.short is None:
                    continue
                before, after = (
                    _told(networks[network].lines[place]) if network in networks else "-"
                    for network in ("dense", "delivered")
                )
                style = "yellow" if risen and line.is_alarm else ""
                made.add_row(Text(head), "" if place else split, line.short, before, Text(after, style=style))
                head = ""
    return made


def _told(line: Line) -> str:
    value = line.value
    if value is None:
        return "-"
    if isinstance(value, Rate):
        return f"{value.count} of {value.cases}" + ("" if value.share is None else f" ({value.share:.1%})")
    return f"{value:.3f}" if isinstance(value, float) else str(value)
