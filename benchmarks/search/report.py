"""The table and the picture of all runs that there are."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.search.arms import ARMS, DATA
from benchmarks.support import markdown, read_runs, write


def report(runs: Path, out: Path) -> None:
    """Write search.md and search.png of all runs that there are."""
    results = read_runs(runs)
    names = [name for name in DATA if any(r["data"] == name for r in results)]
    text = [
        "# Search: how soon, how sparse, at what cost in misses",
        "",
        "`python -m benchmarks.search --help` explains how this was made. Tolerance .05, confidence .95, no retries",
        "unless said; median over seeds [lowest, highest]; FN, FP and AUC are means on the test split.",
        "",
    ]
    picture = Figure(figsize=(6.5 * len(names), 4.8), dpi=120, layout="constrained")
    for axes, name in zip(picture.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        of_data = [r for r in results if r["data"] == name]
        text += table(name, of_data)
        scatter(axes, name, of_data)
    text += ["", "## Arms", "", *(f"- **{name}**: {arm.about}" for name, arm in ARMS.items())]
    write(out / "search.md", text)
    picture.savefig(out / "search.png")


def table(name: str, results: list[dict[str, Any]]) -> list[str]:
    first = results[0]
    rows = []
    for arm in ARMS:
        of_arm = [r for r in results if r["arm"] == arm]
        if not of_arm:
            continue
        row = {"arm": arm, "seeds": len(of_arm), "pruned in": sum(r["density"] < 1 for r in of_arm)}
        row |= {"density": spread([100 * r["density"] for r in of_arm], "{:.3g}%")}
        for head, key in (("epochs", "epochs"), ("all epochs", "all_epochs"), ("seconds", "seconds")):
            row |= {head: spread([r[key] for r in of_arm], "{:.0f}")}
        for head, key in (("FN", "fn"), ("FP", "fp"), ("FN at 5% FPR", "fn_at_fpr")):
            row |= {head: f"{statistics.mean(r[key] for r in of_arm):.1f}"}
        rows.append(row | {"AUC": f"{statistics.mean(r['auc'] for r in of_arm):.3f}"})
    counts = f"{first['positives']} positives and {first['negatives']} negatives in test"
    return [
        f"## {name}",
        "",
        f"{counts}, {first['parameters']} parameters.",
        "",
        markdown(rows),
        "",
        *against_a_fifth(results),
        "",
        *verdicts(results),
        "",
    ]


def against_a_fifth(results: list[dict[str, Any]]) -> list[str]:
    """Seed by seed, when each adaptive arm was at the density that a fifth a round came to."""
    slow = {r["seed"]: r for r in results if r["arm"] == "fixed 20%, init"}
    lines = ["Epochs to the density that 'fixed 20%, init' delivered with the same seed:", ""]
    for arm in ("adaptive, lr", "adaptive, lr, one retry"):
        for r in sorted((r for r in results if r["arm"] == arm), key=lambda r: r["seed"]):
            if (other := slow.get(r["seed"])) is None:
                continue
            total, reached = 0, None
            for row in r["rows"]:
                total += row["epochs"]
                if reached is None and row["verdict"] in ("baseline", "accepted"):
                    reached = total if 1 - row["sparsity"] <= other["density"] + 1e-9 else None
            said = (
                "not reached"
                if reached is None
                else f"{reached} epochs, {reached / other['epochs']:.0%} of its"
            )
            lines.append(
                f"- {arm}, seed {r['seed']}: {100 * other['density']:.3g}% in {other['epochs']} epochs; {said}; "
                f"delivered {100 * r['density']:.3g}% with test FN {r['fn']} against {other['fn']}"
            )
    return lines


def spread(values: list[float], form: str) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{form.format(middle)} [{form.format(low)}, {form.format(high)}]"


def verdicts(results: list[dict[str, Any]]) -> list[str]:
    """The path of every run: density and verdict of each attempt."""
    short: dict[str, str] = {"accepted": "+", "refused": "-", "unproven": "?", "abandoned": "x"}
    lines = [
        "Attempts, as density in % and verdict (+ accepted, - refused, ? unproven, x abandoned untested):",
        "",
    ]
    for arm in ARMS:
        for r in sorted((r for r in results if r["arm"] == arm and r["rows"]), key=lambda r: r["seed"]):
            path = " ".join(
                f"{100 * (1 - row['sparsity']):.2g}{short[row['verdict']]}" for row in r["rows"][1:]
            )
            lines.append(f"- {arm}, seed {r['seed']}: {path}")
    return lines


def scatter(axes: Any, name: str, results: list[dict[str, Any]]) -> None:
    markers = "os^vDPX<>*h"
    for number, arm in enumerate(name for name, one in ARMS.items() if one.prunes):
        of_arm = [r for r in results if r["arm"] == arm]
        axes.scatter(
            [r["epochs"] for r in of_arm],
            [100 * r["density"] for r in of_arm],
            label=arm,
            marker=markers[number],
            color=f"C{number}",
            alpha=0.75,
        )
    axes.set(xscale="log", yscale="log", title=name, xlabel="epochs until then", ylabel="accepted density, %")
    axes.grid(color="0.9")
    axes.legend(fontsize=7)
