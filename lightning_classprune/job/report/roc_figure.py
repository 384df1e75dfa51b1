"""The ROC curves of the dense and the delivered network on the test split, with the points at which they decide."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from lightning_classprune.job.final_test import Answers
from lightning_classprune.job.measures import curve
from lightning_classprune.ledger.figure import GRID, VERDICTS, WHISKER

STYLES = {
    "dense": {"color": VERDICTS["baseline"]["color"], "linestyle": "--", "marker": "s"},
    "delivered": {"color": VERDICTS["accepted"]["color"], "linestyle": "-", "marker": "o"},
}


def roc_figure(networks: Mapping[str, Answers], name: str) -> Figure | None:
    """Draw both curves of one class; None where the split has no positives or no negatives.

    Args:
        networks: `dense` and `delivered`, or one of them -> what it says of the split.
        name: Of the class.
    """
    drawn = Figure(figsize=(4.9, 4.6), dpi=120, layout="constrained")
    axes = drawn.subplots()
    for network, style in STYLES.items():
        if network not in networks:
            continue
        decisions = networks[network].decisions
        positive, called = decisions.found(decisions.names.index(name))
        points = curve(networks[network].margins[name].double().numpy(), positive.numpy())
        if points is None:
            return None
        axes.plot(*points, color=style["color"], linestyle=style["linestyle"], linewidth=1.4, zorder=3)
        here = float(called[~positive].float().mean()), float(called[positive].float().mean())
        axes.plot(
            *here,
            color=style["color"],
            linestyle="none",
            marker=style["marker"],
            markersize=9,
            markeredgecolor="white",
            zorder=4,
        )
    axes.plot([0, 1], [0, 1], color=WHISKER, linewidth=0.8, linestyle=":", zorder=1)
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)
    axes.set_xlabel("false-alarm rate")
    axes.set_ylabel("recall")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.grid(color=GRID, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    return drawn
