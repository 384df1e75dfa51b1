"""The report's figures: one of the ledger and one ROC plot a protected class, in the page's own colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.colors import to_hex

from lightning_classprune.job.comparison import class_measures
from lightning_classprune.job.final_test import Answers
from lightning_classprune.job.report.inline_svg import inline_svg
from lightning_classprune.job.report.roc_figure import roc_figure
from lightning_classprune.ledger.figure import ALLOWED, GRID, VERDICTS, WHISKER, figure
from lightning_classprune.ledger.rows import Row

# What figures draw in fixed colours, in the page's own, which differ between light and dark.
COLORS = {
    "#000000": "currentColor",
    "#ffffff": "var(--page)",
    to_hex(GRID): "var(--rule)",
    to_hex(WHISKER): "var(--muted)",
    ALLOWED.lower(): "var(--allowed)",
} | {str(style["color"]).lower(): f"var(--{name})" for name, style in VERDICTS.items() if name != "baseline"}


def ledger_figures(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One figure a protected class, so that each fits a narrow screen."""
    names = dict.fromkeys(name for row in rows for name in row["classes"])
    result = []
    for number, name in enumerate(names):
        own = [row.copy() for row in rows]
        for row in own:
            row["classes"] = {key: counts for key, counts in row["classes"].items() if key == name}
        shown = [row for row in own if row["classes"]]
        said = [
            f"{row['sparsity']:.2%} sparsity, {row['verdict']}: {row['classes'][name]['fn']} missed, "
            f"{row['classes'][name]['fp']} false alarms"
            for row in shown
        ]
        drawn = figure(own)
        drawn.set_size_inches(4.9, 6.2)  # a telephone's width at a legible type size
        drawn.suptitle("")  # the page says it, and explains the markers
        drawn.legends[0].remove()
        drawn.axes[0].set_title("")
        first = shown[0]["classes"][name]
        result.append(
            {
                "name": name,
                "support": first["support"],
                "negatives": first["negatives"],
                "cases": ("units", "units") if first.get("rule") else ("samples", "others"),
                "alt": f"Misses and false alarms of {name} against sparsity. {'; '.join(said)}.",
                "svg": inline_svg(drawn, f"figure{number}", COLORS),
            }
        )
    return result


def roc_figures(test: Mapping[str, Answers], protected: Sequence[str]) -> list[dict[str, Any]]:
    """The ROC curves of each protected class on the test split; none where they are not known."""
    result = []
    for number, name in enumerate(protected):
        drawn = roc_figure(test, name) if test else None
        if drawn is None:
            continue
        both = {network: class_measures(one, name) for network, one in test.items()}
        said = [
            f"{network}: area {one.auc:.3f}, decides at {1 - (one.missed.share or 0):.1%} recall and "
            f"{one.alarms.share or 0:.1%} false alarms"
            for network, one in both.items()
        ]
        result.append(
            {
                "name": name,
                "alt": f"ROC curves of {name} on the test data. {'; '.join(said)}.",
                "svg": inline_svg(drawn, f"roc{number}", COLORS),
            }
        )
    return result
