"""The figures of the paper's experiment."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap
from sklearn.metrics import roc_curve

from benchmarks.paper.files import Job
from benchmarks.paper.tables import Row

Arms = dict[str, dict[int, Job]]


def against_density(rows: list[Row], measure: str, label: str, file: Path) -> None:
    """Draw the mean over seeds with the band from the smallest to the largest seed, one line an arm."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for arm in dict.fromkeys(row["arm"] for row in rows):
        mine = [row for row in rows if row["arm"] == arm]
        densities = sorted({row["density"] for row in mine})
        values = [[row[measure] for row in mine if row["density"] == density] for density in densities]
        name = f"{arm} ({len({row['seed'] for row in mine})} seeds)"
        (line,) = axes.plot(densities, [np.mean(v) for v in values], marker="o", ms=3, label=name)
        low, high = [min(v) for v in values], [max(v) for v in values]
        axes.fill_between(densities, low, high, color=line.get_color(), alpha=0.12)
    axes.set_xscale("log", base=2)
    axes.invert_xaxis()
    axes.set(
        xlabel="density (share of weights kept)",
        ylabel=label,
        title=f"{rows[0]['data']}: mean, range of seeds",
    )
    axes.legend(fontsize=8)
    save(figure, file)


def roc(arms: Arms, density: float, file: Path) -> None:
    """Draw each arm's ROC curve on test at a density, averaged over seeds at equal false-positive rates."""
    figure, axes = plt.subplots(figsize=(5.5, 5), layout="constrained")
    grid = np.linspace(0, 1, 501)
    data = ""
    for arm, seeds in arms.items():
        curves = []
        for job in seeds.values():
            data = job.data
            if density in job.densities:
                scored = job.scored("test")[list(job.densities).index(density)]
                fpr, tpr, _ = roc_curve(scored.positive, scored.score)
                curves.append(np.interp(grid, fpr, tpr))
        if curves:
            axes.plot(grid, np.mean(curves, axis=0), label=f"{arm} ({len(curves)} seeds)")
    axes.set(
        xlabel="false-positive rate", ylabel="recall", title=f"{data}: ROC on test at {density:.2%} density"
    )
    axes.legend(fontsize=8)
    save(figure, file)


def strip(rows: list[Row], file: Path) -> None:
    """Draw one line a run and one cell a round: stands, not proven, or after the end; a cross where harmful on test."""
    runs = list(dict.fromkeys((row["arm"], row["seed"]) for row in rows))
    densities = sorted({row["density"] for row in rows}, reverse=True)
    figure, axes = plt.subplots(figsize=(7, 1.2 + 0.16 * len(runs)), layout="constrained")
    cells = np.full((len(runs), len(densities)), np.nan)
    for row in rows:
        at = runs.index((row["arm"], row["seed"])), densities.index(row["density"])
        cells[at] = 0 if row["stands"] else 1 if not row["proven"] else 2
        if row["rise on test"] >= row["tolerance"]:
            axes.plot(at[1], at[0], "kx", ms=3.5)
    axes.imshow(cells, aspect="auto", cmap=ListedColormap(["#4c9f70", "#c8553d", "#d9d9d9"]), vmin=0, vmax=2)
    axes.set_xticks(range(len(densities)), [f"{density:.3g}" for density in densities])
    axes.set_yticks(range(len(runs)), [f"{arm} {seed}" for arm, seed in runs], fontsize=6)
    axes.set_xlabel("density")
    tolerance = rows[0]["tolerance"]
    axes.set_title(
        f"{rows[0]['data']}, tolerance {tolerance:g}: green stands, red not proven, grey proven after a refusal;\n"
        "cross: rise on test at or above the tolerance",
        fontsize=9,
    )
    save(figure, file)


def save(figure: plt.Figure, file: Path) -> None:
    figure.savefig(file, dpi=120)
    plt.close(figure)
